//! `lamina run`: a one-off pod from the command line; its output is ours, and its exit status.
//!
//! The pod is made here as a manifest would have it, so that the agent checks it like any other.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use lamina::server::wire;
use serde_json::{Map, Value, json};

use super::stdio;
use crate::cli::Context;
use crate::client::Route;
use crate::failure::Failure;
use crate::output;

/// The name of the one container.
const CONTAINER: &str = "main";

/// Runs a one-off pod.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The image
    image: String,
    /// Send our standard input to it
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give it a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// Remove the pod when it ends or this command does
    #[arg(long)]
    rm: bool,
    /// Print its name and leave it running
    #[arg(short, long, conflicts_with_all = ["stdin", "tty", "rm"])]
    detach: bool,
    /// The pod's name [default: made from the image's name]
    #[arg(long)]
    name: Option<String>,
    /// The pod's namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Set a variable of its environment; without a value, ours
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Mount a directory or file of the host
    #[arg(short, long, value_name = "HOST:PATH[:ro]")]
    volume: Vec<String>,
    /// Its directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run as this user
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Run this instead of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// At most this much memory: `64Mi`
    #[arg(long, value_name = "QUANTITY")]
    memory: Option<String>,
    /// At most this much cpu: `500m`
    #[arg(long, value_name = "QUANTITY")]
    cpu: Option<String>,
    /// Use the host's network in place of the pod network
    #[arg(long)]
    host_network: bool,
    /// All capabilities and devices, no seccomp
    #[arg(long)]
    privileged: bool,
    /// Whether to ask the registry
    #[arg(long, value_enum)]
    pull: Option<Pull>,
    /// Keys that leave the terminal and let the pod go on; not with --rm [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<stdio::detach::Keys>,
    /// The command's arguments, or the command where the image has no entry point
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Pull {
    Always,
    Missing,
    Never,
}

pub(crate) async fn run(mut a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let name = match a.name.take() {
        Some(name) => name,
        None => format!("{}-{}", base_name(&a.image), suffix()),
    };
    // Leaving would end what goes with its client.
    let detach = if a.rm { stdio::detach::Keys::none() } else { a.detach_keys.clone().unwrap_or_default() };
    let body = wire::Run {
        pod: pod(&a, &name, |variable| std::env::var(variable).ok())?,
        stdin: a.stdin,
        tty: a.tty,
        remove: a.rm,
        detach: a.detach,
        size: if a.tty { stdio::size() } else { None },
    };
    let options = stdio::Options { stdin: a.stdin, tty: a.tty, detach };
    let code = super::command(context, &Route::new("/v1/run"), &body, options).await?;
    if a.detach && code == ExitCode::SUCCESS {
        output::line(format!("pod/{name}"))?;
    }
    Ok(code)
}

/// The last part of an image's name, as far as a pod's name can be made of it.
fn base_name(image: &str) -> String {
    let path = image.split('@').next().unwrap_or(image);
    let last = path.rsplit('/').next().unwrap_or(path);
    let plain: String = last
        .split(':')
        .next()
        .unwrap_or(last)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .take(40)
        .collect();
    match plain.trim_matches('-') {
        "" => "run".to_owned(),
        name => name.to_owned(),
    }
}

/// Tells the pods of one image apart.
fn suffix() -> String {
    let [a, b, c] = lamina::server::wire::random();
    format!("{a:02x}{b:02x}{c:02x}")
}

fn variable(text: &str, ours: impl Fn(&str) -> Option<String>) -> Option<Value> {
    match text.split_once('=') {
        Some((name, value)) => Some(json!({"name": name, "value": escape(value)})),
        None => ours(text).map(|value| json!({"name": text, "value": escape(&value)})),
    }
}

/// A manifest expands `$(NAME)`; what comes from a command line is meant as it is.
fn escape(text: &str) -> String {
    text.replace("$(", "$$(")
}

fn mount(text: &str, n: usize) -> anyhow::Result<(Value, Value)> {
    let mut parts = text.split(':');
    let (Some(host), Some(path)) = (parts.next(), parts.next()) else {
        return Err(Failure::usage(format!("the volume {text:?} is not HOST:PATH or HOST:PATH:ro")).into());
    };
    let read_only = match parts.next() {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(other) => {
            return Err(Failure::usage(format!("the volume {text:?} has the unknown option {other:?}")).into());
        }
    };
    let name = format!("v{n}");
    let volume = json!({"name": name, "hostPath": {"path": host}});
    Ok((volume, json!({"name": name, "mountPath": path, "readOnly": read_only})))
}

