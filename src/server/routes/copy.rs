//! `cp`: a file's bytes, or a directory as a tar, in and out of a running container.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Shared};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::StreamExt as _;
use rustix::fs::FileType;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::invalid;
use crate::node::ContainerRef;
use crate::node::copy::{ContainerFiles, Incoming, Place};
use crate::server::problem::{Problem, Reason};
use crate::server::wire::{COPY_KIND, COPY_MODE, COPY_MTIME, COPY_OWNER};
use crate::server::{State, export};
use crate::store::convert::unpack::{Attributes, Ids, Owner, Unpack, write_file};
use crate::store::tree::{HostTree, Merged, Time, write_tar};
use crate::sys::owner;

/// How many pieces wait for a slow disk.
const QUEUE: usize = 4;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct What {
    namespace: String,
    pod: String,
    container: Option<String>,
    path: PathBuf,
    /// `file`, `directory`, or nothing: whatever comes.
    kind: Option<String>,
    /// What it is called where it comes from.
    name: Option<String>,
    mode: Option<u16>,
    mtime: Option<i64>,
    /// Keep owners, as numbers, and set-id bits.
    archive: bool,
    uid: u32,
    gid: u32,
}

type Wanted = Result<Query<What>, QueryRejection>;

fn files(state: &State, what: &What) -> Result<ContainerFiles, Problem> {
    let target =
        ContainerRef { namespace: what.namespace.clone(), pod: what.pod.clone(), container: what.container.clone() };
    Ok(state.node.container_files(&target)?)
}

pub(super) async fn out(Shared(state): Shared<Arc<State>>, wanted: Wanted) -> Result<Response, Problem> {
    let what = wanted.map_err(|e| invalid(&e))?.0;
    let open = move |s: &State| {
        let files = files(s, &what)?;
        Ok((files.open(&what.path)?, files.ids.first))
    };
    let (source, first) = state.blocking(open).await?;
    let stat = source.stat;
    // What the container does not have is nobody's there; here it is shown as it is.
    let own = |id: u32| id.checked_sub(first).unwrap_or(id);
    let headers = |kind: &str| {
        [
            (COPY_KIND, kind.to_owned()),
            (COPY_MODE, (stat.st_mode & 0o7777).to_string()),
            (COPY_MTIME, stat.st_mtime.to_string()),
            (COPY_OWNER, format!("{}:{}", own(stat.st_uid), own(stat.st_gid))),
        ]
    };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let tree = HostTree::of(source.file, &source.path).mapped(first);
        let merged = Merged::new(vec![Arc::new(tree)]);
        let body = Body::from_stream(export::made(move |out| write_tar(&merged, out)));
        return Ok((headers("directory"), body).into_response());
    }
    let body = Body::from_stream(export::made(move |out| {
        // That very file, whatever has its name now.
        let mut file = std::fs::File::open(format!("/proc/self/fd/{}", source.file.as_raw_fd()))?;
        io::copy(&mut file, out).map(drop)
    }));
    Ok((headers("file"), body).into_response())
}

/// A request's body for a thread that reads.
struct Incomings {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl Read for Incomings {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let n = to.len().min(self.rest.len());
        let part = self.rest.split_to(n);
        to.get_mut(..n).unwrap_or_default().copy_from_slice(&part);
        Ok(n)
    }
}

pub(super) async fn into(
    Shared(state): Shared<Arc<State>>,
    wanted: Wanted,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let what = wanted.map_err(|e| invalid(&e))?.0;
    let (to, pieces) = mpsc::channel(QUEUE);
    let work = state.blocking(move |s| {
        let (files, from) = (files(s, &what)?, Incomings { pieces, rest: Bytes::new() });
        let write = || write(&files, &what, from);
        // New files are root's: the container's.
        if files.ids == Ids::HOST {
            write()
        } else {
            owner::with(files.ids.first, write).map_err(|e| failed(&files, &e))?
        }
    });
    let feed = async move {
        let mut stream = body.into_data_stream();
        while let Some(piece) = stream.next().await {
            let broken = piece.is_err();
            // Whoever writes has failed, and says why.
            if to.send(piece.map_err(io::Error::other)).await.is_err() || broken {
                return;
            }
        }
    };
    let (written, ()) = tokio::join!(work, feed);
    written.map(Json)
}

fn failed(files: &ContainerFiles, error: &dyn std::error::Error) -> Problem {
    let problem = Problem::of(Reason::Failed, error);
    Problem { message: format!("cannot copy into {}: {}", files.name, problem.message), ..problem }
}

fn write(files: &ContainerFiles, what: &What, mut from: Incomings) -> Result<Value, Problem> {
    let name = OsString::from(what.name.clone().unwrap_or_default());
    let incoming = match what.kind.as_deref() {
        Some("file") => Incoming::File(name),
        Some("directory") => Incoming::Directory(name),
        _ => Incoming::Anything,
    };
    let failed = |error: &dyn std::error::Error| failed(files, error);
    let root = (files.ids.first, files.ids.first);
    match files.place(&what.path, &incoming)? {
        Place::File(target) => {
            let mode = what.mode.unwrap_or(0o644);
            let attributes = Attributes {
                mode: if what.archive { mode } else { mode & 0o1777 },
                owner: if what.archive { files.ids.host((what.uid, what.gid)).map_err(|e| failed(&e))? } else { root },
                mtime: Time { seconds: what.mtime.unwrap_or_else(now), nanoseconds: 0 },
            };
            let bytes = write_file(&target, attributes, &mut from).map_err(|e| failed(&e))?;
            Ok(json!({"bytes": bytes, "skipped": []}))
        }
        Place::Below(dir) => {
            let owner = if what.archive { Owner::Kept(files.ids) } else { Owner::Given(root.0, root.1) };
            let mut unpack = Unpack::new(dir, owner);
            let mut buffer = vec![0; 64 * 1024];
            let mut bytes = 0_u64;
            loop {
                let n = from.read(&mut buffer).map_err(|e| failed(&e))?;
                if n == 0 {
                    break;
                }
                bytes += n as u64;
                unpack.feed(buffer.get(..n).unwrap_or_default()).map_err(|e| failed(&e))?;
            }
            let skipped = unpack.finish().map_err(|e| failed(&e))?;
            Ok(json!({"bytes": bytes, "skipped": skipped}))
        }
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
