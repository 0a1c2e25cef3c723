//! `lamina image tree`: images as stacks of layers, merged where they begin alike, and who else has each layer.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::Context;
use crate::client::Route;
use crate::output::kinds::{number, short, text};
use crate::output::size::bytes;
use crate::output::table::clean;
use crate::output::{self, Format};

/// Images.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Stacks of layers from the base up, their sizes, and who shares each
    Tree {
        /// Only this image: a name or a digest
        image: Option<String>,
        /// How to print it
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
}

#[derive(Debug, Deserialize)]
struct List {
    items: Vec<Value>,
}

/// A layer, and what lies on it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    layer: String,
    size_bytes: u64,
    /// How many images have the layer, wherever it lies in them, and how many containers run on it.
    images: u64,
    containers: u64,
    /// The images that end here.
    names: Vec<String>,
    above: Vec<Node>,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let Verb::Tree { image, output } = a.verb;
    let images: List = context.agent.get(&Route::new("/v1/images").with_some("name", image)).await?;
    let layers: List = context.agent.get(&Route::new("/v1/layers")).await?;
    let known: BTreeMap<String, &Value> = layers.items.iter().map(|l| (text(l, "/metadata/name"), l)).collect();
    let roots = grow(&images.items, &known);
    match output {
        Format::Json => output::json(&roots)?,
        Format::Yaml => output::yaml(&roots)?,
        Format::Name => images.items.iter().try_for_each(|i| output::line(format!("image/{}", name(i))))?,
        Format::Table | Format::Wide if roots.is_empty() => output::note("no images found"),
        Format::Table | Format::Wide => {
            let mut lines = Vec::new();
            for root in &roots {
                draw(root, "", "", &mut lines);
            }
            lines.iter().try_for_each(output::line)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn name(image: &Value) -> String {
    text(image, "/metadata/name")
}

/// The trees that the images make.
fn grow(images: &[Value], layers: &BTreeMap<String, &Value>) -> Vec<Node> {
    let mut roots = Vec::new();
    for image in images {
        let mut keys = image.pointer("/status/layers").and_then(Value::as_array).into_iter().flatten();
        let names: Vec<String> = image
            .pointer("/status/references")
            .and_then(Value::as_array)
            .filter(|names| !names.is_empty())
            .map_or_else(
                || vec![name(image)],
                |all| all.iter().filter_map(|n| n.as_str().map(str::to_owned)).collect(),
            );
        plant(&mut roots, &mut keys, &names, layers);
    }
    roots
}

/// Puts what is left of a stack on `level`.
fn plant(
    level: &mut Vec<Node>,
    keys: &mut dyn Iterator<Item = &Value>,
    names: &[String],
    layers: &BTreeMap<String, &Value>,
) {
    // An image may have no layer at all.
    let key = keys.next().and_then(Value::as_str);
    let layer = key.unwrap_or_default();
    let at = level.iter().position(|node| node.layer == layer).unwrap_or_else(|| {
        let known = layers.get(layer);
        let count = |pointer| known.map_or(0, |l| number(l, pointer));
        level.push(Node {
            layer: layer.to_owned(),
            size_bytes: count("/status/sizeBytes"),
            images: count("/status/images"),
            containers: count("/status/containers"),
            ..Node::default()
        });
        level.len() - 1
    });
    let Some(node) = level.get_mut(at) else { return };
    let mut keys = keys.peekable();
    if key.is_none() || keys.peek().is_none() {
        node.names.extend(names.iter().cloned());
    } else {
        plant(&mut node.above, &mut keys, names, layers);
    }
}

/// `first` begins the node's own line, `rest` those below it.
fn draw(node: &Node, first: &str, rest: &str, lines: &mut Vec<String>) {
    let count = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let layer = if node.layer.is_empty() {
        "no layers".to_owned()
    } else {
        let shared = match node.images {
            0 | 1 => String::new(),
            n => format!(", shared by {n} images"),
        };
        let used =
            if node.containers > 0 { format!(", {}", count(node.containers, "container")) } else { String::new() };
        format!("{}  {}{shared}{used}", short(&node.layer), bytes(node.size_bytes))
    };
    lines.push(format!("{first}{layer}"));
    for name in &node.names {
        let bar = if node.above.is_empty() { "   " } else { "│  " };
        lines.push(clean(&format!("{rest}{bar}= {name}")));
    }
    for (n, above) in node.above.iter().enumerate() {
        let last = n + 1 == node.above.len();
        let (branch, bar) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        draw(above, &format!("{rest}{branch}"), &format!("{rest}{bar}"), lines);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stacks_that_begin_alike_are_drawn_once() {
        let image = |name: &str, layers: &[&str]| json!({"metadata": {"name": name}, "status": {"references": [name], "layers": layers}});
        let layer = |name: &str, size: u64, images: u64, containers: u64| json!({"metadata": {"name": name}, "status": {"sizeBytes": size, "images": images, "containers": containers}});
        let all = [
            layer("sha256-aaaaaaaaaaaaaaaa", 1000, 3, 2),
            layer("sha256-bbbbbbbbbbbbbbbb", 2000, 1, 1),
            layer("sha256-cccccccccccccccc", 3000, 1, 0),
        ];
        let known = all.iter().map(|l| (text(l, "/metadata/name"), l)).collect();
        let images = [
            image("base:1", &["sha256-aaaaaaaaaaaaaaaa"]),
            image("game:1", &["sha256-aaaaaaaaaaaaaaaa", "sha256-bbbbbbbbbbbbbbbb"]),
            image("game:2", &["sha256-aaaaaaaaaaaaaaaa", "sha256-cccccccccccccccc"]),
            image("empty:1", &[]),
        ];
        let mut lines = Vec::new();
        for root in grow(&images, &known) {
            draw(&root, "", "", &mut lines);
        }
        assert_eq!(
            lines,
            [
                "aaaaaaaaaaaa  1.00 kB, shared by 3 images, 2 containers",
                "│  = base:1",
                "├─ bbbbbbbbbbbb  2.00 kB, 1 container",
                "│     = game:1",
                "└─ cccccccccccc  3.00 kB",
                "      = game:2",
                "no layers",
                "   = empty:1",
            ]
        );
    }
}
