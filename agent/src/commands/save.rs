//! `lamina save`: images as one archive that other tools, and other nodes, load.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::export;
use crate::cli::Context;
use crate::client::Route;

/// Writes an archive.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The images: names or digests
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// The file to write; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// How it is laid out
    #[arg(long, value_enum, default_value_t = Format::OciArchive)]
    format: Format,
}

/// The forms that other tools read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// An OCI image layout in a tar: podman, skopeo, containerd, newer dockers
    OciArchive,
    /// What `docker save` writes: `docker load` of any age
    DockerArchive,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let format = match a.format {
        Format::OciArchive => "oci",
        Format::DockerArchive => "docker",
    };
    let route = Route::new("/v1/images/save").with("format", format).with("images", a.images.join(","));
    export::to_file(context.agent.download(&route).await?, &a.output).await?;
    Ok(ExitCode::SUCCESS)
}
