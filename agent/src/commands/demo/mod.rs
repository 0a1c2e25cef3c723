//! `lamina demo`: the guided run. An agent under a temporary root, the commands that a user would type, and after each
//! act a check that what was claimed is so.
//!
//! ```text
//! demo ── Scene (directories, the agent as a child in a process group of its own)
//!    └─── acts, in order: share → private → heal → replace → free → empty; then two tiers
//! ```
//!
//! Ctrl-C reaches the commands that run in the foreground and sets a flag here; the next step ends the run, and the
//! scene is cleared away in every case.

mod acts;
mod scene;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;

use crate::failure::{Failure, Status};
use scene::Scene;

/// Where the images are, and how fast to go.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A registry on loopback that has `base:1`, `runtime:1`, `game:1`, `game:2`, `db:1` and `shop:1`
    #[arg(long, value_name = "HOST:PORT")]
    registry: Option<String>,
    /// An OCI image layout with the same images, `game-1` for `game:1`
    #[arg(long, value_name = "DIR", conflicts_with = "registry")]
    layout: Option<PathBuf>,
    /// Do not stop between the acts for a moment of reading
    #[arg(long)]
    no_pause: bool,
}

/// Where images come from.
#[derive(Debug, Clone)]
pub(crate) enum Images {
    /// A registry.
    Registry(String),
    /// A directory.
    Layout(PathBuf),
}

impl Images {
    /// What a manifest calls the image.
    pub(crate) fn name(&self, image: &str) -> String {
        match self {
            Self::Registry(host) => format!("{host}/{image}"),
            // A layout's names have no colon.
            Self::Layout(dir) => format!("oci:{}:{}", dir.display(), image.replace(':', "-")),
        }
    }
}

pub(crate) fn run(a: Arguments) -> anyhow::Result<ExitCode> {
    let images = match (a.registry, a.layout) {
        (Some(host), _) => Images::Registry(host),
        (None, Some(dir)) => Images::Layout(dir),
        (None, None) => {
            return Err(Failure::usage("the demo needs its images")
                .hint("`cargo demo` in a checkout makes and serves them; else name --registry or --layout")
                .into());
        }
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let flag = Arc::clone(&interrupted);
    // Ends with the runtime, at the end of this function.
    runtime.spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            flag.store(true, Ordering::Relaxed);
        }
    });
    let mut scene = Scene::open(images, a.no_pause, Arc::clone(&interrupted))?;
    let result = acts::all(&mut scene);
    let cleared = scene.close();
    if interrupted.load(Ordering::Relaxed) {
        cleared?;
        return Err(Failure::new(Status::Failed, "interrupted; everything is cleared away").into());
    }
    result?;
    cleared?;
    Ok(ExitCode::SUCCESS)
}
