//! `lamina load`: an image from an OCI layout or a docker archive. Files are sent over the socket, for the agent may
//! not see our directories; a directory is read by the agent itself.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use hyper::body::Bytes;
use lamina::server::wire::Pulled;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use super::pull;
use crate::cli::Context;
use crate::client::Route;
use crate::failure::Failure;

/// How much of a file is read at once.
const CHUNK: usize = 256 * 1024;

/// Reads an image.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A tar (plain, gzip or zstd) or directory; `-` is standard input
    #[arg(short, long, default_value = "-", value_name = "FILE")]
    input: PathBuf,
    /// The name to give it, where it has none
    #[arg(short, long, value_name = "NAME")]
    tag: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    images: Vec<Pulled>,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let route = Route::new("/v1/images/load").with_some("tag", a.tag.as_ref());
    let answer: Answer = if a.input.is_dir() {
        let path = std::fs::canonicalize(&a.input).with_context(|| format!("cannot find {}", a.input.display()))?;
        context.agent.post(&route.with("path", path.to_string_lossy()), &()).await?
    } else {
        let (chunks, body) = mpsc::channel(4);
        // Ends when the file does or the request has failed.
        tokio::spawn(send(open(&a.input).await?, chunks));
        context.agent.upload(&route, body).await?
    };
    for image in &answer.images {
        pull::print(image)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn open(path: &Path) -> anyhow::Result<Box<dyn tokio::io::AsyncRead + Send + Unpin>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(tokio::io::stdin()));
    }
    let file = tokio::fs::File::open(path).await;
    let file = file.map_err(|e| Failure::usage(format!("cannot read {}", path.display())).source(e))?;
    Ok(Box::new(file))
}

async fn send(mut from: Box<dyn tokio::io::AsyncRead + Send + Unpin>, to: mpsc::Sender<std::io::Result<Bytes>>) {
    loop {
        let mut buffer = vec![0; CHUNK];
        let chunk = match from.read(&mut buffer).await {
            Ok(0) => return,
            Ok(n) => {
                buffer.truncate(n);
                Ok(buffer.into())
            }
            Err(error) => Err(error),
        };
        let failed = chunk.is_err();
        if to.send(chunk).await.is_err() || failed {
            return;
        }
    }
}
