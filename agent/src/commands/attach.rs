//! `lamina attach`: the streams of a container's own process; its status is ours.

use std::process::ExitCode;

use clap::Args;
use lamina::server::wire;

use super::stdio;
use crate::cli::Context;
use crate::client::Route;

/// Connects to a container.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The pod: `NAME` or `NAMESPACE/NAME`
    pod: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The container, where the pod has several
    #[arg(short, long)]
    container: Option<String>,
    /// Send our standard input to it; its manifest says `stdin: true`
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Use its terminal; its manifest says `tty: true`
    #[arg(short = 't', long)]
    tty: bool,
    /// Keys that leave the terminal and let what runs there go on [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<stdio::detach::Keys>,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let (namespace, pod) = super::pod_name(&a.pod, &a.namespace);
    let body = wire::Exec {
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        container: a.container,
        command: Vec::new(),
        stdin: a.stdin,
        tty: a.tty,
        size: if a.tty { stdio::size() } else { None },
    };
    let options = stdio::Options { stdin: a.stdin, tty: a.tty, detach: a.detach_keys.clone().unwrap_or_default() };
    super::command(context, &Route::new("/v1/attach"), &body, options).await
}
