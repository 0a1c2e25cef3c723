//! Label selectors, as `kubectl -l` reads them: `a=b, c!=d, e in (f,g), h notin (i), j, !k`.

use std::collections::BTreeMap;
use std::str::FromStr;

/// A text is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the selector {text:?} is not right at {at:?}")]
pub struct SelectorError {
    text: String,
    at: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

/// All its rules must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector(Vec<Rule>);

impl Selector {
    /// Whether an object with these labels is meant.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|rule| match rule {
            Rule::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Rule::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Rule::Exists(key) => labels.contains_key(key),
            Rule::Missing(key) => !labels.contains_key(key),
        })
    }
}

/// Splits at commas outside brackets.
fn parts(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut out) = (0_usize, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                out.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn word(text: &str) -> Option<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    (text.len() <= 317 && text.bytes().all(good)).then(|| text.to_owned())
}

fn key(text: &str) -> Option<String> {
    word(text.trim()).filter(|key| !key.is_empty())
}

fn set(text: &str) -> Option<Vec<String>> {
    let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
    inner.split(',').map(|value| word(value.trim())).collect()
}

fn rule(text: &str) -> Option<Rule> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('!') {
        return key(rest).map(Rule::Missing);
    }
    if let Some((name, values)) = text.split_once(" notin ") {
        return Some(Rule::NotIn(key(name)?, set(values)?));
    }
    if let Some((name, values)) = text.split_once(" in ") {
        return Some(Rule::In(key(name)?, set(values)?));
    }
    if let Some((name, value)) = text.split_once("!=") {
        return Some(Rule::NotIn(key(name)?, vec![word(value.trim())?]));
    }
    if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Some(Rule::In(key(name)?, vec![word(value.trim())?]));
    }
    key(text).map(Rule::Exists)
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let error = |at: &str| SelectorError { text: text.to_owned(), at: at.trim().to_owned() };
        parts(text).into_iter().map(|part| rule(part).ok_or_else(|| error(part))).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_form_selects_what_kubernetes_selects() {
        let web = labels(&[("app", "web"), ("tier", "front")]);
        for (text, matches) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app=db", false),
            ("app!=db", true),
            ("missing!=db", true),
            ("app in (db, web)", true),
            ("app in (db),tier=front", false),
            ("app notin (db,cache)", true),
            ("app", true),
            ("!app", false),
            ("!missing", true),
            ("missing in (a)", false),
        ] {
            assert_eq!(text.parse::<Selector>().unwrap().matches(&web), matches, "{text}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused_and_its_place_named() {
        for text in ["=a", "a in b", "a in (b", "a b", "a=b=c", ",", "a=$(x)"] {
            let error = text.parse::<Selector>().unwrap_err();
            assert!(text.contains(&error.at), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Selector>().map(|s| s.matches(&BTreeMap::new()));
        }
    }
}
