//! The cluster as a kubeconfig shows it: who asks, which nodes have an agent, and which of them has a pod.

use std::path::Path;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use kube::api::ListParams;
use kube::client::ConfigExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Config};
use lamina::api::cluster::NodeReport;
use tower::{Layer as _, ServiceExt as _};

use crate::client::Client;
use crate::failure::{Failure, Status};
use crate::remote::Remote;

/// How long the API server has for one answer.
const ANSWER: Duration = Duration::from_secs(30);

/// A cluster, and who asks.
pub(super) struct Cluster {
    reports: Api<NodeReport>,
    namespace: String,
    authorization: HeaderValue,
}

impl Cluster {
    /// Reads the kubeconfig, and finds out the caller's token.
    pub(super) async fn open(
        kubeconfig: Option<&Path>,
        context: Option<&str>,
        token: Option<String>,
    ) -> anyhow::Result<Self> {
        let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
        let read = async {
            match (kubeconfig, context) {
                (Some(file), _) => {
                    let file = Kubeconfig::read_from(file).map_err(anyhow::Error::from)?;
                    Ok(Config::from_custom_kubeconfig(file, &options).await?)
                }
                (None, Some(_)) => Ok(Config::from_kubeconfig(&options).await?),
                (None, None) => Ok::<_, anyhow::Error>(Config::infer().await?),
            }
        };
        let mut config = read.await.map_err(|error| {
            Failure::usage("cannot read the kubeconfig")
                .source(error)
                .hint("name one with --kubeconfig FILE or KUBECONFIG, and a context with --context")
        })?;
        config.read_timeout = Some(ANSWER);
        let authorization = match token {
            Some(token) => bearer(&token)?,
            None => own_token(&config).await?,
        };
        let namespace = config.default_namespace.clone();
        let client = kube::Client::try_from(config)
            .map_err(|error| Failure::usage("cannot use the kubeconfig").source(error))?;
        Ok(Self { reports: Api::all(client), namespace, authorization })
    }

    /// The namespace of the context.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The agent of a node.
    pub(super) async fn node(&self, name: &str) -> anyhow::Result<Client> {
        let report = self.reports.get_opt(name).await.map_err(|e| refused("read the NodeReport of the node", e))?;
        let report = report.ok_or_else(|| {
            Failure::new(Status::NotFound, format!("node {name} has no NodeReport"))
                .hint("`kubectl get nodereports` lists the nodes that have an agent")
        })?;
        self.agent(name, &report)
    }

    /// The agents of all nodes that have one which answers people, by name.
    pub(super) async fn nodes(&self) -> anyhow::Result<Vec<(String, Client)>> {
        let mut agents = Vec::new();
        for report in self.all().await? {
            let name = report.metadata.name.clone().unwrap_or_default();
            match self.agent(&name, &report) {
                Ok(agent) => agents.push((name, agent)),
                Err(error) => crate::output::note(format!("{name}: {error}")),
            }
        }
        agents.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(agents)
    }

    /// The agent that has a pod; `node` names it where several have.
    pub(super) async fn of_pod(&self, namespace: &str, pod: &str, node: Option<&str>) -> anyhow::Result<Client> {
        if let Some(node) = node {
            return self.node(node).await;
        }
        let all = self.all().await?;
        let name = |report: &NodeReport| report.metadata.name.clone().unwrap_or_default();
        let has = |report: &&NodeReport| {
            let pods = report.status.iter().flat_map(|status| &status.pods);
            pods.into_iter().any(|p| p.namespace == namespace && p.workload == pod)
        };
        let with: Vec<&NodeReport> = all.iter().filter(has).collect();
        match with.as_slice() {
            [] => Err(Failure::new(Status::NotFound, format!("no node reports a pod {namespace}/{pod}"))
                .hint("a pod that is not of a NodeWorkload is found with --node NODE; `kubectl lamina get pods -A` lists all")
                .into()),
            [one] => self.agent(&name(one), one),
            several => {
                let mut names: Vec<String> = several.iter().map(|report| name(report)).collect();
                names.sort();
                let more = names.len().saturating_sub(10);
                names.truncate(10);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                Err(Failure::usage(format!("{} nodes have a pod {namespace}/{pod}: {}{more}", with.len(), names.join(", ")))
                    .hint("choose one with --node NODE")
                    .into())
            }
        }
    }

