//! `lamina explain`: what a field of a manifest does here, or the whole table of them. Needs no agent.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use lamina::api::Kind;
use lamina::api::fields::{self, Answer, Row};

use crate::failure::{Failure, Status};
use crate::output;
use crate::output::table::Table;

/// Explains fields.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The field, as in `pod.spec.containers.image`; or a part of its path
    #[arg(value_name = "KIND.FIELD")]
    field: Option<String>,
    /// The whole table
    #[arg(long)]
    fields: bool,
}

pub(crate) fn run(a: &Arguments) -> anyhow::Result<ExitCode> {
    let wanted = a.field.as_deref().unwrap_or_default().to_lowercase().replace("[]", "");
    if wanted.is_empty() && !a.fields {
        return Err(Failure::usage("no field was named").hint("lamina explain --fields prints the whole table").into());
    }
    let mut table = Table::new(["FIELD", "ANSWER", "NOTE"]);
    let mut found = false;
    for row in rows() {
        if row[0].to_lowercase().replace("[]", "").contains(&wanted) {
            found = true;
            table.row(row.to_vec());
        }
    }
    if !found {
        return Err(Failure::new(Status::NotFound, format!("no field is called {wanted}"))
            .hint("lamina explain --fields prints the whole table")
            .into());
    }
    output::raw(table.take().as_bytes())?;
    output::flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The kinds whose fields have tables.
const WORKLOADS: [Kind; 8] = [
    Kind::Pod,
    Kind::Deployment,
    Kind::StatefulSet,
    Kind::DaemonSet,
    Kind::Job,
    Kind::CronJob,
    Kind::Service,
    Kind::PersistentVolumeClaim,
];

/// The table for people who read it whole: fields of one kind with one answer for one reason together.
pub(super) fn summary() -> String {
    let mut text = String::new();
    for kind in WORKLOADS {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "**{kind}**\n\n| answer | fields | |\n|---|---|---|");
        let rows = fields::rows(kind);
        for answer in [Answer::Honoured, Answer::Ignored, Answer::Rejected] {
            let mut notes: Vec<&str> = rows.iter().filter(|row| row.answer == answer).map(|row| row.note).collect();
            notes.sort_unstable();
            notes.dedup();
            for note in notes {
                let same = rows.iter().filter(|row| row.answer == answer && row.note == note);
                let names: Vec<String> = same.map(|row| format!("`{}`", row.path)).collect();
                let _ = writeln!(text, "| {} | {} | {note} |", answer.as_str(), names.join(", "));
            }
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Path, answer, note.
fn rows() -> Vec<[String; 3]> {
    let path = |row: &Row| format!("{}.{}", row.kind.to_string().to_lowercase(), row.path);
    let all = WORKLOADS.into_iter().flat_map(fields::rows);
    all.map(|row| [path(&row), row.answer.as_str().to_owned(), row.note.to_owned()]).collect()
}