fn pod(a: &Arguments, name: &str, ours: impl Fn(&str) -> Option<String>) -> anyhow::Result<Value> {
    let mut container = Map::new();
    container.insert("name".into(), json!(CONTAINER));
    container.insert("image".into(), json!(a.image));
    if !a.command.is_empty() {
        container.insert("args".into(), a.command.iter().map(|word| escape(word)).collect());
    }
    if let Some(program) = &a.entrypoint {
        container.insert("command".into(), json!([escape(program)]));
    }
    if a.stdin {
        container.insert("stdin".into(), json!(true));
        container.insert("stdinOnce".into(), json!(true));
    }
    if a.tty {
        container.insert("tty".into(), json!(true));
    }
    if let Some(dir) = &a.workdir {
        container.insert("workingDir".into(), json!(dir));
    }
    let variables: Vec<Value> = a.env.iter().filter_map(|text| variable(text, &ours)).collect();
    if !variables.is_empty() {
        container.insert("env".into(), variables.into());
    }
    if let Some(pull) = a.pull {
        let policy = match pull {
            Pull::Always => "Always",
            Pull::Missing => "IfNotPresent",
            Pull::Never => "Never",
        };
        container.insert("imagePullPolicy".into(), json!(policy));
    }
    let limits: Map<String, Value> = [("memory", &a.memory), ("cpu", &a.cpu)]
        .into_iter()
        .filter_map(|(what, limit)| limit.as_ref().map(|limit| (what.to_owned(), json!(limit))))
        .collect();
    if !limits.is_empty() {
        container.insert("resources".into(), json!({"limits": limits}));
    }
    let mut security = Map::new();
    if let Some(user) = &a.user {
        let (uid, gid) = user.split_once(':').map_or((user.as_str(), None), |(uid, gid)| (uid, Some(gid)));
        let number = |text: &str| {
            text.parse::<u32>()
                .map_err(|_| Failure::usage(format!("the user {user:?} is not UID or UID:GID in numbers")))
        };
        security.insert("runAsUser".into(), json!(number(uid)?));
        if let Some(gid) = gid {
            security.insert("runAsGroup".into(), json!(number(gid)?));
        }
    }
    if a.privileged {
        security.insert("privileged".into(), json!(true));
    }
    if !security.is_empty() {
        container.insert("securityContext".into(), security.into());
    }
    let mut spec = Map::new();
    let (volumes, mounts): (Vec<Value>, Vec<Value>) = a
        .volume
        .iter()
        .enumerate()
        .map(|(n, text)| mount(text, n))
        .collect::<anyhow::Result<Vec<_>>>()?
        .into_iter()
        .unzip();
    if !volumes.is_empty() {
        container.insert("volumeMounts".into(), mounts.into());
        spec.insert("volumes".into(), volumes.into());
    }
    spec.insert("restartPolicy".into(), json!("Never"));
    if a.host_network {
        spec.insert("hostNetwork".into(), json!(true));
    }
    spec.insert("containers".into(), json!([container]));
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": a.namespace},
        "spec": spec,
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        run: Arguments,
    }

    fn made(line: &str) -> Value {
        let line = Line::try_parse_from(std::iter::once("run").chain(line.split(' '))).unwrap();
        pod(&line.run, "x", |name| (name == "HOME").then(|| "/root".to_owned())).unwrap()
    }

    #[test]
    fn what_follows_the_image_is_the_command_with_and_without_dashes() {
        for line in ["busybox --rm ls -l /", "busybox --rm -- ls -l /", "--rm busybox -- ls -l /"] {
            assert_eq!(made(line)["spec"]["containers"][0]["args"], json!(["ls", "-l", "/"]), "{line}");
        }
    }

    #[test]
    fn flags_become_fields_of_a_manifest() {
        let pod =
            made("-it -e A=$(B) -e HOME -e UNSET -v /srv:/data:ro -u 7:8 --memory 64Mi --host-network reg:5000/a/b:1");
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["env"], json!([{"name": "A", "value": "$$(B)"}, {"name": "HOME", "value": "/root"}]));
        assert_eq!(container["volumeMounts"], json!([{"name": "v0", "mountPath": "/data", "readOnly": true}]));
        assert_eq!(container["securityContext"], json!({"runAsUser": 7, "runAsGroup": 8}));
        assert_eq!(container["resources"], json!({"limits": {"memory": "64Mi"}}));
        assert_eq!((&container["stdin"], &container["tty"]), (&json!(true), &json!(true)));
        assert_eq!(pod["spec"]["restartPolicy"], "Never");
        assert_eq!(pod["spec"]["hostNetwork"], true);
    }

    #[test]
    fn a_name_is_made_from_any_image() {
        for (image, name) in [
            ("busybox", "busybox"),
            ("127.0.0.1:5000/Team/web_app:1.2", "web-app"),
            ("a/b@sha256:00", "b"),
            ("oci:/srv/layout:1", "layout"),
            ("___", "run"),
        ] {
            assert_eq!(base_name(image), name);
        }
    }
}
