//! `lamina explain`: what a field of a manifest does here, or the whole table of them. Needs no agent.

use std::process::ExitCode;

use clap::Args;
use lamina::api::Kind;
use lamina::api::fields::{self, Row};

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

/// Path, answer, note.
fn rows() -> Vec<[String; 3]> {
    let kinds = [Kind::Pod, Kind::Deployment, Kind::DaemonSet, Kind::Job, Kind::ConfigMap, Kind::Secret];
    let path = |row: &Row| format!("{}.{}", row.kind.to_string().to_lowercase(), row.path);
    let all = kinds.into_iter().flat_map(fields::rows);
    all.map(|row| [path(&row), row.answer.as_str().to_owned(), row.note.to_owned()]).collect()
}