    /// The agent of the node that was named, or of the only one there is.
    pub(super) async fn only(&self, node: Option<&str>, verb: &str) -> anyhow::Result<Client> {
        if let Some(node) = node {
            return self.node(node).await;
        }
        let mut agents = self.nodes().await?;
        match agents.len() {
            1 => Ok(agents.remove(0).1),
            0 => Err(Failure::new(Status::NotFound, "no node has an agent that answers").into()),
            n => Err(Failure::usage(format!("{n} nodes have an agent, and {verb} is about one"))
                .hint("choose it with --node NODE")
                .into()),
        }
    }

    async fn all(&self) -> anyhow::Result<Vec<NodeReport>> {
        // From the cache of the API server: cheap, however many ask.
        let list = self.reports.list(&ListParams::default().match_any()).await;
        Ok(list.map_err(|e| refused("list NodeReports", e))?.items)
    }

    fn agent(&self, name: &str, report: &NodeReport) -> anyhow::Result<Client> {
        let endpoint = report.status.as_ref().and_then(|s| s.endpoint.as_ref()).ok_or_else(|| {
            Failure::new(Status::Agent, format!("the agent of node {name} answers nobody but its own machine"))
                .hint("it must listen on the node's address: `lamina agent --metrics ADDRESS:PORT`")
        })?;
        Ok(Client::remote(Remote::new(name, endpoint, self.authorization.clone())?))
    }
}

fn refused(what: &str, error: kube::Error) -> Failure {
    let hint = match &error {
        kube::Error::Api(status) if status.code == 403 => {
            "whoever looks at nodes needs get and list of nodereports.lamina.dev (ClusterRole lamina-view)"
        }
        kube::Error::Api(status) if status.code == 404 => {
            "are the CustomResourceDefinitions installed: `kubectl apply -k manifests/`?"
        }
        kube::Error::Api(status) if status.code == 401 => {
            "the token of the kubeconfig's user is not, or no longer, good"
        }
        _ => "does `kubectl get nodereports` work with the same kubeconfig and context?",
    };
    Failure::new(Status::Failed, format!("cannot {what}")).source(error).hint(hint)
}

fn bearer(token: &str) -> anyhow::Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
        .map_err(|_| Failure::usage("the token holds characters that no token has"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The token of the kubeconfig's user, wherever it is from: written there, a file, a command that gives one.
async fn own_token(config: &Config) -> anyhow::Result<HeaderValue> {
    let none = || {
        Failure::usage("the kubeconfig's user has no token, and an agent knows people by nothing else")
            .hint("with a client certificate, ask for a token: `kubectl lamina --token \"$(kubectl create token ACCOUNT)\" …`")
    };
    let layer = config.auth_layer().map_err(|e| Failure::usage("cannot get the kubeconfig user's token").source(e))?;
    let Some(layer) = layer else { return Err(none().into()) };
    // What adds the token to requests is asked to add it to one that goes nowhere.
    let echo = tower::service_fn(|request: Request<kube::client::Body>| async move {
        let mut response = Response::new(());
        if let Some(value) = request.headers().get(AUTHORIZATION) {
            response.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        Ok::<_, tower::BoxError>(response)
    });
    let request = Request::new(kube::client::Body::empty());
    let response = layer
        .layer(echo)
        .oneshot(request)
        .await
        .map_err(|error| Failure::usage("cannot get the kubeconfig user's token").source(error))?;
    match response.headers().get(AUTHORIZATION) {
        Some(value) if value.as_bytes().starts_with(b"Bearer ") => Ok(value.clone()),
        _ => Err(none().into()),
    }
}
