//! `lamina top`: live cpu, memory, writable layer and network, from two looks at the counters.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use lamina::server::telemetry::usage::{Node, PodUsage, Sample};

use crate::cli::Context;
use crate::client::Route;
use crate::output::table::Table;
use crate::output::{self, size};

/// Shows what is used.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Of what
    #[arg(value_enum, default_value = "pods")]
    what: What,
    /// Pods of this namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Pods of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Each container by itself
    #[arg(long)]
    containers: bool,
    /// Then go on, a table at each interval
    #[arg(short, long)]
    watch: bool,
    /// The time between two looks
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = super::duration)]
    interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Pods
    Pods,
    /// The node
    Node,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let namespace = (!a.all_namespaces && a.what == What::Pods).then_some(&a.namespace);
    let route = Route::new("/v1/usage").with_some("namespace", namespace);
    let mut before: Sample = context.agent.get(&route).await?;
    loop {
        tokio::time::sleep(a.interval).await;
        let now: Sample = context.agent.get(&route).await?;
        let table = match a.what {
            What::Pods => pods(&before, &now, a.all_namespaces, a.containers),
            What::Node => node(&before.node, &now.node, elapsed(&before, &now)),
        };
        if a.watch && context.terminal.color {
            // In the place of the one before.
            output::raw(b"\x1b[H\x1b[J")?;
        }
        output::raw(table.as_bytes())?;
        output::flush()?;
        if !a.watch {
            return Ok(ExitCode::SUCCESS);
        }
        before = now;
    }
}

/// Seconds between two samples, by the agent's monotonic clock.
fn elapsed(before: &Sample, now: &Sample) -> f64 {
    now.seconds - before.seconds
}

/// Cores in use, in thousandths, as kubectl writes them.
fn cores(before: f64, now: f64, seconds: f64) -> String {
    if seconds <= 0.0 {
        return "0m".to_owned();
    }
    format!("{:.0}m", ((now - before) / seconds * 1000.0).max(0.0))
}

/// Bytes a second.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "three digits are shown"
)]
fn rate(before: u64, now: u64, seconds: f64) -> String {
    let per_second = if seconds > 0.0 { now.saturating_sub(before) as f64 / seconds } else { 0.0 };
    format!("{}/s", size::bytes(per_second as u64))
}

fn pods(before: &Sample, now: &Sample, with_namespace: bool, by_container: bool) -> String {
    let seconds = elapsed(before, now);
    let old: HashMap<(&str, &str), &PodUsage> =
        before.pods.iter().map(|p| ((p.namespace.as_str(), p.name.as_str()), p)).collect();
    let mut titles = vec!["POD"];
    if with_namespace {
        titles.insert(0, "NAMESPACE");
    }
    if by_container {
        titles.push("CONTAINER");
    }
    titles.extend(["CPU", "MEMORY", "WRITABLE"]);
    if !by_container {
        titles.extend(["RECEIVED", "SENT"]);
    }
    let mut table = Table::new(titles);
    for pod in &now.pods {
        let was = old.get(&(pod.namespace.as_str(), pod.name.as_str())).copied();
        // A container that was not there before, or began anew, has used all it has used since then.
        let cpu_before = |name: &str, cpu: f64| {
            let then = was.and_then(|w| w.containers.iter().find(|c| c.name == name)).map_or(0.0, |c| c.cpu_seconds);
            if then > cpu { 0.0 } else { then }
        };
        let head = |table_row: &mut Vec<String>| {
            if with_namespace {
                table_row.push(pod.namespace.clone());
            }
            table_row.push(pod.name.clone());
        };
        let writable = |n: Option<u64>| n.map(size::bytes).unwrap_or_default();
        if by_container {
            for c in &pod.containers {
                let mut row = Vec::new();
                head(&mut row);
                row.push(c.name.clone());
                row.push(cores(cpu_before(&c.name, c.cpu_seconds), c.cpu_seconds, seconds));
                row.push(size::bytes(c.memory_bytes));
                row.push(writable(c.writable_bytes));
                table.row(row);
            }
            continue;
        }
        let mut row = Vec::new();
        head(&mut row);
        let cpu: f64 = pod.containers.iter().map(|c| c.cpu_seconds).sum();
        let cpu_then: f64 = pod.containers.iter().map(|c| cpu_before(&c.name, c.cpu_seconds)).sum();
        row.push(cores(cpu_then, cpu, seconds));
        row.push(size::bytes(pod.containers.iter().map(|c| c.memory_bytes).sum()));
        row.push(writable(pod.containers.iter().map(|c| c.writable_bytes).sum()));
        match (&pod.network, was.and_then(|w| w.network.as_ref())) {
            (Some(n), Some(w)) => {
                row.push(rate(w.receive_bytes, n.receive_bytes, seconds));
                row.push(rate(w.transmit_bytes, n.transmit_bytes, seconds));
            }
            _ => row.extend([String::new(), String::new()]),
        }
        table.row(row);
    }
    table.take()
}

fn node(before: &Node, now: &Node, seconds: f64) -> String {
    let mut table = Table::new(["CPU", "CORES", "MEMORY", "OF", "STORE", "CAPACITY"]);
    table.row(vec![
        cores(before.cpu_seconds, now.cpu_seconds, seconds),
        now.cores.to_string(),
        size::bytes(now.memory_bytes),
        size::bytes(now.memory_total_bytes),
        size::bytes(now.store_bytes),
        size::bytes(now.store_capacity_bytes),
    ]);
    table.take()
}

#[cfg(test)]
mod tests {
    use lamina::server::telemetry::usage::ContainerUsage;

    use super::*;

    fn sample(seconds: f64, cpu: f64) -> Sample {
        let container =
            ContainerUsage { name: "app".into(), cpu_seconds: cpu, memory_bytes: 5_000_000, writable_bytes: Some(0) };
        let pod =
            PodUsage { namespace: "default".into(), name: "web".into(), containers: vec![container], network: None };
        Sample { seconds, pods: vec![pod], node: Node::default() }
    }

    #[test]
    fn cpu_is_what_was_used_between_two_looks() {
        let text = pods(&sample(10.0, 1.0), &sample(12.0, 1.5), false, false);
        assert_eq!(
            text,
            "POD   CPU    MEMORY    WRITABLE   RECEIVED   SENT\nweb   250m   5.00 MB   0 B        -          -\n"
        );
    }

    #[test]
    fn a_container_that_began_anew_has_no_negative_cpu() {
        let text = pods(&sample(10.0, 9.0), &sample(11.0, 0.1), false, true);
        assert!(text.contains("100m"), "{text}");
    }
}
