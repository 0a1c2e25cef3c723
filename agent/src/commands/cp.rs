//! `lamina cp`: files and directories in and out of a running container, whatever is in its image.
//!
//! ```text
//!  POD:FILE ──bytes──▶ FILE        POD:DIR ──tar──▶ unpacked below DIR        (and the other way round)
//! ```
//!
//! What comes out of a container is not trusted: it is unpacked below its target only, owned by whoever copies, and
//! without set-id bits unless `--archive` asks for all that.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use hyper::body::Bytes;
use lamina::server::wire::{COPY_KIND, COPY_MODE, COPY_MTIME, COPY_OWNER};
use lamina::store::convert::unpack::{Attributes, Ids, Owner, Target, Unpack, write_file};
use lamina::store::tree::{HostTree, Merged, Time, write_tar};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::cli::Context;
use crate::client::{Download, Route};
use crate::failure::Failure;
use crate::output;

/// How much is read at once.
const CHUNK: usize = 256 * 1024;

/// Copies files.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// `POD:PATH`, `NAMESPACE/POD:PATH` or a path here; `-` is standard input: a file, or for a directory a tar
    from: String,
    /// The other side; `-` is standard output: a file's bytes, or a directory as a tar
    to: String,
    /// The pod's namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The container, where the pod has several
    #[arg(short, long)]
    container: Option<String>,
    /// Keep owners, as numbers, and set-id bits
    #[arg(short, long)]
    archive: bool,
}

/// One side.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Pod { name: &'a str, path: &'a str },
    Here(&'a Path),
    Stream,
}

