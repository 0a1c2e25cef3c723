//! Why a tar did not become a layer.

use std::path::PathBuf;

use crate::store::driver;
use crate::store::tree;

/// Why a tar did not become a layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream is not a tar, or a damaged one.
    #[error("tar is malformed near byte {offset}: {what}")]
    Malformed {
        /// Bytes before the header in question.
        offset: u64,
        /// What was found.
        what: &'static str,
    },
    /// The stream ends inside an entry.
    #[error("tar ends early, after {offset} bytes")]
    Truncated {
        /// Bytes that were there.
        offset: u64,
    },
    /// An entry asks for something that no layer may hold.
    #[error("tar entry {} is refused: {what}", path.display())]
    Refused {
        /// The entry's name, as the tar has it.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The tar asks for more than it may.
    #[error("tar exceeds the limit of {limit} {what}")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// The layer could not be written.
    #[error("cannot write the layer")]
    Driver(#[from] driver::Error),
    /// The layers below could not be read.
    #[error("cannot read the layers below")]
    Tree(#[from] tree::Error),
    /// A file of a layer below, which a hard link asks for, could not be copied.
    #[error("cannot copy {} from the layers below", path.display())]
    Copy {
        /// The file's path inside the merged tree.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An entry could not be unpacked.
    #[error("cannot {action} {}", path.display())]
    Unpack {
        /// The step, as in `write`.
        action: &'static str,
        /// The entry's path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The layers below could not be had.
    #[error("the layers below are not there")]
    Below(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// An entry is refused; `path` is untrusted and cut to a bounded length.
    pub(super) fn refused(path: &[u8], what: &'static str) -> Self {
        /// Longest part of an untrusted name that goes into a message.
        const SHOWN: usize = 200;
        let shown = path.get(..SHOWN).unwrap_or(path);
        Self::Refused { path: PathBuf::from(String::from_utf8_lossy(shown).into_owned()), what }
    }
}
