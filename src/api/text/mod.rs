//! Text to plain values (`serde_json::Value`), as Kubernetes reads it: YAML with the scalars of YAML 1.1, or JSON.
//!
//! Untrusted: every dimension has a limit, and what an alias repeats counts as if it had been written out.

mod json;
mod scalar;
mod yaml;

#[cfg(test)]
mod tests;

use serde_json::Value;

/// The most bytes a file may have: eight ConfigMaps of the size Kubernetes allows; a manifest is a few KiB.
pub const MAX_FILE: usize = 8 << 20;
/// The most values (scalars, lists, maps, also by way of aliases) in a file.
pub const MAX_VALUES: usize = 500_000;
/// The most bytes of scalars in a file, with what aliases repeat.
pub const MAX_TEXT: usize = 32 << 20;
/// How deep values may nest; a pod needs about 15.
pub const MAX_DEPTH: usize = 64;

/// Why a text, or one document of it, cannot be read. Never repeats the text: it may be a Secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// It is larger than [`MAX_FILE`].
    #[error("is larger than {} MiB", MAX_FILE >> 20)]
    Large,
    /// It is not UTF-8.
    #[error("is not UTF-8 text (at byte {at})")]
    Encoding {
        /// The offset of the first bad byte.
        at: usize,
    },
    /// It has a NUL byte.
    #[error("has a NUL byte (at byte {at}), so it is not text")]
    Nul {
        /// Its offset.
        at: usize,
    },
    /// It breaks YAML's (or JSON's) grammar.
    #[error("is not valid {format}: line {line}, column {column}: {reason}")]
    Syntax {
        /// `YAML` or `JSON`.
        format: &'static str,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// The grammar's rule that is broken.
        reason: String,
    },
    /// It goes beyond one of the limits.
    #[error("has too much in it: {what} (line {line})")]
    Limit {
        /// Which limit, with its value.
        what: String,
        /// Where.
        line: usize,
    },
    /// A map has the same key twice.
    #[error("has the key {key:?} twice (line {line})")]
    Duplicate {
        /// The key.
        key: String,
        /// Where the second one is.
        line: usize,
    },
    /// A value that has no place in a manifest.
    #[error("{what} (line {line})")]
    Value {
        /// What is wrong with it.
        what: String,
        /// Where.
        line: usize,
    },
}

/// The documents of a text in their order; an error in place of one that cannot be used. Empty documents are left out,
/// but counted: the number is the document's place in the file, from 1.
pub type Documents = Vec<(usize, Result<Value, TextError>)>;

/// Reads a whole text.
///
/// # Errors
/// If the text as a whole cannot be read; what precedes the bad place is then not returned either.
pub fn read(bytes: &[u8]) -> Result<Documents, TextError> {
    if bytes.len() > MAX_FILE {
        return Err(TextError::Large);
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if let Some(at) = bytes.iter().position(|b| *b == 0) {
        return Err(TextError::Nul { at });
    }
    let text = std::str::from_utf8(bytes).map_err(|e| TextError::Encoding { at: e.valid_up_to() })?;
    // A file that opens with a brace is JSON, unless it only reads as YAML's flow style.
    if text.trim_start().starts_with('{') {
        let error = match json::read(text) {
            Ok(documents) => return Ok(documents),
            Err(error) => error,
        };
        return yaml::read(text).map_err(|_| error);
    }
    yaml::read(text)
}

/// Counts values and bytes against the limits.
#[derive(Debug, Default)]
struct Budget {
    values: usize,
    text: usize,
}

impl Budget {
    /// Counts more; `line` is for the error.
    fn spend(&mut self, values: usize, text: usize, line: usize) -> Result<(), TextError> {
        self.values = self.values.saturating_add(values);
        self.text = self.text.saturating_add(text);
        if self.values > MAX_VALUES {
            return Err(TextError::Limit { what: format!("more than {MAX_VALUES} values"), line });
        }
        if self.text > MAX_TEXT {
            return Err(TextError::Limit { what: format!("more than {} MiB with its aliases", MAX_TEXT >> 20), line });
        }
        Ok(())
    }
}
