//! Plain values to Kubernetes types, strictly: every unknown field and every misfit by its path.
//!
//! The types drop unknown fields in silence, so this deserialiser watches what they ignore. As in Go, `null` is the same
//! as leaving a field out, and a quantity may be written as a number. Reasons never repeat a value.

use std::fmt::{self, Display};

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer as _, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde_json::Value;

/// How many misfits of one document are looked for; a person fixes the first few and tries again.
const MAX_MISFITS: usize = 16;

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misfit {
    /// The field, as in `spec.containers[0].image`.
    pub(super) path: String,
    /// What is wrong with it.
    pub(super) reason: String,
}

/// Reads a document as a type; all misfits otherwise.
pub(super) fn decode<T: DeserializeOwned>(document: &Value) -> Result<T, Vec<Misfit>> {
    let mut misfits = Vec::new();
    let mut patched = None;
    loop {
        let value: &Value = patched.as_ref().unwrap_or(document);
        let mut unknown = Vec::new();
        let result = T::deserialize(Reader { value, path: Path::Root, unknown: &mut unknown, quantity: false });
        let error = match result {
            Ok(object) => {
                misfits.splice(
                    0..0,
                    unknown.into_iter().map(|path| Misfit { path, reason: "is not a known field".into() }),
                );
                return if misfits.is_empty() { Ok(object) } else { Err(misfits) };
            }
            Err(error) => error,
        };
        let path = error.path.unwrap_or_default();
        let again = misfits.iter().any(|m: &Misfit| m.path == path);
        misfits.push(Misfit { path: path.clone(), reason: error.reason });
        let mut next = patched.take().unwrap_or_else(|| document.clone());
        // The bad value is taken out, to see what else is wrong.
        let taken = !again && misfits.len() < MAX_MISFITS && take(&mut next, &path);
        if !taken {
            misfits
                .splice(0..0, unknown.into_iter().map(|path| Misfit { path, reason: "is not a known field".into() }));
            return Err(misfits);
        }
        patched = Some(next);
    }
}

/// Puts null where a path leads to.
fn take(value: &mut Value, path: &str) -> bool {
    let Some(place) = find(value, path) else { return false };
    if path.is_empty() || place.is_null() {
        return false;
    }
    *place = Value::Null;
    true
}

fn find<'v>(value: &'v mut Value, path: &str) -> Option<&'v mut Value> {
    if path.is_empty() {
        return Some(value);
    }
    if let Some(rest) = path.strip_prefix('[') {
        // A key with characters of the path's own syntax is written in quotes.
        if let Some(quoted) = rest.strip_prefix('"') {
            let (key, rest) = quoted.split_once("\"]")?;
            return find(value.get_mut(key)?, rest);
        }
        let (index, rest) = rest.split_once(']')?;
        return find(value.get_mut(index.parse::<usize>().ok()?)?, rest);
    }
    let path = path.strip_prefix('.').unwrap_or(path);
    let end = path.find(['.', '[']).unwrap_or(path.len());
    find(value.get_mut(&path[..end])?, &path[end..])
}

/// Where a value is, as a list on the stack.
#[derive(Clone, Copy)]
pub(super) enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) if plain_key(key) => f.write_str(key),
            Self::Key(parent, key) if plain_key(key) => write!(f, "{parent}.{key}"),
            Self::Key(parent, key) => write!(f, "{parent}[\"{key}\"]"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

fn plain_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// What serde says, without the value it says it of.
#[derive(Debug)]
struct Error {
    path: Option<String>,
    reason: String,
}

impl Error {
    fn at(mut self, path: &Path<'_>) -> Self {
        self.path.get_or_insert_with(|| path.to_string());
        self
    }
}

impl std::error::Error for Error {}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl de::Error for Error {
    fn custom<T: Display>(message: T) -> Self {
        let message = message.to_string();
        // Base64 decoders name the offending byte, which may be a secret's.
        let reason = if message.starts_with("Invalid ") { "must be base64".to_owned() } else { message };
        Self { path: None, reason }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self { path: None, reason: format!("must be {}, not {}", wanted(expected), kind(found)) }
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        match found {
            Unexpected::Signed(_) | Unexpected::Unsigned(_) => {
                Self { path: None, reason: format!("must be {} within its range", wanted(expected)) }
            }
            _ => Self { path: None, reason: format!("must be {}", wanted(expected)) },
        }
    }
}

fn wanted(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" => "a whole number".to_owned(),
        "f64" | "f32" => "a number".to_owned(),
        "a sequence" => "a list".to_owned(),
        "Quantity" => "a quantity".to_owned(),
        "IntOrString" => "a whole number or a string".to_owned(),
        "Time" => "a time".to_owned(),
        _ if text.as_bytes().first().is_some_and(u8::is_ascii_uppercase) => format!("a map ({text})"),
        _ => text,
    }
}

