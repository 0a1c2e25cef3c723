//! `lamina history`: an image's layers, newest first: size, how many share each, what made them.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use lamina::server::report::History;

use crate::cli::Context;
use crate::client::Route;
use crate::output::kinds::short;
use crate::output::table::Table;
use crate::output::{self, Format, size};

/// The longest command that is shown without `--no-trunc`.
const COMMAND_WIDTH: usize = 60;

/// Shows an image's layers.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The image: a name or a digest
    image: String,
    /// Show commands and keys whole
    #[arg(long)]
    no_trunc: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let history: History = context.agent.get(&Route::new("/v1/history").with("image", &a.image)).await?;
    match a.output {
        Format::Json => output::json(&history)?,
        Format::Yaml => output::yaml(&history)?,
        Format::Name => {
            for step in history.steps.iter().rev() {
                if let Some(layer) = &step.layer {
                    output::line(format!("layer/{}", layer.key))?;
                }
            }
        }
        Format::Table | Format::Wide => output::raw(table(&history, a.no_trunc, Timestamp::now()).as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(history: &History, whole: bool, now: Timestamp) -> String {
    let mut table = Table::new(["LAYER", "CREATED", "SIZE", "IMAGES", "CONTAINERS", "CREATED BY"]);
    for step in history.steps.iter().rev() {
        let mut by = step.created_by.clone().unwrap_or_default();
        if !whole && by.chars().count() > COMMAND_WIDTH {
            by = by.chars().take(COMMAND_WIDTH - 1).chain(['…']).collect();
        }
        let created = step.created.as_deref().map(|time| format!("{} ago", size::age(time, now))).unwrap_or_default();
        let mut row = match &step.layer {
            Some(layer) => vec![
                if whole { layer.key.clone() } else { short(&layer.key) },
                size::bytes(layer.size_bytes),
                layer.images.to_string(),
                layer.containers.to_string(),
            ],
            None => vec![String::new(), "0 B".to_owned(), String::new(), String::new()],
        };
        row.insert(1, created);
        row.push(by);
        table.row(row);
    }
    table.take()
}

#[cfg(test)]
mod tests {
    use lamina::server::report::{HistoryLayer, Step};

    use super::*;

    #[test]
    fn the_newest_step_comes_first_and_steps_without_a_layer_are_shown() {
        let history = History {
            image: "game:1".into(),
            digest: "sha256:00".into(),
            steps: vec![
                Step {
                    created: Some("2026-01-01T00:00:00Z".into()),
                    created_by: Some("base".into()),
                    comment: None,
                    layer: Some(HistoryLayer {
                        key: format!("sha256-{}", "ab".repeat(32)),
                        size_bytes: 1_500_000,
                        images: 3,
                        containers: 1,
                    }),
                },
                Step { created: None, created_by: Some("x".repeat(61)), comment: None, layer: None },
            ],
        };
        let text = table(&history, false, "2026-01-01T01:00:00Z".parse().unwrap());
        assert_eq!(
            text,
            format!(
                "LAYER          CREATED   SIZE      IMAGES   CONTAINERS   CREATED BY\n\
                 -              -         0 B       -        -            {}…\n\
                 abababababab   60m ago   1.50 MB   3        1            base\n",
                "x".repeat(59)
            )
        );
    }
}
