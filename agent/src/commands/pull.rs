//! `lamina pull`: fetches an image, with a bar a layer on a terminal; what a person pulled stays until `rmi`.

use std::collections::HashMap;
use std::process::ExitCode;

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lamina::server::stream::Control;
use lamina::server::wire::{self, LayerState, Pulled};

use crate::cli::Context;
use crate::client::{Route, Stream};
use crate::failure::{Failure, Status};
use crate::output::kinds::short;
use crate::output::{self, size};

/// Fetches an image.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// `NAME[:TAG][@DIGEST]`, or `oci:DIRECTORY:TAG`
    #[arg(required = true)]
    image: Vec<String>,
    /// Say nothing but the digest
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    for image in &a.image {
        let body = wire::Pull { image: image.clone(), always: true };
        let stream = context.agent.stream(&Route::new("/v1/images/pull"), &body).await?;
        let mut bars = Bars::new(context.terminal.progress && !a.quiet, a.quiet);
        let pulled = follow(stream, &mut bars).await;
        bars.clear();
        let pulled = pulled?;
        if a.quiet {
            output::line(&pulled.digest)?;
        } else {
            print(&pulled)?;
        }
        output::flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What came and what was here, in two lines.
pub(super) fn print(pulled: &Pulled) -> anyhow::Result<()> {
    let Pulled { image, digest, layers, layers_reused, fetched_bytes, reused_bytes } = pulled;
    output::line(format!("{image} {digest}"))?;
    output::line(format!(
        "{layers} layers: {} fetched ({}), {layers_reused} already here ({})",
        layers.saturating_sub(*layers_reused),
        size::bytes(*fetched_bytes),
        size::bytes(*reused_bytes),
    ))
}

async fn follow(stream: Stream, bars: &mut Bars) -> anyhow::Result<Pulled> {
    // The writer stays open: its end would tell the agent that nobody waits for this image any more.
    let Stream { mut reader, writer: _writer } = stream;
    while let Some(frame) = reader.next().await? {
        match frame.control()? {
            Control::Progress(value) => bars.show(&serde_json::from_value(value)?),
            Control::Note(text) => output::note(text),
            Control::Failed(problem) => return Err(Failure::from_problem(problem).into()),
            Control::Exit { result, .. } => return Ok(serde_json::from_value(result.unwrap_or_default())?),
            Control::Started { .. } | Control::Resize { .. } | Control::Signal(_) | Control::Detach => {}
        }
    }
    Err(Failure::new(Status::Failed, "the agent went away in the middle of the pull")
        .hint("lamina get events -A")
        .into())
}

/// A bar a layer on a terminal, a line a layer elsewhere.
struct Bars {
    all: Option<MultiProgress>,
    quiet: bool,
    layers: HashMap<String, ProgressBar>,
}

impl Bars {
    fn new(bars: bool, quiet: bool) -> Self {
        Self { all: bars.then(MultiProgress::new), quiet, layers: HashMap::new() }
    }

    fn show(&mut self, layer: &wire::Layer) {
        let name = short(&layer.digest);
        let Some(all) = &self.all else {
            let said = match layer.state {
                LayerState::Present => "already here",
                LayerState::Done => "done",
                LayerState::Waiting | LayerState::Fetching => return,
            };
            if !self.quiet {
                output::note(format!("{name}: {said}"));
            }
            return;
        };
        let bar = self.layers.entry(layer.digest.clone()).or_insert_with(|| {
            let bar = all.add(ProgressBar::new(layer.total.unwrap_or(0)));
            // A template of our own making; were it wrong, the default one would do.
            if let Ok(style) = ProgressStyle::with_template(
                "{prefix} {wide_bar:.cyan/dim} {decimal_bytes:>10}/{decimal_total_bytes:10} {msg}",
            ) {
                bar.set_style(style);
            }
            bar.set_prefix(name);
            bar
        });
        match layer.state {
            LayerState::Waiting => bar.set_message("waiting"),
            LayerState::Fetching => {
                if let Some(total) = layer.total {
                    bar.set_length(total);
                }
                bar.set_position(layer.fetched);
                bar.set_message("");
            }
            LayerState::Present => {
                bar.set_position(bar.length().unwrap_or(0));
                bar.finish_with_message("already here");
            }
            LayerState::Done => {
                bar.set_position(bar.length().unwrap_or(0));
                bar.finish_with_message("done");
            }
        }
    }

    fn clear(&mut self) {
        // Bars stay as the record of what came; only those of a failed pull are still open.
        for bar in self.layers.values().filter(|bar| !bar.is_finished()) {
            bar.abandon();
        }
    }
}
