//! What a command prints: data to standard output, all else to standard error; the reader of either may go away.

pub(crate) mod kinds;
pub(crate) mod size;
pub(crate) mod table;
mod workloads;

use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::sync::{LazyLock, Mutex, PoisonError};

use clap::ValueEnum;
use serde::Serialize;

use crate::failure::StdoutClosed;

/// How a list or an object is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for a person.
    Table,
    /// More columns.
    Wide,
    /// Kubernetes-shaped objects.
    Json,
    /// The same as YAML.
    Yaml,
    /// `kind/name`, one a line.
    Name,
}

/// What the terminal can take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    /// Progress bars on standard error.
    pub(crate) progress: bool,
    /// Colour on standard output.
    pub(crate) color: bool,
}

impl Terminal {
    /// Bars and colour only on a terminal, and not where the user said no.
    pub(crate) fn detect(no_progress: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        Self { progress: !no_progress && io::stderr().is_terminal(), color: !plain && io::stdout().is_terminal() }
    }

    /// `text` in bold, where that is shown.
    pub(crate) fn bold(self, text: &str) -> String {
        if self.color { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Buffered whole: a list of 10,000 rows is a few writes.
static OUT: LazyLock<Mutex<BufWriter<io::Stdout>>> =
    LazyLock::new(|| Mutex::new(BufWriter::with_capacity(64 * 1024, io::stdout())));

fn closed(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => StdoutClosed.into(),
        _ => anyhow::Error::from(error).context("cannot write to standard output"),
    }
}

/// Writes bytes of data.
pub(crate) fn raw(bytes: &[u8]) -> anyhow::Result<()> {
    OUT.lock().unwrap_or_else(PoisonError::into_inner).write_all(bytes).map_err(closed)
}

/// Writes text and a line's end.
pub(crate) fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    raw(text.as_ref().as_bytes())?;
    raw(b"\n")
}

/// Hands everything to the reader now.
pub(crate) fn flush() -> anyhow::Result<()> {
    OUT.lock().unwrap_or_else(PoisonError::into_inner).flush().map_err(closed)
}

/// Says something that is not data.
pub(crate) fn note(text: impl AsRef<str>) {
    // Nobody is left to be told about a standard error that is gone.
    let _ = writeln!(io::stderr(), "{}", text.as_ref());
}

/// Prints a value as JSON, as kubectl indents it.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
    raw(&text)?;
    raw(b"\n")
}

/// Prints a value as YAML.
pub(crate) fn yaml(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_yaml::to_string(value)?;
    line(text.trim_end_matches('\n'))
}
