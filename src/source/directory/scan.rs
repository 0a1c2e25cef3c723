//! One look at a whole directory, and what is remembered from look to look.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

use super::super::merge::merge;
use super::super::{DesiredSet, SourceKind, Sourced};
use super::file::{Look, Stamp, look};
use crate::api::{self, Problem};

/// The most manifest files in a directory.
const MAX_FILES: usize = 10_000;
/// How soon a directory that cannot be read, or a file that is being written, is looked at again.
const SOON: Duration = Duration::from_secs(1);
/// How long a file may be open for writing before a person is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// Device and inode of a directory.
type Identity = (u64, u64);

/// What is known of a directory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    files: BTreeMap<OsString, Known>,
}

/// What is known of a file.
#[derive(Debug)]
struct Known {
    /// The directory it was last seen in.
    seen_in: Identity,
    /// Of the content that was last read; nothing if it must be read again.
    stamp: Option<Stamp>,
    /// The SHA-256 of the content that was last read, to tell a touched file from a changed one.
    content: Option<[u8; 32]>,
    /// What it asks for: of the last good version where a newer one has something wrong.
    objects: Arc<DesiredSet>,
    /// What is wrong with the content.
    problems: Vec<Problem>,
    /// What is wrong with the file at this moment.
    trouble: Option<Problem>,
    /// Since when somebody has been writing it.
    writing: Option<Instant>,
    /// Since when it has been gone.
    gone: Option<Instant>,
}

/// What a look gave.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) set: DesiredSet,
    /// How soon to look again, if sooner than usual.
    pub(super) again: Option<Duration>,
}

/// Looks at a directory.
pub(super) fn scan(path: &Path, memory: &mut Memory, confirm: Duration) -> Scan {
    let mut again = None;
    let trouble = match open(path).and_then(|dir| Ok((identity(&dir)?, list(&dir)?, dir))) {
        Ok((identity, names, dir)) if names.len() <= MAX_FILES => {
            again = files(path, &dir, identity, names, memory, confirm);
            None
        }
        Ok(_) => Some(format!("has more than {MAX_FILES} manifests; nothing of it is read")),
        Err(error) => Some(format!("cannot be read: {error}; what it asked for stays")),
    };
    let mut set = published(path, memory);
    if let Some(reason) = trouble {
        set.problems.insert(0, Problem::file(path.display().to_string(), reason));
        set.uncertain.push(path.to_owned());
        again = Some(SOON);
    }
    Scan { set, again }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn identity(dir: &OwnedFd) -> io::Result<Identity> {
    let stat = rustix::fs::fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The names of manifests in a directory. Hidden files are not, nor is what editors leave beside a file.
fn list(dir: &OwnedFd) -> io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let manifest = [&b".yaml"[..], b".yml", b".json"].iter().any(|end| name.ends_with(end));
        if manifest && !name.starts_with(b".") && !name.starts_with(b"#") {
            names.insert(OsString::from_vec(name.to_vec()));
        }
        if names.len() > MAX_FILES {
            break;
        }
    }
    Ok(names)
}

