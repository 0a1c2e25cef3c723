//! `lamina get`: lists, once or as they change.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use crate::cli::Context;
use crate::client::{Client, Route};
use crate::failure::Status;
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

/// Lists the objects of several nodes as one list, each with the name of its node. A node that does not answer is named,
/// the others are printed all the same, and the status is that of a failure.
pub(crate) async fn across(arguments: Arguments, agents: Vec<(String, Client)>) -> anyhow::Result<ExitCode> {
    let Arguments { kind, name, scope, output: format, watch } = arguments;
    let route = scope.route(kind).with_some("name", name.as_ref());
    let mut printer = Printer::new(kind, scope.all_namespaces, format);
    printer.with_nodes();
    let (tell, mut told) = mpsc::channel(16);
    let limit = Arc::new(Semaphore::new(if watch { agents.len().max(1) } else { AT_ONCE }));
    for (node, agent) in agents {
        let (tell, limit, route) = (tell.clone(), Arc::clone(&limit), route.clone());
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _turn = limit.acquire().await;
            if let Err(error) = ask(&node, &agent, route, watch, &tell).await {
                let _ = tell.send((node, Err(error))).await;
            }
        });
    }
    drop(tell);
    let (mut items, mut failed) = (Vec::new(), false);
    while let Some((node, said)) = told.recv().await {
        match said {
            Ok(Said::List(list)) => items.extend(list.into_iter().map(|object| on_node(object, &node))),
            Ok(Said::Change(change)) => {
                printer.change(&change.what, &on_node(change.object, &node), Timestamp::now())?;
                output::flush()?;
            }
            Err(error) => {
                output::note(format!("{node}: {error:#}"));
                failed = true;
            }
        }
    }
    if !watch {
        items.sort_by_cached_key(|object| {
            ["/metadata/namespace", "/metadata/name", "/lamina/node"].map(|pointer| kinds::text(object, pointer))
        });
        printer.list(items, false, Timestamp::now())?;
    }
    Ok(if failed { Status::Failed.into() } else { ExitCode::SUCCESS })
}

/// How many nodes are asked at once.
const AT_ONCE: usize = 32;

/// What a node says.
enum Said {
    List(Vec<Value>),
    Change(Change),
}

async fn ask(
    node: &str,
    agent: &Client,
    route: Route,
    watch: bool,
    tell: &mpsc::Sender<(String, anyhow::Result<Said>)>,
) -> anyhow::Result<()> {
    if !watch {
        let list: List = agent.get(&route).await?;
        // Nobody listens any more once standard output is gone.
        let _ = tell.send((node.to_owned(), Ok(Said::List(list.items)))).await;
        return Ok(());
    }
    let mut changes = agent.download(&route.flag("watch", true)).await?;
    while let Some(change) = changes.line().await? {
        if tell.send((node.to_owned(), Ok(Said::Change(change)))).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The object, with the node that it is on among what Kubernetes has no word for.
fn on_node(mut object: Value, node: &str) -> Value {
    if let Some(map) = object.as_object_mut() {
        let extras = map.entry("lamina").or_insert_with(|| json!({}));
        if let Some(extras) = extras.as_object_mut() {
            extras.insert("node".to_owned(), node.into());
        }
    }
    object
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

    /// Shows which node an object is on, in the second column or after the namespace and the name.
    fn with_nodes(&mut self) {
        let at = self.columns.iter().position(|c| c.title == "NAME").map_or(1, |name| name + 1).min(self.columns.len());
        self.columns.insert(at, kinds::NODE);
        self.table = Table::new(self.columns.iter().map(|c| c.title));
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
