//! How containers begin, live and end: restart policies, probes, hooks.

use k8s_openapi::api::core::v1::{
    Container, ExecAction, HTTPGetAction, LifecycleHandler, PodSpec, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Findings;

/// How many restart rules a container may have, as the API server has it.
const MAX_RULES: usize = 20;
/// How many exit statuses a rule may name, as the API server has it.
const MAX_CODES: usize = 255;

/// A main container.
pub(super) fn container(container: &Container, spec: &PodSpec, at: &str, found: &mut Findings) {
    restart(container, at, found);
    health(container, spec, at, found);
}

/// An init container or a sidecar.
pub(super) fn init(container: &Container, spec: &PodSpec, at: &str, found: &mut Findings) {
    restart(container, at, found);
    if container.restart_policy.as_deref() == Some("Always") {
        return health(container, spec, at, found);
    }
    let only = "is for init containers with restartPolicy: Always only";
    for (field, there) in [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ] {
        if there {
            found.add(format_args!("{at}.{field}"), only);
        }
    }
}

fn restart(container: &Container, at: &str, found: &mut Findings) {
    if container.termination_message_path.as_deref().is_some_and(|p| !p.is_empty() && !p.starts_with('/')) {
        found.add(format_args!("{at}.terminationMessagePath"), "must be an absolute path");
    }
    let policy = container.termination_message_policy.as_deref().filter(|p| !p.is_empty());
    found.one_of(format_args!("{at}.terminationMessagePolicy"), policy, &["File", "FallbackToLogsOnError"]);
    let policy = container.restart_policy.as_deref().filter(|p| !p.is_empty());
    found.one_of(format_args!("{at}.restartPolicy"), policy, &["Always", "OnFailure", "Never"]);
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    if !rules.is_empty() && policy.is_none() {
        found.add(format_args!("{at}.restartPolicy"), "must be given where there are restartPolicyRules");
    }
    if rules.len() > MAX_RULES {
        found.add(format_args!("{at}.restartPolicyRules"), format!("must be no more than {MAX_RULES}"));
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = format!("{at}.restartPolicyRules[{i}]");
        found.one_of(format_args!("{at}.action"), Some(&rule.action), &["Restart", "RestartAllContainers"]);
        let Some(codes) = &rule.exit_codes else {
            found.add(format_args!("{at}.exitCodes"), "must be given");
            continue;
        };
        if !["In", "NotIn"].contains(&codes.operator.as_str()) {
            found.add(format_args!("{at}.exitCodes.operator"), "must be one of In, NotIn");
        }
        match codes.values.as_ref().map_or(0, Vec::len) {
            0 => found.add(format_args!("{at}.exitCodes.values"), "must have at least one exit status"),
            n if n > MAX_CODES => {
                found.add(format_args!("{at}.exitCodes.values"), format!("must be no more than {MAX_CODES}"));
            }
            _ => {}
        }
    }
}

fn health(container: &Container, spec: &PodSpec, at: &str, found: &mut Findings) {
    for (name, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        let Some(probe) = probe else { continue };
        let at = format!("{at}.{name}");
        one_probe(probe, container, &at, found);
        let once = name != "readinessProbe";
        if once && probe.success_threshold.is_some_and(|n| n > 1) {
            found.add(format_args!("{at}.successThreshold"), "must be 1");
        }
        if !once && probe.termination_grace_period_seconds.is_some() {
            found.add(format_args!("{at}.terminationGracePeriodSeconds"), "must not be given: nothing is ended for it");
        }
    }
    let Some(lifecycle) = &container.lifecycle else { return };
    for (name, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(hook) = hook {
            one_hook(hook, container, spec, &format!("{at}.lifecycle.{name}"), found);
        }
    }
    if let Some(signal) = lifecycle.stop_signal.as_deref().filter(|s| !s.is_empty())
        && !signal.starts_with("SIG")
    {
        found.add(format_args!("{at}.lifecycle.stopSignal"), "must be a signal's name, as in SIGTERM");
    }
}

fn one_probe(probe: &Probe, container: &Container, at: &str, found: &mut Findings) {
    let max = i64::from(i32::MAX);
    for (name, value, min) in [
        ("initialDelaySeconds", probe.initial_delay_seconds, 0),
        ("periodSeconds", probe.period_seconds, 0),
        ("timeoutSeconds", probe.timeout_seconds, 0),
        ("successThreshold", probe.success_threshold, 0),
        ("failureThreshold", probe.failure_threshold, 0),
    ] {
        found.range(format_args!("{at}.{name}"), value, min, max);
    }
    found.range(format_args!("{at}.terminationGracePeriodSeconds"), probe.termination_grace_period_seconds, 1, max);
    let grpc = probe.grpc.as_ref();
    if let Some(grpc) = grpc {
        found.range(format_args!("{at}.grpc.port"), Some(grpc.port), 1, 65535);
        found.one_of(format_args!("{at}.grpc.mode"), grpc.mode.as_deref(), &["Plaintext", "TLS"]);
    }
    let count = usize::from(grpc.is_some());
    handlers((&probe.exec, &probe.http_get, &probe.tcp_socket), count, container, at, found);
}

fn one_hook(hook: &LifecycleHandler, container: &Container, spec: &PodSpec, at: &str, found: &mut Findings) {
    let grace = spec.termination_grace_period_seconds.unwrap_or(30);
    found.range(format_args!("{at}.sleep.seconds"), hook.sleep.as_ref().map(|s| s.seconds), 0, grace);
    let count = usize::from(hook.sleep.is_some());
    handlers((&hook.exec, &hook.http_get, &hook.tcp_socket), count, container, at, found);
}

type Handlers<'a> = (&'a Option<ExecAction>, &'a Option<HTTPGetAction>, &'a Option<TCPSocketAction>);

