//! `lamina export`: the one merged tree of a container or an image, as a tar.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use crate::cli::Context;
use crate::client::{Download, Route};
use crate::failure::Failure;
use crate::output;

/// Writes a tar.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// `POD[/CONTAINER]`, or an image's name; `pod/…` and `image/…` say which where both exist
    #[arg(value_name = "CONTAINER|IMAGE")]
    what: String,
    /// The pod's namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The file to write; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let route = Route::new("/v1/export").with("what", &a.what).with("namespace", &a.namespace);
    to_file(context.agent.download(&route).await?, &a.output).await?;
    Ok(ExitCode::SUCCESS)
}

/// Writes what comes to a file, or to standard output for `-`.
pub(super) async fn to_file(mut body: Download, path: &Path) -> anyhow::Result<()> {
    if path.as_os_str() == "-" {
        if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
            return Err(Failure::usage("a tar is not for a terminal").hint("name a file with -o FILE").into());
        }
        while let Some(chunk) = body.chunk().await? {
            output::raw(&chunk)?;
        }
        return Ok(());
    }
    // Written beside its place and renamed, so that a broken export never looks like a whole one.
    let mut name = path.file_name().context("the output has no file name")?.to_owned();
    name.push(format!(".part-{}", std::process::id()));
    let part = path.with_file_name(name);
    let write = async {
        let mut file = std::fs::File::create(&part)?;
        while let Some(chunk) = body.chunk().await? {
            file.write_all(&chunk)?;
        }
        std::fs::rename(&part, path)?;
        anyhow::Ok(())
    };
    let written = write.await;
    if written.is_err() {
        // What is left of it is of no use.
        let _ = std::fs::remove_file(&part);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}
