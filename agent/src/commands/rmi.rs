//! `lamina rmi`: removes a name of an image; with the last thing that holds it, the image goes, and what it alone held.

use std::process::ExitCode;

use clap::Args;
use lamina::server::wire;
use serde::Deserialize;

use crate::cli::Context;
use crate::client::Route;
use crate::output::{self, size};

/// Removes names of images.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Names, or digests: then all names of that image
    #[arg(required = true)]
    image: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    untagged: Vec<String>,
    freed_bytes: u64,
    layers_freed: usize,
    /// What holds the image still.
    held_by: Vec<String>,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    for image in a.image {
        let body = wire::Name { image, target: None };
        let answer: Answer = context.agent.post(&Route::new("/v1/images/remove"), &body).await?;
        for name in &answer.untagged {
            output::line(format!("untagged {name}"))?;
        }
        if answer.held_by.is_empty() {
            output::line(format!("freed {} in {} layers", size::bytes(answer.freed_bytes), answer.layers_freed))?;
        } else {
            output::note(format!("the image stays: it is held by {}", answer.held_by.join(", ")));
        }
    }
    Ok(ExitCode::SUCCESS)
}