fn kind(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a number with a fraction",
        Unexpected::Str(_) | Unexpected::Char(_) => "a string",
        Unexpected::Seq => "a list",
        Unexpected::Map | Unexpected::StructVariant => "a map",
        Unexpected::Unit | Unexpected::Option => "null",
        _ => "something else",
    }
}

struct Reader<'v, 'p> {
    value: &'v Value,
    path: Path<'p>,
    unknown: &'p mut Vec<String>,
    /// A number will do as a string.
    quantity: bool,
}

impl Reader<'_, '_> {
    fn misfit(&self, expected: &dyn Expected) -> Error {
        let found = match self.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(b) => Unexpected::Bool(*b),
            Value::Number(n) if n.is_f64() => Unexpected::Float(0.0),
            Value::Number(_) => Unexpected::Signed(0),
            Value::String(_) => Unexpected::Str(""),
            Value::Array(_) => Unexpected::Seq,
            Value::Object(_) => Unexpected::Map,
        };
        <Error as de::Error>::invalid_type(found, expected).at(&self.path)
    }

    fn integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let path = self.path;
        match self.value {
            Value::Null => visitor.visit_u64(0),
            Value::Number(n) => match (n.as_u64(), n.as_i64()) {
                (Some(n), _) => visitor.visit_u64(n),
                (_, Some(n)) => visitor.visit_i64(n),
                _ => Err(self.misfit(&visitor)),
            },
            _ => Err(self.misfit(&visitor)),
        }
        .map_err(|e| e.at(&path))
    }
}