/// Looks at each file; how soon to look again.
fn files(
    path: &Path,
    dir: &OwnedFd,
    identity: Identity,
    names: BTreeSet<OsString>,
    memory: &mut Memory,
    confirm: Duration,
) -> Option<Duration> {
    let mut again: Option<Duration> = None;
    let mut soon = |wait: Duration| again = Some(again.map_or(wait, |a| a.min(wait)));
    // A file that the listing missed may be there all the same: on some file systems one that is replaced meanwhile is.
    let all: BTreeSet<OsString> = names.into_iter().chain(memory.files.keys().cloned()).collect();
    for name in all {
        let full = path.join(&name);
        let called = full.display().to_string();
        let known = memory.files.entry(name.clone()).or_insert_with(|| Known::new(identity));
        let look = look(dir, &name, known.stamp.as_ref());
        if !matches!(look, Look::Gone) {
            known.seen_in = identity;
            known.gone = None;
        }
        if !matches!(look, Look::Writing) {
            known.writing = None;
        }
        known.trouble = None;
        match look {
            Look::Same => {}
            Look::Content(bytes, stamp) => {
                known.stamp = stamp;
                if known.stamp.is_none() {
                    soon(Duration::from_secs(3));
                }
                known.read(&full, &bytes);
            }
            Look::Writing => {
                let since = *known.writing.get_or_insert_with(Instant::now);
                known.stamp = None;
                if since.elapsed() > PATIENCE {
                    let reason = "is open for writing; it is read once it is closed";
                    known.trouble = Some(Problem::file(called, reason));
                }
                soon(SOON);
            }
            Look::Bad(reason) => {
                known.stamp = None;
                known.trouble = Some(Problem::file(called, reason));
            }
            Look::Gone if known.seen_in != identity => {
                let reason = "is not in the directory that is there now, which is another than before (unmounted, or replaced?); what it asked for stays";
                known.trouble = Some(Problem::file(called, reason));
            }
            Look::Gone => {
                let since = *known.gone.get_or_insert_with(Instant::now);
                if since.elapsed() >= confirm {
                    memory.files.remove(&name);
                } else {
                    soon(confirm);
                }
            }
        }
    }
    again
}

impl Known {
    fn new(seen_in: Identity) -> Self {
        Self {
            seen_in,
            stamp: None,
            content: None,
            objects: Arc::new(DesiredSet::default()),
            problems: Vec::new(),
            trouble: None,
            writing: None,
            gone: None,
        }
    }

    /// Immutable objects keep their data for as long as they are there.
    fn refuse(&self, path: &Path, parsed: &mut api::Parsed) {
        let api::Parsed { documents, problems } = parsed;
        documents.retain(|document| {
            let key = document.object.key();
            let old = self.objects.objects.iter().find(|old| old.object.key() == key);
            let Some((field, reason)) = old.and_then(|old| api::immutable::refused(&old.object, &document.object))
            else {
                return true;
            };
            problems.push(api::Problem {
                file: path.display().to_string(),
                document: document.index,
                object: Some(key.to_string()),
                path: field.to_owned(),
                reason: reason.to_owned(),
            });
            false
        });
    }

    /// Takes new content over. While it has something wrong, objects that only the last good version has stay.
    fn read(&mut self, path: &Path, bytes: &[u8]) {
        let content = Some(Sha256::digest(bytes).into());
        if content == self.content {
            return;
        }
        let mut parsed = api::parse(&path.display().to_string(), bytes);
        self.refuse(path, &mut parsed);
        let mut objects: Vec<Sourced> = parsed
            .documents
            .into_iter()
            .map(|d| Sourced {
                object: Arc::new(d.object),
                source: SourceKind::Manifests,
                file: path.to_owned(),
                document: d.index,
                ignored: d.ignored,
            })
            .collect();
        if !parsed.problems.is_empty() {
            let keys: BTreeSet<_> = objects.iter().map(|o| o.object.key()).collect();
            objects.extend(self.objects.objects.iter().filter(|o| !keys.contains(&o.object.key())).cloned());
        }
        objects.sort_by_cached_key(|o| o.object.key());
        self.objects = Arc::new(DesiredSet { objects, synced: true, ..DesiredSet::default() });
        self.problems = parsed.problems;
        self.content = content;
    }
}

/// What is known, as a set: of two files that have the same object, the one whose name sorts first counts.
fn published(path: &Path, memory: &Memory) -> DesiredSet {
    let sets: Vec<_> = memory.files.values().map(|known| Arc::clone(&known.objects)).collect();
    let mut set = merge(&sets);
    set.synced = true;
    for (name, known) in &memory.files {
        set.problems.extend(known.problems.iter().chain(&known.trouble).cloned());
        if known.trouble.is_some() || known.writing.is_some() || !known.problems.is_empty() {
            set.uncertain.push(path.join(std::ffi::OsStr::from_bytes(name.as_bytes())));
        }
    }
    set
}
