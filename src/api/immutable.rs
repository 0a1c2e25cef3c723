//! `immutable: true` of ConfigMaps and Secrets: what may not change of them until they are deleted.

use super::document::Object;

const REASON: &str = "must not change: the object is immutable; delete it first";
/// That it is so, too.
const FLAG: &str = "must stay true; delete the object first";

/// What a change of an object changes that must not be: path and reason. `None`: it may be changed so.
pub fn refused(old: &Object, new: &Object) -> Option<(&'static str, &'static str)> {
    let first = |changed: &[(&'static str, bool)], stays: bool| {
        let field = changed.iter().find(|(_, changed)| *changed).map(|(field, _)| (*field, REASON));
        if stays { field } else { Some(("immutable", FLAG)) }
    };
    match (old, new) {
        (Object::ConfigMap(old), Object::ConfigMap(new)) if old.immutable == Some(true) => {
            let changed = [("data", old.data != new.data), ("binaryData", old.binary_data != new.binary_data)];
            first(&changed, new.immutable == Some(true))
        }
        (Object::Secret(old), Object::Secret(new)) if old.immutable == Some(true) => {
            first(&[("data", old.data != new.data), ("type", old.type_ != new.type_)], new.immutable == Some(true))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::parse;
    use super::*;

    fn object(kind: &str, rest: &str) -> Object {
        let text = format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: x}}\n{rest}");
        parse("x.yaml", text.as_bytes()).documents.remove(0).object
    }

    #[test]
    fn an_immutable_object_keeps_its_data_and_may_change_its_labels() {
        for (kind, data) in [("ConfigMap", "data"), ("Secret", "stringData")] {
            let old = object(kind, &format!("immutable: true\n{data}: {{a: b}}\n"));
            let changed = object(kind, &format!("immutable: true\n{data}: {{a: c}}\n"));
            let open = object(kind, &format!("{data}: {{a: b}}\n"));
            assert_eq!(refused(&old, &changed).map(|r| r.0), Some("data"));
            assert_eq!(refused(&old, &open).map(|r| r.0), Some("immutable"));
            assert_eq!(refused(&old, &old), None);
            assert_eq!(refused(&open, &changed), None, "one that is not may become so");
        }
    }
}
