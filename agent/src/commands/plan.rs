//! What `lamina apply --dry-run` prints: one line a thing that would happen, in the order in which it would.

use lamina::node::{ApplyPlan, Fetch, Free, ObjectPlan, Replace};
use lamina::source::desired::Applied;

use crate::output::size::{bytes, duration};
use crate::output::table::{Table, clean};
use crate::output::{self, Format};

/// Prints a plan.
pub(super) fn print(plan: &ApplyPlan, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => output::json(&shaped(plan)?),
        Format::Yaml => output::yaml(&shaped(plan)?),
        Format::Name => plan.objects.iter().try_for_each(|o| output::line(name(o))),
        Format::Table | Format::Wide => lines(plan).iter().try_for_each(output::line),
    }
}

/// The plan as an object.
fn shaped(plan: &ApplyPlan) -> anyhow::Result<serde_json::Value> {
    let mut object = serde_json::json!({"apiVersion": "lamina.dev/v1", "kind": "ApplyPlan"});
    if let (Some(map), serde_json::Value::Object(rest)) = (object.as_object_mut(), serde_json::to_value(plan)?) {
        map.extend(rest);
    }
    Ok(object)
}

fn name(object: &ObjectPlan) -> String {
    format!("{}/{}", object.key.kind.as_str().to_lowercase(), object.key.name)
}

fn lines(plan: &ApplyPlan) -> Vec<String> {
    let mut lines: Vec<String> = plan.objects.iter().map(object).collect();
    let mut table = Table::default();
    let mut row = |what: &str, subject: String, detail: String| {
        table.row(vec![what.to_owned(), subject, detail]);
    };
    for one in &plan.fetch {
        row("fetch", one.image.clone(), fetched(one));
    }
    for pod in &plan.stop {
        row("stop", pod_name(pod), "nothing wants it any more".to_owned());
    }
    for one in &plan.replace {
        row("replace", pod_name(&one.pod), replaced(one));
    }
    for one in &plan.change {
        row("change", pod_name(&one.pod), format!("while it runs: {}", one.fields.join(", ")));
    }
    for pod in &plan.start {
        row("start", pod_name(pod), "it is new".to_owned());
    }
    if plan.free.layers > 0 {
        row("free", count(plan.free.layers, "layer"), freed(&plan.free));
    }
    let text = table.take();
    if text.is_empty() {
        lines.push("no pod would change".to_owned());
    }
    lines.extend(text.lines().map(str::to_owned));
    lines.push("nothing was changed (dry run)".to_owned());
    lines
}

fn object(object: &ObjectPlan) -> String {
    let place = match object.key.namespace.as_str() {
        "default" => String::new(),
        namespace => format!(" in {namespace}"),
    };
    let action = match object.action {
        Applied::Created => "would be created",
        Applied::Configured => "would be configured",
        Applied::Unchanged => "is unchanged",
        Applied::Deleted => "would be pruned",
        Applied::Ignored => "is ignored",
    };
    let note = object.note.as_ref().map(|note| format!(", and not count: {note}")).unwrap_or_default();
    clean(&format!("{}{place} {action}{note}", name(object)))
}

fn fetched(one: &Fetch) -> String {
    match (one.layers, one.missing, &one.problem) {
        (_, _, Some(problem)) => format!("not known: {problem}"),
        (Some(layers), Some(0), _) => format!("all of its {} here", has(layers)),
        (Some(layers), Some(missing), _) => {
            format!("{missing} of {}, {}", count(layers, "layer"), bytes(one.bytes.unwrap_or_default()))
        }
        _ => String::new(),
    }
}

fn has(layers: usize) -> String {
    format!("{} {}", count(layers, "layer"), if layers == 1 { "is" } else { "are" })
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn replaced(one: &Replace) -> String {
    let what = match one.containers.as_slice() {
        [] => "as a whole".to_owned(),
        [name] => format!("container {name}"),
        names => format!("containers {}", names.join(", ")),
    };
    format!("{what}: {}", one.fields.join(", "))
}

fn freed(free: &Free) -> String {
    let images = if free.images.is_empty() { String::new() } else { format!(", of {}", free.images.join(", ")) };
    let kept = match free.kept_seconds {
        0 => String::new(),
        seconds => format!(", after {}", duration(std::time::Duration::from_secs(seconds))),
    };
    format!("{}{images}{kept}", bytes(free.bytes))
}

/// `pod/web`, and where it is if that is not the default.
fn pod_name(pod: &str) -> String {
    match pod.split_once('/') {
        Some(("default", name)) => format!("pod/{name}"),
        Some((namespace, name)) => format!("pod/{name} in {namespace}"),
        None => format!("pod/{pod}"),
    }
}

#[cfg(test)]
mod tests {
    use lamina::api::{Kind, ObjectKey};

    use super::*;

    #[test]
    fn a_plan_is_read_from_top_to_bottom() {
        let key = ObjectKey { kind: Kind::Deployment, namespace: "default".into(), name: "web".into() };
        let plan = ApplyPlan {
            objects: vec![ObjectPlan { key, action: Applied::Configured, note: None }],
            fetch: vec![
                Fetch {
                    image: "r/a:2".into(),
                    layers: Some(3),
                    missing: Some(1),
                    bytes: Some(2_500_000),
                    problem: None,
                },
                Fetch { image: "r/b:1".into(), problem: Some("no answer".into()), ..Fetch::default() },
            ],
            replace: vec![Replace {
                pod: "default/web-0".into(),
                containers: vec!["app".into()],
                fields: vec!["spec.containers{app}.image".into()],
            }],
            stop: vec!["other/web-1".into()],
            free: Free { layers: 1, bytes: 1000, images: vec!["r/a:1".into()], kept_seconds: 0 },
            ..ApplyPlan::default()
        };
        assert_eq!(
            lines(&plan),
            [
                "deployment/web would be configured",
                "fetch     r/a:2                1 of 3 layers, 2.50 MB",
                "fetch     r/b:1                not known: no answer",
                "stop      pod/web-1 in other   nothing wants it any more",
                "replace   pod/web-0            container app: spec.containers{app}.image",
                "free      1 layer              1.00 kB, of r/a:1",
                "nothing was changed (dry run)",
            ]
        );
    }
}