impl<'a> Side<'a> {
    /// A path with a colon in it is one here if it begins with `/` or `.`.
    fn of(text: &'a str) -> Self {
        match text.split_once(':') {
            _ if text == "-" => Self::Stream,
            _ if text.starts_with(['/', '.']) => Self::Here(Path::new(text)),
            Some((name, path)) if !name.is_empty() => {
                Self::Pod { name, path: if path.is_empty() { "." } else { path } }
            }
            _ => Self::Here(Path::new(text)),
        }
    }
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let route = |name: &str, path: &str| {
        let (namespace, pod) = super::pod_name(name, &a.namespace);
        Route::new("/v1/copy")
            .with("namespace", namespace)
            .with("pod", pod)
            .with_some("container", a.container.as_ref())
            .with("path", path)
            .flag("archive", a.archive)
    };
    match (Side::of(&a.from), Side::of(&a.to)) {
        (Side::Pod { name, path }, to @ (Side::Here(_) | Side::Stream)) => {
            let body = context.agent.download(&route(name, path)).await?;
            out(body, Path::new(path), &to, a.archive).await?;
        }
        (from @ (Side::Here(_) | Side::Stream), Side::Pod { name, path }) => {
            into(context, route(name, path), &from).await?;
        }
        (Side::Pod { .. }, Side::Pod { .. }) => {
            return Err(Failure::usage("one side is a path of this machine")
                .hint("lamina cp ONE:PATH - | lamina cp - OTHER:PATH")
                .into());
        }
        _ => return Err(Failure::usage("neither side is in a pod").hint("POD:PATH names a file of a pod").into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// From a pod.
async fn out(mut body: Download, path: &Path, to: &Side<'_>, archive: bool) -> anyhow::Result<()> {
    let directory = body.header(COPY_KIND).as_deref() == Some("directory");
    let Side::Here(to) = to else {
        if directory && io::IsTerminal::is_terminal(&io::stdout()) {
            return Err(Failure::usage("a tar is not for a terminal").hint("name a directory to copy to").into());
        }
        while let Some(chunk) = body.chunk().await? {
            output::raw(&chunk)?;
        }
        return Ok(());
    };
    let number = |name| body.header(name).and_then(|text| text.parse::<i64>().ok());
    let mode = number(COPY_MODE).and_then(|n| u16::try_from(n).ok()).unwrap_or(0o644);
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let theirs = body.header(COPY_OWNER);
    let theirs =
        theirs.as_deref().and_then(|o| o.split_once(':')).and_then(|(u, g)| u.parse().ok().zip(g.parse().ok()));
    let attributes = Attributes {
        mode: if archive { mode } else { mode & 0o1777 },
        owner: theirs.filter(|_| archive).unwrap_or(me),
        mtime: Time { seconds: number(COPY_MTIME).unwrap_or_default(), nanoseconds: 0 },
    };
    let name = path.file_name().unwrap_or_default();
    let failed = || format!("cannot write {}", to.display());
    if directory {
        let dir = if to.is_dir() && !name.is_empty() { to.join(name) } else { to.to_path_buf() };
        match std::fs::create_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.with_context(failed)?,
        }
        let root: OwnedFd = File::open(&dir).with_context(failed)?.into();
        let mut unpack = Unpack::new(root, if archive { Owner::Kept(Ids::HOST) } else { Owner::Given(me.0, me.1) });
        while let Some(chunk) = body.chunk().await? {
            unpack.feed(&chunk).with_context(failed)?;
        }
        for left_out in unpack.finish().with_context(failed)? {
            output::note(format!("{} is a device, and left out", left_out.display()));
        }
        return Ok(());
    }
    let target = if to.is_dir() { to.join(name) } else { to.to_path_buf() };
    let (dir, name) =
        (target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new(".")), target.file_name());
    let name = name.ok_or_else(|| Failure::usage(format!("{} is no name for a file", to.display())))?;
    let dir: OwnedFd = File::open(dir).with_context(failed)?.into();
    // Beside its place first, so that what breaks off never looks whole.
    let mut part = OsString::from(".");
    part.push(name);
    part.push(format!(".part-{}", std::process::id()));
    let part = target.with_file_name(part);
    let write = async {
        let mut file = File::create_new(&part)?;
        while let Some(chunk) = body.chunk().await? {
            file.write_all(&chunk)?;
        }
        anyhow::Ok(())
    };
    let written = write.await.and_then(|()| {
        let mut from = File::open(&part)?;
        write_file(&Target::In(dir, name.to_owned()), attributes, &mut from)?;
        Ok(())
    });
    // Whether or not it was of use.
    let _ = std::fs::remove_file(&part);
    written.with_context(failed)
}

#[derive(Debug, Deserialize)]
struct Written {
    skipped: Vec<PathBuf>,
}

/// Into a pod.
async fn into(context: &Context, mut route: Route, from: &Side<'_>) -> anyhow::Result<()> {
    let (chunks, body) = mpsc::channel(4);
    match from {
        Side::Here(path) => {
            // A link that is named itself is followed.
            let failed = |e: io::Error| Failure::usage(format!("cannot read {}", path.display())).source(e);
            let path = std::fs::canonicalize(path).map_err(failed)?;
            let stat = std::fs::metadata(&path).map_err(failed)?;
            let kind = match (stat.is_dir(), stat.is_file()) {
                (true, _) => "directory",
                (_, true) => "file",
                _ => return Err(Failure::usage(format!("{} is neither a file nor a directory", path.display())).into()),
            };
            route = route
                .with("kind", kind)
                .with("name", path.file_name().unwrap_or_default().to_string_lossy())
                .with("mode", (stat.mode() & 0o7777).to_string())
                .with("mtime", stat.mtime().to_string())
                .with("uid", stat.uid().to_string())
                .with("gid", stat.gid().to_string());
            if stat.is_dir() {
                let tree = HostTree::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let merged = Merged::new(vec![Arc::new(tree)]);
                tokio::task::spawn_blocking(move || {
                    let mut to = Chunks(chunks.clone());
                    if let Err(error) = write_tar(&merged, &mut to) {
                        // Whoever receives has failed, and says why, or hears it from us.
                        let _ = chunks.blocking_send(Err(io::Error::other(error)));
                    }
                });
            } else {
                let file = File::open(&path).map_err(failed)?;
                tokio::task::spawn_blocking(move || send(file, &chunks));
            }
        }
        Side::Stream | Side::Pod { .. } => {
            tokio::task::spawn_blocking(move || send(io::stdin().lock(), &chunks));
        }
    }
    let written: Written = context.agent.upload(&route, body).await?;
    for left_out in written.skipped {
        output::note(format!("{} is a device, and left out", left_out.display()));
    }
    Ok(())
}

/// Sends what `from` gives to its end.
fn send(mut from: impl Read, to: &mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let mut buffer = vec![0; CHUNK];
        let piece = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                buffer.truncate(n);
                Ok(buffer.into())
            }
            Err(error) => Err(error),
        };
        let failed = piece.is_err();
        if to.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}

/// Pieces of a tar for the task that sends them.
struct Chunks(mpsc::Sender<io::Result<Bytes>>);

impl io::Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.0.blocking_send(Ok(piece)).map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        for (text, side) in [
            ("web:/etc/hosts", Side::Pod { name: "web", path: "/etc/hosts" }),
            ("prod/web:data", Side::Pod { name: "prod/web", path: "data" }),
            ("web:", Side::Pod { name: "web", path: "." }),
            ("-", Side::Stream),
            ("/a:b", Side::Here(Path::new("/a:b"))),
            ("./a:b", Side::Here(Path::new("./a:b"))),
            ("file", Side::Here(Path::new("file"))),
            (":x", Side::Here(Path::new(":x"))),
        ] {
            assert_eq!(Side::of(text), side, "{text}");
        }
    }
}
