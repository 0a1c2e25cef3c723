//! `lamina df`: what takes the disk: total, shared, unique, reclaimable.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use lamina::server::report::Usage;

use crate::cli::Context;
use crate::client::Route;
use crate::output::table::Table;
use crate::output::{self, Format, size};

/// Shows disk use.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How to print it
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

pub(crate) async fn run(a: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let usage: Usage = context.agent.get(&Route::new("/v1/df")).await?;
    match a.output {
        Format::Json => output::json(&usage)?,
        Format::Yaml => output::yaml(&usage)?,
        Format::Table | Format::Wide | Format::Name => output::raw(table(&usage).as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(usage: &Usage) -> String {
    let mut table = Table::new(["TYPE", "COUNT", "IN USE", "TOTAL", "SHARED", "UNIQUE", "RECLAIMABLE"]);
    for row in &usage.rows {
        let bytes = |n: Option<u64>| n.map(size::bytes).unwrap_or_default();
        table.row(vec![
            row.kind.clone(),
            row.count.to_string(),
            row.in_use.to_string(),
            size::bytes(row.total_bytes),
            bytes(row.shared_bytes),
            bytes(row.unique_bytes),
            bytes(row.reclaimable_bytes),
        ]);
    }
    let mut text = table.take();
    if usage.saved_bytes > 0 {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "sharing saves {}", size::bytes(usage.saved_bytes));
    }
    text
}

#[cfg(test)]
mod tests {
    use lamina::server::report::UsageRow;

    use super::*;

    #[test]
    fn rows_have_units_and_what_does_not_apply_is_a_dash() {
        let row = UsageRow {
            kind: "Layers".into(),
            count: 4,
            in_use: 3,
            total_bytes: 1_430_000_000,
            shared_bytes: Some(1_000_000_000),
            unique_bytes: Some(430_000_000),
            reclaimable_bytes: Some(0),
        };
        let logs = UsageRow { kind: "Logs".into(), total_bytes: 12, ..UsageRow::default() };
        let usage = Usage { rows: vec![row, logs], saved_bytes: 2_000_000_000 };
        assert_eq!(
            table(&usage),
            "TYPE     COUNT   IN USE   TOTAL     SHARED    UNIQUE   RECLAIMABLE\n\
             Layers   4       3        1.43 GB   1.00 GB   430 MB   0 B\n\
             Logs     0       0        12 B      -         -        -\n\
             sharing saves 2.00 GB\n"
        );
    }
}
