//! YAML events to values: aliases written out within a budget, merge keys, duplicate keys refused.

use std::collections::HashMap;

use serde_json::{Map, Value};
use serde_yaml::granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, Tag};

use super::{Budget, Documents, MAX_DEPTH, TextError, scalar};

/// The key that merges maps (YAML 1.1).
const MERGE: &str = "<<";

/// A value, and what it costs to repeat it.
#[derive(Debug, Clone)]
struct Node {
    value: Value,
    values: usize,
    text: usize,
    /// How deep it nests: aliases of aliases would otherwise build a tree too deep to walk.
    height: usize,
}

/// Reads every document of a text.
pub(super) fn read(text: &str) -> Result<Documents, TextError> {
    let mut options = Options::default();
    options.emit_comments = false;
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH * 2;
    let mut reader = Reader {
        events: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        budget: Budget::default(),
    };
    let mut documents = Documents::new();
    let mut index = 0;
    while let Some(event) = reader.events.next() {
        let (event, span) = event.map_err(syntax)?;
        match event {
            Event::DocumentStart(..) => {
                index += 1;
                reader.anchors.clear();
            }
            Event::StreamStart | Event::DocumentEnd => {}
            Event::StreamEnd => break,
            event => {
                let mut fault = None;
                let node = reader.node(event, span, 0, &mut fault)?;
                match fault {
                    Some(error) => documents.push((index, Err(error))),
                    None if node.value.is_null() => {}
                    None => documents.push((index, Ok(node.value))),
                }
            }
        }
    }
    Ok(documents)
}

fn syntax(error: ScanError) -> TextError {
    TextError::Syntax {
        format: "YAML",
        line: error.marker().line(),
        column: error.marker().col() + 1,
        reason: error.info(),
    }
}

