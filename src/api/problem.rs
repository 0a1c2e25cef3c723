//! What is wrong with a manifest, in the words that a person reads.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that is wrong, and where: `web.yaml: Pod default/web: spec.containers[0].image: must not be empty`.
///
/// Never holds a value from the manifest, so a Secret's data cannot end up in a log or an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The file (or what stands for it: `-`, a directory), as the person named it.
    pub file: String,
    /// Which document of the file, from 1; 0 if the file as a whole is meant.
    pub document: usize,
    /// Kind, namespace and name, as far as they are known: `Pod default/web`.
    pub object: Option<String>,
    /// The field's path; empty if the object as a whole is meant.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

/// An error and its causes in one line; no `Display` repeats its source, so nothing is said twice.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl Problem {
    /// A problem of a whole file or directory.
    pub fn file(file: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { file: file.into(), document: 0, object: None, path: String::new(), reason: reason.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        match &self.object {
            Some(object) => write!(f, ": {object}")?,
            None if self.document > 0 => write!(f, ": document {}", self.document)?,
            None => {}
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.reason)
    }
}