/// Exactly one of what there is to do; `others` are those that only one side has.
fn handlers((exec, page, tcp): Handlers<'_>, others: usize, container: &Container, at: &str, found: &mut Findings) {
    let count = others + usize::from(exec.is_some()) + usize::from(page.is_some()) + usize::from(tcp.is_some());
    if count != 1 {
        found.add(at, "must have exactly one handler");
    }
    if exec.as_ref().is_some_and(|e| e.command.as_ref().is_none_or(Vec::is_empty)) {
        found.add(format_args!("{at}.exec.command"), "must not be empty");
    }
    if let Some(page) = page {
        port(&page.port, container, &format!("{at}.httpGet.port"), found);
        found.one_of(format_args!("{at}.httpGet.scheme"), page.scheme.as_deref(), &["HTTP", "HTTPS"]);
        found.one_of(format_args!("{at}.httpGet.protocol"), page.protocol.as_deref(), &["HTTP1", "HTTP2"]);
        if page.protocol.as_deref() == Some("HTTP2") {
            if page.scheme.as_deref() == Some("HTTPS") {
                found.add(format_args!("{at}.httpGet.protocol"), "HTTP2 is for scheme HTTP alone");
            }
            if page.host.as_deref().is_some_and(|h| !h.is_empty()) {
                found.add(format_args!("{at}.httpGet.host"), "must not be set with protocol HTTP2");
            }
        }
        for (i, header) in page.http_headers.iter().flatten().enumerate() {
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            if header.name.is_empty() || !header.name.bytes().all(token) {
                found.add(format_args!("{at}.httpGet.httpHeaders[{i}].name"), "is not a header's name");
            }
        }
    }
    if let Some(tcp) = tcp {
        port(&tcp.port, container, &format!("{at}.tcpSocket.port"), found);
    }
}

fn port(port: &IntOrString, container: &Container, at: &str, found: &mut Findings) {
    match port {
        IntOrString::Int(number) => found.range(at, Some(*number), 1, 65535),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().any(|p| p.name.as_deref() == Some(name.as_str()));
            let number = name.parse::<u16>().is_ok_and(|n| n > 0);
            if !named && !number {
                found.add(at, format!("the container has no port named {name:?}"));
            }
        }
    }
}
