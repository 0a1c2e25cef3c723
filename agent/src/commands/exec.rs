//! `lamina exec`: a command in a running container; its status is ours.

use std::process::ExitCode;

use clap::Args;
use lamina::server::wire;

use super::stdio;
use crate::cli::Context;
use crate::client::Route;

/// Runs a command in a container.
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
    /// Send our standard input to the command
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// Keys that leave the terminal and let what runs there go on [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<stdio::detach::Keys>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Arguments {
    /// Namespace and name of the pod that is meant.
    pub(crate) fn pod(&self) -> (&str, &str) {
        super::pod_name(&self.pod, &self.namespace)
    }
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let (namespace, pod) = super::pod_name(&a.pod, &a.namespace);
    let options = stdio::Options { stdin: a.stdin, tty: a.tty, detach: a.detach_keys.clone().unwrap_or_default() };
    let body = wire::Exec {
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        container: a.container,
        command: a.command,
        stdin: a.stdin,
        tty: a.tty,
        size: if a.tty { stdio::size() } else { None },
    };
    super::command(context, &Route::new("/v1/exec"), &body, options).await
}