struct Reader<'t> {
    events: Parser<'t, serde_yaml::granit_parser::StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    budget: Budget,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), TextError> {
        match self.events.next() {
            Some(event) => event.map_err(syntax),
            None => Err(TextError::Syntax { format: "YAML", line: 0, column: 0, reason: "breaks off".to_owned() }),
        }
    }

    /// Reads the node that `event` begins. A fault that spoils this document only goes to `fault`, the first one stays;
    /// an error spoils the file: grammar, or a limit.
    fn node(
        &mut self,
        event: Event<'t>,
        span: Span,
        depth: usize,
        fault: &mut Option<TextError>,
    ) -> Result<Node, TextError> {
        let line = span.start.line();
        if depth > MAX_DEPTH {
            return Err(TextError::Limit { what: format!("deeper than {MAX_DEPTH}"), line });
        }
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = plain(&text, style, tag.as_deref()).unwrap_or_else(|what| {
                    fault.get_or_insert(TextError::Value { what, line });
                    Value::Null
                });
                self.budget.spend(1, text.len(), line)?;
                (Node { value, values: 1, text: text.len(), height: 0 }, anchor)
            }
            Event::Alias(id) => {
                // An alias inside of its own anchor has nothing to stand for yet.
                let Some(node) = self.anchors.get(&id) else {
                    fault
                        .get_or_insert(TextError::Value { what: "an alias stands within its own anchor".into(), line });
                    return Ok(Node { value: Value::Null, values: 1, text: 0, height: 0 });
                };
                if depth + node.height > MAX_DEPTH {
                    return Err(TextError::Limit { what: format!("deeper than {MAX_DEPTH}"), line });
                }
                self.budget.spend(node.values, node.text, line)?;
                return Ok(node.clone());
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.budget.spend(1, 0, line)?;
                collection_tag(tag.as_deref(), "seq", line, fault);
                (self.sequence(depth, fault)?, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.budget.spend(1, 0, line)?;
                collection_tag(tag.as_deref(), "map", line, fault);
                (self.mapping(depth, fault)?, anchor)
            }
            _ => return Err(TextError::Syntax { format: "YAML", line, column: 0, reason: "breaks off".to_owned() }),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn sequence(&mut self, depth: usize, fault: &mut Option<TextError>) -> Result<Node, TextError> {
        let mut list = Vec::new();
        let (mut values, mut text, mut height) = (1, 0, 0);
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Node { value: Value::Array(list), values, text, height: height + 1 });
            }
            let node = self.node(event, span, depth + 1, fault)?;
            values += node.values;
            text += node.text;
            height = height.max(node.height);
            list.push(node.value);
        }
    }

    fn mapping(&mut self, depth: usize, fault: &mut Option<TextError>) -> Result<Node, TextError> {
        let mut map = Map::new();
        let mut merged = Vec::new();
        let (mut values, mut text, mut height) = (1, 0, 0);
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let line = span.start.line();
            let merges = matches!(&event, Event::Scalar(t, ScalarStyle::Plain, _, None) if t == MERGE);
            let key = self.node(event, span, depth + 1, fault)?;
            let (event, span) = self.next()?;
            let node = self.node(event, span, depth + 1, fault)?;
            values += key.values + node.values;
            text += key.text + node.text;
            height = height.max(node.height);
            if merges {
                match node.value {
                    Value::Object(one) => merged.push(one),
                    Value::Array(many) if many.iter().all(Value::is_object) => {
                        merged.extend(
                            many.into_iter().filter_map(|v| if let Value::Object(m) = v { Some(m) } else { None }),
                        );
                    }
                    _ => {
                        fault.get_or_insert(TextError::Value { what: "\"<<\" merges maps only".into(), line });
                    }
                }
                continue;
            }
            let key = match key.value {
                Value::String(key) => key,
                Value::Bool(key) => key.to_string(),
                Value::Number(key) if !key.is_f64() => key.to_string(),
                _ => {
                    fault.get_or_insert(TextError::Value { what: "a key must be a string".into(), line });
                    continue;
                }
            };
            if map.contains_key(&key) {
                fault.get_or_insert(TextError::Duplicate { key, line });
            } else {
                map.insert(key, node.value);
            }
        }
        // What is written out wins over what is merged, and of merged maps the first.
        for (key, value) in merged.into_iter().flatten() {
            map.entry(key).or_insert(value);
        }
        Ok(Node { value: Value::Object(map), values, text, height: height + 1 })
    }
}

/// The value of a scalar by its style and tag.
fn plain(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let implied = || scalar::resolve(text).map_err(|_| "a number must be finite".to_owned());
    let Some(tag) = tag else {
        return if style == ScalarStyle::Plain { implied() } else { Ok(text.into()) };
    };
    let fits = |value: Value, fits: bool, name: &str| {
        if fits { Ok(value) } else { Err(format!("the value does not fit its tag !!{name}")) }
    };
    match tag.core_suffix() {
        Some("str") => Ok(text.into()),
        Some("int") => implied().and_then(|v| {
            let good = v.is_i64() || v.is_u64();
            fits(v, good, "int")
        }),
        Some("float") => implied().and_then(|v| {
            let good = v.is_number();
            fits(v, good, "float")
        }),
        Some("bool") => implied().and_then(|v| {
            let good = v.is_boolean();
            fits(v, good, "bool")
        }),
        Some("null") => implied().and_then(|v| {
            let good = v.is_null();
            fits(v, good, "null")
        }),
        _ if tag.handle().is_empty() && tag.suffix() == "!" || tag.handle() == "!" && tag.suffix().is_empty() => {
            Ok(text.into())
        }
        _ => Err("tags other than YAML's own are not supported".to_owned()),
    }
}

fn collection_tag(tag: Option<&Tag>, own: &str, line: usize, fault: &mut Option<TextError>) {
    if let Some(tag) = tag
        && tag.core_suffix() != Some(own)
    {
        fault.get_or_insert(TextError::Value { what: "tags other than YAML's own are not supported".to_owned(), line });
    }
}
