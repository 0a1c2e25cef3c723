//! JSON to values, several in a row; duplicate keys are refused, which `serde_json` alone does not do.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Documents, MAX_VALUES, TextError};

/// Reads every document of a text. JSON has no aliases and `serde_json` limits depth, so the count of values is all that
/// has to be watched here.
pub(super) fn read(text: &str) -> Result<Documents, TextError> {
    let mut documents = Documents::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Node>();
    let mut index = 0;
    let mut values = 0_usize;
    loop {
        let start = stream.byte_offset();
        let Some(node) = stream.next() else { return Ok(documents) };
        let node = node.map_err(|error| syntax(&error))?;
        index += 1;
        let line = 1 + text[..start].bytes().filter(|b| *b == b'\n').count();
        values = values.saturating_add(node.values);
        if values > MAX_VALUES {
            return Err(TextError::Limit { what: too_many(), line });
        }
        match node.duplicate {
            Some(key) => documents.push((index, Err(TextError::Duplicate { key, line }))),
            None if node.value.is_null() => {}
            None => documents.push((index, Ok(node.value))),
        }
    }
}

fn too_many() -> String {
    format!("more than {MAX_VALUES} values")
}

fn syntax(error: &serde_json::Error) -> TextError {
    let text = error.to_string();
    let reason = text.rfind(" at line ").map_or(text.as_str(), |at| &text[..at]);
    TextError::Syntax { format: "JSON", line: error.line(), column: error.column(), reason: reason.to_owned() }
}

/// A value, how many values it holds, and the first key that it has twice.
struct Node {
    value: Value,
    values: usize,
    duplicate: Option<String>,
}

impl Node {
    fn scalar(value: Value) -> Self {
        Self { value, values: 1, duplicate: None }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::scalar(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let (mut list, mut values, mut duplicate) = (Vec::new(), 1_usize, None);
        while let Some(node) = access.next_element::<Node>()? {
            values += node.values;
            if values > MAX_VALUES {
                return Err(A::Error::custom(too_many()));
            }
            duplicate = duplicate.or(node.duplicate);
            list.push(node.value);
        }
        Ok(Node { value: Value::Array(list), values, duplicate })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let (mut map, mut values, mut duplicate) = (Map::new(), 1_usize, None);
        while let Some(key) = access.next_key::<String>()? {
            let node = access.next_value::<Node>()?;
            values += node.values + 1;
            if values > MAX_VALUES {
                return Err(A::Error::custom(too_many()));
            }
            duplicate = duplicate.or(node.duplicate);
            if map.contains_key(&key) {
                duplicate.get_or_insert(key);
            } else {
                map.insert(key, node.value);
            }
        }
        Ok(Node { value: Value::Object(map), values, duplicate })
    }
}
