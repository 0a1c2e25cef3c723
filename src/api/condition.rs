//! Conditions: what holds of an object, since when, and why.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One condition, in the shape of `metav1.Condition`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about: `Ready`, `DiskPressure`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds; nothing: not known.
    #[serde(with = "status")]
    pub status: Option<bool>,
    /// One word for programs.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Timestamp,
}

impl Condition {
    /// Puts a condition into a list: the time of the change is kept while the status stays. Says whether anything changed.
    pub fn set(list: &mut Vec<Self>, mut new: Self) -> bool {
        if let Some(old) = list.iter_mut().find(|c| c.kind == new.kind) {
            if old.status == new.status {
                new.last_transition_time = old.last_transition_time;
            }
            let changed = *old != new;
            *old = new;
            changed
        } else {
            list.push(new);
            true
        }
    }
}

/// `True`, `False` and `Unknown`, as Kubernetes writes them.
mod status {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    #[expect(
        clippy::ref_option,
        clippy::trivially_copy_pass_by_ref,
        reason = "serde's `with` passes a reference to the field"
    )]
    pub(super) fn serialize<S: Serializer>(status: &Option<bool>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(match status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        })
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<bool>, D::Error> {
        match String::deserialize(from)?.as_str() {
            "True" => Ok(Some(true)),
            "False" => Ok(Some(false)),
            "Unknown" => Ok(None),
            _ => Err(de::Error::custom("not True, False or Unknown")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_change_is_kept_while_the_status_stays() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let make = |status, second, message: &str| Condition {
            kind: "Ready".into(),
            status,
            reason: "R".into(),
            message: message.into(),
            last_transition_time: at(second),
        };
        let mut list = Vec::new();
        assert!(Condition::set(&mut list, make(Some(true), 1, "a")));
        assert!(!Condition::set(&mut list, make(Some(true), 2, "a")));
        assert!(Condition::set(&mut list, make(Some(true), 3, "b")));
        assert_eq!(list[0].last_transition_time, at(1));
        assert!(Condition::set(&mut list, make(None, 4, "b")));
        assert_eq!(list[0].last_transition_time, at(4));
        let json = serde_json::to_string(&list[0]).unwrap();
        assert!(json.contains("\"Unknown\"") && json.contains("lastTransitionTime"), "{json}");
        assert_eq!(serde_json::from_str::<Condition>(&json).unwrap(), list[0]);
    }
}