macro_rules! integers {
    ($($name:ident)*) => {
        $(fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.integer(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Reader<'_, '_> {
    type Error = Error;

    integers! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
    deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let path = self.path;
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Number(n) if n.is_f64() => visitor.visit_f64(n.as_f64().unwrap_or_default()),
            Value::Number(_) => return self.integer(visitor),
            Value::String(s) => visitor.visit_str(s),
            Value::Array(_) => return self.deserialize_seq(visitor),
            Value::Object(_) => return self.deserialize_map(visitor),
        }
        .map_err(|e: Error| e.at(&path))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_bool(false),
            Value::Bool(b) => visitor.visit_bool(*b),
            _ => Err(self.misfit(&visitor)),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_f64(0.0),
            Value::Number(n) => visitor.visit_f64(n.as_f64().unwrap_or_default()),
            _ => Err(self.misfit(&visitor)),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let path = self.path;
        match self.value {
            Value::Null => visitor.visit_str(""),
            Value::String(s) => visitor.visit_str(s),
            Value::Number(n) if self.quantity => visitor.visit_str(&n.to_string()),
            _ => Err(self.misfit(&visitor)),
        }
        .map_err(|e: Error| e.at(&path))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        let path = self.path;
        let quantity = name == "Quantity";
        visitor.visit_newtype_struct(Self { quantity, ..self }).map_err(|e| e.at(&path))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let path = self.path;
        let list = match self.value {
            Value::Null => &[][..],
            Value::Array(list) => list,
            _ => return Err(self.misfit(&visitor)),
        };
        visitor.visit_seq(Items { list, next: 0, path: &path, unknown: self.unknown }).map_err(|e| e.at(&path))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let path = self.path;
        let empty = serde_json::Map::new();
        let map = match self.value {
            Value::Null => &empty,
            Value::Object(map) => map,
            _ => return Err(self.misfit(&visitor)),
        };
        visitor
            .visit_map(Entries { fields: map.iter(), current: None, path: &path, unknown: self.unknown })
            .map_err(|e| e.at(&path))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    /// Only a field that no type has is ignored.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.unknown.push(self.path.to_string());
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

struct Items<'v, 'p> {
    list: &'v [Value],
    next: usize,
    path: &'p Path<'p>,
    unknown: &'p mut Vec<String>,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(value) = self.list.get(self.next) else { return Ok(None) };
        let path = Path::Index(self.path, self.next);
        self.next += 1;
        let reader = Reader { value, path, unknown: self.unknown, quantity: false };
        seed.deserialize(reader).map(Some).map_err(|e| e.at(&path))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.list.len() - self.next)
    }
}

struct Entries<'v, 'p> {
    fields: serde_json::map::Iter<'v>,
    current: Option<(&'v str, &'v Value)>,
    path: &'p Path<'p>,
    unknown: &'p mut Vec<String>,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.fields.next() else { return Ok(None) };
        self.current = Some((key, value));
        let key: StrDeserializer<'_, Error> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, value) =
            self.current.take().ok_or_else(|| <Error as de::Error>::custom("a value was asked for twice"))?;
        let path = Path::Key(self.path, key);
        let reader = Reader { value, path, unknown: self.unknown, quantity: false };
        seed.deserialize(reader).map_err(|e| e.at(&path))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, Secret};
    use serde_json::json;

    use super::*;

    fn misfits(value: Value) -> Vec<(String, String)> {
        decode::<Pod>(&value).unwrap_err().into_iter().map(|m| (m.path, m.reason)).collect()
    }

    #[test]
    fn every_unknown_field_and_every_misfit_is_named_by_path() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": 1, "lables": {}},
            "spec": {
                "containers": [
                    {"name": "a", "imagee": "x", "env": [{"name": "A", "value": 1}]},
                    {"name": "b", "ports": [{"containerPort": "80"}, {"containerPort": 4_294_967_296_i64}]}
                ],
                "hostNetwork": "yes"
            }
        });
        let mut found = misfits(pod);
        found.sort();
        let found: Vec<_> = found.iter().map(|(p, r)| (p.as_str(), r.as_str())).collect();
        assert_eq!(
            found,
            [
                ("metadata.lables", "is not a known field"),
                ("metadata.name", "must be a string, not a whole number"),
                ("spec.containers[0].env[0].value", "must be a string, not a whole number"),
                ("spec.containers[0].imagee", "is not a known field"),
                ("spec.containers[1].ports[0].containerPort", "must be a whole number, not a string"),
                ("spec.containers[1].ports[1].containerPort", "must be a whole number within its range"),
                ("spec.hostNetwork", "must be a boolean, not a string"),
            ]
        );
    }

    #[test]
    fn null_is_the_same_as_nothing_and_quantities_may_be_numbers() {
        let pod: Pod = decode(&json!({
            "metadata": {"name": "a", "creationTimestamp": null},
            "spec": {"containers": [{"name": "a", "command": null, "resources": {"limits": {"cpu": 1.5, "memory": 64}}}]},
            "status": null
        }))
        .unwrap();
        let limits = pod.spec.unwrap().containers[0].resources.clone().unwrap().limits.unwrap();
        assert_eq!((limits["cpu"].0.as_str(), limits["memory"].0.as_str()), ("1.5", "64"));
    }

    #[test]
    fn a_reason_never_repeats_a_value() {
        for data in [json!({"k": "CANARY!"}), json!({"k": 7_654_321}), json!("CANARY")] {
            let found = decode::<Secret>(&json!({"data": data})).unwrap_err();
            let text = format!("{found:?}");
            assert!(!text.contains("CANARY") && !text.contains("7654321") && !text.contains("33"), "{text}");
        }
    }

    #[test]
    fn keys_with_dots_are_quoted_in_paths() {
        let found = decode::<Pod>(&json!({"metadata": {"labels": {"a.b/c": 1, "d": 2}}})).unwrap_err();
        let paths: Vec<_> = found.iter().map(|m| m.path.as_str()).collect();
        assert_eq!(paths, ["metadata.labels[\"a.b/c\"]", "metadata.labels.d"]);
    }
}
