//! What unpacking layers one on another leaves, in the simplest way: a map from path to what is there, changed entry by
//! entry as containerd and GNU tar change a directory. Conversions are compared with it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::testing::{Head, Tar};

/// One entry of a generated layer.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Dir(Vec<String>, u32),
    File(Vec<String>, Vec<u8>),
    Symlink(Vec<String>, String),
    HardLink(Vec<String>, Vec<String>),
    Whiteout(Vec<String>),
    Opaque(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Thing {
    Dir(u32),
    File(Vec<u8>),
    Symlink(String),
}

type Path = Vec<String>;

/// The state of the tree.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) tree: BTreeMap<Path, Thing>,
    /// What the current layer made or went through.
    own: BTreeSet<Path>,
}

pub(super) fn tar(ops: &[Op]) -> Vec<u8> {
    let mut tar = Tar::new();
    for op in ops {
        tar = match op {
            Op::Dir(p, mode) => {
                tar.entry(&Head { name: &p.join("/"), kind: b'5', mode: *mode, ..Head::default() }, b"")
            }
            Op::File(p, data) => tar.file(&p.join("/"), data),
            Op::Symlink(p, to) => tar.symlink(&p.join("/"), to),
            Op::HardLink(p, to) => tar.hard_link(&p.join("/"), &to.join("/")),
            Op::Whiteout(p) => {
                let (last, up) = p.split_last().unwrap();
                let name = up.iter().cloned().chain([format!(".wh.{last}")]).collect::<Vec<_>>();
                tar.file(&name.join("/"), b"")
            }
            Op::Opaque(p) => {
                tar.file(&p.iter().cloned().chain([".wh..wh..opq".to_owned()]).collect::<Vec<_>>().join("/"), b"")
            }
        };
    }
    tar.end()
}

impl Model {
    /// Unpacks one layer; `None` when that cannot be done.
    pub(super) fn apply(&mut self, ops: &[Op]) -> Option<()> {
        self.own = BTreeSet::new();
        ops.iter().try_for_each(|op| self.step(op))
    }

    fn remove(&mut self, at: &[String], own_too: bool) {
        let doomed: Vec<Path> =
            self.tree.keys().filter(|p| p.starts_with(at) && (own_too || !self.own.contains(*p))).cloned().collect();
        for path in doomed {
            self.tree.remove(&path);
            self.own.remove(&path);
        }
    }

    fn parent(&mut self, path: &[String]) -> Option<Path> {
        let mut todo: Vec<String> = path.iter().rev().cloned().collect();
        let (mut at, mut links) = (Path::new(), 0);
        while let Some(part) = todo.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    at.pop();
                    continue;
                }
                _ => at.push(part),
            }
            match self.tree.get(&at) {
                Some(Thing::Dir(_)) => {}
                None => {
                    self.tree.insert(at.clone(), Thing::Dir(0o755));
                }
                Some(Thing::Symlink(to)) => {
                    links += 1;
                    if links > 40 {
                        return None;
                    }
                    todo.extend(to.split('/').rev().map(str::to_owned));
                    at.pop();
                    if to.starts_with('/') {
                        at.clear();
                    }
                    continue;
                }
                Some(Thing::File(_)) => return None,
            }
            self.own.insert(at.clone());
        }
        Some(at)
    }

    fn place(&mut self, path: &[String]) -> Option<Path> {
        let (last, up) = path.split_last()?;
        let mut at = self.parent(up)?;
        at.push(last.clone());
        Some(at)
    }

    fn step(&mut self, op: &Op) -> Option<()> {
        match op {
            Op::Dir(path, mode) => {
                let at = self.place(path)?;
                if !matches!(self.tree.get(&at), Some(Thing::Dir(_))) {
                    self.remove(&at, true);
                }
                self.put(at, Thing::Dir(*mode));
            }
            Op::File(path, data) => self.replace(path, Thing::File(data.clone()))?,
            Op::Symlink(path, to) => self.replace(path, Thing::Symlink(to.clone()))?,
            Op::HardLink(path, to) => {
                let from = self.place(to)?;
                let thing = self.tree.get(&from).filter(|t| !matches!(t, Thing::Dir(_))).cloned()?;
                self.own.insert(from);
                self.replace(path, thing)?;
            }
            Op::Whiteout(path) => {
                let at = self.place(path)?;
                self.remove(&at, false);
            }
            Op::Opaque(path) => {
                let at = self.parent(path)?;
                let below: Vec<Path> =
                    self.tree.keys().filter(|p| p.len() == at.len() + 1 && p.starts_with(&at)).cloned().collect();
                for path in below {
                    self.remove(&path, false);
                }
            }
        }
        Some(())
    }

    fn replace(&mut self, path: &[String], thing: Thing) -> Option<()> {
        let at = self.place(path)?;
        self.remove(&at, true);
        self.put(at, thing);
        Some(())
    }

    fn put(&mut self, at: Path, thing: Thing) {
        self.own.insert(at.clone());
        self.tree.insert(at, thing);
    }
}
