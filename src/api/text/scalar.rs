//! What a plain YAML scalar means, by the YAML 1.1 rules that Kubernetes' tools follow.
//!
//! `0644` is octal, `on` and `y` are booleans, `1_000` is a thousand; dates and base-60 numbers stay strings.

use serde_json::{Number, Value};

/// A number that has no place in JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotFinite;

/// The value of a plain scalar.
pub(super) fn resolve(text: &str) -> Result<Value, NotFinite> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf"
        | "-.INF" => return Err(NotFinite),
        _ => match text.as_bytes()[0] {
            b'0'..=b'9' | b'+' | b'-' | b'.' => number(text)?.map_or_else(|| text.into(), Value::Number),
            _ => text.into(),
        },
    })
}

/// The number that a scalar is, if it is one.
fn number(text: &str) -> Result<Option<Number>, NotFinite> {
    let plain = if text.starts_with('.') { text.to_owned() } else { text.replace('_', "") };
    if let Some(whole) = integer(&plain) {
        return Ok(Some(whole));
    }
    if !is_decimal(&plain) {
        return Ok(None);
    }
    match plain.parse::<f64>() {
        Ok(float) => Number::from_f64(float).map(Some).ok_or(NotFinite),
        Err(_) => Ok(None),
    }
}

/// A whole number with the prefixes of Go: `0x`, `0o`, `0b`, and `0` for octal.
fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    // `from_str_radix` takes a sign of its own, which may not stand here a second time.
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    if negative {
        let magnitude = i128::from_str_radix(digits, radix).ok()?;
        i64::try_from(-magnitude).ok().map(Number::from)
    } else {
        u64::from_str_radix(digits, radix).ok().map(Number::from)
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_decimal(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let mantissa = match mantissa.split_once('.') {
        Some(("", fraction)) => digits(fraction),
        Some((whole, fraction)) => digits(whole) && (fraction.is_empty() || digits(fraction)),
        None => digits(mantissa),
    };
    mantissa && exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)))
}
