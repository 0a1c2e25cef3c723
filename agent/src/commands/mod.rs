//! The verbs, one file each: its arguments, and what it does with them.

pub(crate) mod agent;
pub(crate) mod apply;
pub(crate) mod attach;
pub(crate) mod check;
pub(crate) mod completion;
pub(crate) mod controller;
pub(crate) mod cp;
pub(crate) mod crd;
pub(crate) mod delete;
pub(crate) mod demo;
pub(crate) mod describe;
pub(crate) mod df;
pub(crate) mod diff;
pub(crate) mod docs;
pub(crate) mod drain;
pub(crate) mod exec;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod gc;
pub(crate) mod get;
pub(crate) mod history;
pub(crate) mod image;
pub(crate) mod info;
pub(crate) mod load;
pub(crate) mod logs;
mod manifests;
pub(crate) mod pin;
mod plan;
pub(crate) mod port_forward;
pub(crate) mod pull;
pub(crate) mod restart;
pub(crate) mod rmi;
pub(crate) mod rollout;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod scale;
pub(crate) mod shim;
mod stdio;
pub(crate) mod tag;
pub(crate) mod top;
pub(crate) mod wait;
pub(crate) mod why;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use lamina::api::duration::DurationError;
use lamina::store::Store;
use serde::Serialize;

use crate::cli::Context;
use crate::client::Route;
use crate::failure::{Failure, Status};
use crate::output::kinds::Kind;

/// A pod as people name it: `NAME`, `NAMESPACE/NAME`, `pod/NAME`.
fn pod_name<'a>(text: &'a str, namespace: &'a str) -> (&'a str, &'a str) {
    match text.split_once('/') {
        Some(("pod" | "pods" | "po", name)) => (namespace, name),
        Some((namespace, name)) => (namespace, name),
        None => (namespace, text),
    }
}

/// A duration of the command line.
fn duration(text: &str) -> Result<Duration, DurationError> {
    lamina::api::duration::parse(text)
}

/// An object as people name it: `KIND/NAME`; a name alone is a pod.
fn object_name(text: &str) -> (&str, &str) {
    text.split_once('/').unwrap_or(("pod", text))
}

/// A kind as people name it, in singular or plural.
fn kind(text: &str) -> anyhow::Result<Kind> {
    <Kind as clap::ValueEnum>::from_str(text, true).map_err(|_| {
        let known: Vec<_> = <Kind as clap::ValueEnum>::value_variants().iter().map(|k| k.singular()).collect();
        Failure::usage(format!("there is no kind {text}")).hint(format!("one of {}", known.join(", "))).into()
    })
}

/// The store on disk, when `error` says that no agent runs which could answer.
fn stopped_store(error: anyhow::Error, root: &Path) -> anyhow::Result<Store> {
    if error.downcast_ref::<Failure>().is_none_or(|failure| failure.status() != Status::Agent) {
        return Err(error);
    }
    Store::open_read_only(root).map_err(|source| {
        Failure::new(Status::Agent, "no agent is running, and the store cannot be read")
            .source(source)
            .hint("name the store's directory with --root, or the agent's with --run")
            .into()
    })
}

/// Starts a command and connects us to it; until it runs, every failure is 125, 126 or 127.
async fn command(
    context: &Context,
    route: &Route,
    body: &impl Serialize,
    options: stdio::Options,
) -> anyhow::Result<ExitCode> {
    let stream = context.agent.stream(route, body).await.map_err(|error| match error.downcast::<Failure>() {
        // An agent that is not there keeps its own status, so that scripts can tell.
        Ok(failure) if failure.status() == Status::Agent => failure.into(),
        Ok(failure) => failure.before_the_command().into(),
        Err(error) => error,
    })?;
    stdio::session(stream, options).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_named_in_three_ways() {
        assert_eq!(pod_name("web", "n"), ("n", "web"));
        assert_eq!(pod_name("pod/web", "n"), ("n", "web"));
        assert_eq!(pod_name("prod/web", "n"), ("prod", "web"));
    }
}
