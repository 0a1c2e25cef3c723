//! Events: what happened lately, bounded in memory and on disk, equal ones counted.
//!
//! On disk a ring of files, each a line an event; the oldest file goes when a new one begins. Events are for people:
//! they are not synced, and losing the last ones in a power cut loses nothing that the node needs.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{broadcast, mpsc};

use crate::api::Event;

/// How many different events are kept in memory.
const KEPT: usize = 1000;
/// How large one file of the ring gets.
const FILE_BYTES: u64 = 256 << 10;
/// How many files there are.
const FILES: u64 = 8;
/// How many a slow listener may be behind before it misses some.
const BEHIND: usize = 1024;

/// The recent events of a node. Cheap to clone; one task writes.
#[derive(Debug, Clone)]
pub struct Events {
    recent: Arc<Mutex<VecDeque<Event>>>,
    news: broadcast::Sender<Event>,
    sender: mpsc::UnboundedSender<Event>,
}

impl Events {
    /// Reads the ring in `dir` and starts the task that goes on writing it; it ends with the last clone.
    ///
    /// # Errors
    /// If the directory cannot be made or read. A line that cannot be read is skipped.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let mut ring = Ring::open(dir)?;
        let mut recent = VecDeque::new();
        for event in ring.read() {
            insert(&mut recent, event);
        }
        let recent = Arc::new(Mutex::new(recent));
        let (news, _) = broadcast::channel(BEHIND);
        let (sender, mut inbox) = mpsc::unbounded_channel::<Event>();
        let (shared, told) = (Arc::clone(&recent), news.clone());
        // Writes of some hundred bytes to the page cache; a thread of its own, since a sick disk may block even those.
        std::thread::Builder::new().name("events".into()).spawn(move || {
            while let Some(event) = inbox.blocking_recv() {
                let event = insert(&mut locked(&shared), event);
                if let Err(error) = ring.append(&event) {
                    tracing::debug!(%error, "an event is only in memory");
                }
                // Nobody may be listening.
                let _ = told.send(event);
            }
        })?;
        Ok(Self { recent, news, sender })
    }

    /// Tells of something that happened.
    pub fn tell(&self, event: Event) {
        // The thread lives as long as any sender.
        let _ = self.sender.send(event);
    }

    /// For those who only tell.
    pub(crate) fn sender(&self) -> mpsc::UnboundedSender<Event> {
        self.sender.clone()
    }

    /// The recent events, the one that happened last at the end.
    pub fn recent(&self) -> Vec<Event> {
        locked(&self.recent).iter().cloned().collect()
    }

    /// Where events are told on, for those who begin to listen more than once.
    pub(crate) fn news(&self) -> broadcast::Sender<Event> {
        self.news.clone()
    }

    /// Every event from now on; one that happens again comes with its new count.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.news.subscribe()
    }
}

fn locked(recent: &Mutex<VecDeque<Event>>) -> MutexGuard<'_, VecDeque<Event>> {
    // One insertion at a time: what a panicked holder left is a valid list.
    recent.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds an event at the end, or counts it there. Returns it as it stands now.
fn insert(recent: &mut VecDeque<Event>, event: Event) -> Event {
    let known = recent.iter().position(|e| e.repeats(&event)).and_then(|at| recent.remove(at));
    let event = match known {
        Some(mut known) => {
            known.count(&event);
            known
        }
        None => event,
    };
    recent.push_back(event.clone());
    while recent.len() > KEPT {
        recent.pop_front();
    }
    event
}

struct Ring {
    dir: PathBuf,
    number: u64,
    file: File,
    size: u64,
}

impl Ring {
    fn open(dir: PathBuf) -> io::Result<Self> {
        let number = numbers(&dir)?.last().copied().unwrap_or(0);
        let (file, size) = open(&dir, number)?;
        Ok(Self { dir, number, file, size })
    }

    fn read(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for number in numbers(&self.dir).unwrap_or_default() {
            let text = fs::read(path(&self.dir, number)).unwrap_or_default();
            for mut event in text.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice::<Event>(line).ok()) {
                // A line has the count so far; here lines are added up.
                event.count = 1;
                events.push(event);
            }
        }
        events
    }

    fn append(&mut self, event: &Event) -> io::Result<()> {
        if self.size >= FILE_BYTES {
            self.number += 1;
            (self.file, self.size) = open(&self.dir, self.number)?;
            for old in numbers(&self.dir)?.into_iter().filter(|n| n + FILES <= self.number) {
                fs::remove_file(path(&self.dir, old))?;
            }
        }
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.size += u64::try_from(line.len()).unwrap_or(u64::MAX);
        Ok(())
    }
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number}.jsonl"))
}

fn open(dir: &Path, number: u64) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path(dir, number))?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|n| n.strip_suffix(".jsonl")).and_then(|n| n.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Kind, ObjectKey, Reason};

    fn event(message: &str) -> Event {
        let object = ObjectKey { kind: Kind::Pod, namespace: "default".into(), name: "web".into() };
        Event::new(object, Reason::BackOff, message, jiff::Timestamp::now())
    }

    #[test]
    fn equal_events_are_counted_and_move_to_the_end() {
        let mut recent = VecDeque::new();
        insert(&mut recent, event("a"));
        insert(&mut recent, event("b"));
        assert_eq!(insert(&mut recent, event("a")).count, 2);
        assert_eq!(recent.iter().map(|e| e.message.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut recent = VecDeque::new();
        for n in 0..KEPT + 10 {
            insert(&mut recent, event(&n.to_string()));
        }
        assert_eq!((recent.len(), recent[0].message.as_str()), (KEPT, "10"));
    }

    #[test]
    fn the_ring_on_disk_is_bounded_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut ring = Ring::open(dir.path().to_owned()).unwrap();
        let long = "x".repeat(8 << 10);
        for n in 0..400 {
            ring.append(&event(&format!("{n} {long}"))).unwrap();
        }
        let numbers = numbers(dir.path()).unwrap();
        assert_eq!(u64::try_from(numbers.len()).unwrap(), FILES);
        let total: u64 = numbers.iter().map(|n| fs::metadata(path(dir.path(), *n)).unwrap().len()).sum();
        assert!(total < FILES * (FILE_BYTES + (16 << 10)), "{total}");
        fs::write(path(dir.path(), 0), "no event\n").unwrap();
        let again = Ring::open(dir.path().to_owned()).unwrap().read();
        assert!(again.last().unwrap().message.starts_with("399 "));
    }

    #[tokio::test]
    async fn what_was_told_before_a_restart_is_still_known() {
        let dir = tempfile::tempdir().unwrap();
        let events = Events::open(dir.path().to_owned()).unwrap();
        let mut news = events.subscribe();
        events.tell(event("a"));
        events.tell(event("a"));
        assert_eq!(news.recv().await.unwrap().count, 1);
        assert_eq!(news.recv().await.unwrap().count, 2);
        drop(events);
        let again = Events::open(dir.path().to_owned()).unwrap().recent();
        assert_eq!(again.iter().map(|e| e.count).collect::<Vec<_>>(), [2]);
    }
}
