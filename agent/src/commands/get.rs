//! `lamina get`: lists, once or as they change.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::Context;
use crate::client::Route;
use crate::output::kinds::{self, Column, Kind};
use crate::output::table::Table;
use crate::output::{self, Format};

/// Lists objects.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What to list
    #[arg(value_enum, value_name = "KIND")]
    kind: Kind,
    /// Only the object of this name
    name: Option<String>,
    #[command(flatten)]
    scope: Scope,
    /// How to print it
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    /// Then go on, a row a change
    #[arg(short, long)]
    watch: bool,
}

/// Which namespace, which labels.
#[derive(Debug, Args)]
pub(crate) struct Scope {
    /// Objects of this namespace
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// Objects of all namespaces
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Objects with these labels: `a=b,c!=d,e in (f,g),!h`
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
}

impl Scope {
    /// The route to the objects of `kind` in this scope.
    pub(crate) fn route(&self, kind: Kind) -> Route {
        let namespace = (kind.namespaced() && !self.all_namespaces).then_some(&self.namespace);
        Route::new("/v1")
            .segment(kind.plural())
            .with_some("namespace", namespace)
            .with_some("labels", self.selector.as_ref())
    }
}

#[derive(Debug, Deserialize)]
struct List {
    items: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct Change {
    #[serde(rename = "type")]
    what: String,
    object: Value,
}

pub(crate) async fn run(arguments: Arguments, context: &Context) -> anyhow::Result<ExitCode> {
    let Arguments { kind, name, scope, output: format, watch } = arguments;
    let route = scope.route(kind).with_some("name", name.as_ref());
    let mut printer = Printer::new(kind, scope.all_namespaces, format);
    if !watch {
        let list: List = context.agent.get(&route).await?;
        printer.list(list.items, name.is_some(), Timestamp::now())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut changes = context.agent.download(&route.flag("watch", true)).await?;
    while let Some(Change { what, object }) = changes.line().await? {
        printer.change(&what, &object, Timestamp::now())?;
        output::flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints objects of one kind in one format.
struct Printer {
    kind: Kind,
    format: Format,
    columns: Vec<Column>,
    table: Table,
}

impl Printer {
    fn new(kind: Kind, all_namespaces: bool, format: Format) -> Self {
        let columns = kinds::columns(kind, all_namespaces, format == Format::Wide);
        let table = Table::new(columns.iter().map(|c| c.title));
        Self { kind, format, columns, table }
    }

    fn row(&mut self, object: &Value, now: Timestamp) {
        self.table.row(self.columns.iter().map(|c| (c.cell)(object, now)).collect());
    }

    fn name(&self, object: &Value) -> String {
        format!("{}/{}", self.kind.singular(), kinds::text(object, "/metadata/name"))
    }

    /// A whole list; one object that was asked for by name is printed bare, as kubectl does.
    fn list(&mut self, mut items: Vec<Value>, by_name: bool, now: Timestamp) -> anyhow::Result<()> {
        match self.format {
            Format::Table | Format::Wide if items.is_empty() => {
                output::note(format!("no {} found", self.kind.plural()));
                Ok(())
            }
            Format::Table | Format::Wide => {
                for object in &items {
                    self.row(object, now);
                }
                output::raw(self.table.take().as_bytes())
            }
            Format::Name => items.iter().try_for_each(|object| output::line(self.name(object))),
            Format::Json | Format::Yaml => {
                let value = match items.len() {
                    1 if by_name => items.remove(0),
                    _ => json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}),
                };
                self.value(&value)
            }
        }
    }

    fn value(&self, value: &Value) -> anyhow::Result<()> {
        if self.format == Format::Json { output::json(value) } else { output::yaml(value) }
    }

    /// One change of a watch.
    fn change(&mut self, what: &str, object: &Value, now: Timestamp) -> anyhow::Result<()> {
        match self.format {
            Format::Table | Format::Wide => {
                // A deletion is the last state again, as with kubectl.
                self.row(object, now);
                output::raw(self.table.take().as_bytes())
            }
            Format::Name => output::line(self.name(object)),
            Format::Json => output::line(json!({"type": what, "object": object}).to_string()),
            Format::Yaml => {
                output::line("---")?;
                self.value(object)
            }
        }
    }
}
