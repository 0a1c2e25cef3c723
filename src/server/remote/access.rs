//! Which request needs what, and whether whoever makes it may.
//!
//! | request | what it needs |
//! |---|---|
//! | `/healthz`, `/readyz` | nothing |
//! | `/metrics` | `get` of the path `/metrics` |
//! | logs | `get pods/log` in the pod's namespace |
//! | exec | `create pods/exec` in the pod's namespace |
//! | pods, containers, volumes; usage | `list pods` in the namespace, or in all; `get pods` for one by name |
//! | events | `list events` in the namespace, or in all |
//! | images, layers, and all else that is of the node as a whole, for reading | `get nodereports.lamina.dev/proxy` of the node |
//! | everything else | root of the node: it is refused here |

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, StatusCode};

use crate::api::cluster::GROUP;
use crate::api::problem::chain;
use crate::server::problem::{Problem, Reason};
use crate::server::wire::Exec;
use crate::source::kubernetes::access::{Access, User, Wish};

/// The longest body of a request: a command with its arguments.
const MAX_BODY: usize = 1 << 20;

/// What stands before everything else.
#[derive(Debug)]
pub(super) struct Gate {
    access: Access,
    node: String,
}

/// What a request needs.
#[derive(Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    This(Wish),
    /// What is in its body decides.
    Exec,
    /// Nobody may that here.
    Root,
}

/// Why a request is not let through.
enum Refusal {
    /// Nobody knows who makes it.
    Stranger(Problem),
    /// Something else.
    Problem(Problem),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => problem.into_response(),
            // RFC 6750, section 3.
            Self::Stranger(problem) => {
                (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], axum::Json(problem)).into_response()
            }
        }
    }
}

impl Gate {
    pub(super) fn new(access: Access, node: String) -> Self {
        Self { access, node }
    }

    /// What a request needs; of paths that are written in another way than a client of ours does, nobody may any.
    fn needs(&self, method: &Method, path: &str, query: &BTreeMap<String, String>) -> Needs {
        let of = |key: &str| query.get(key).cloned().unwrap_or_default();
        let core = |verb, resource, subresource, namespace, name| {
            Needs::This(Wish::Resource { verb, group: "", resource, subresource, namespace, name })
        };
        let node = || {
            Needs::This(Wish::Resource {
                verb: "get",
                group: GROUP,
                resource: "nodereports",
                subresource: "proxy",
                namespace: String::new(),
                name: self.node.clone(),
            })
        };
        let reading = method == Method::GET;
        match path {
            "/healthz" | "/readyz" if reading => Needs::Nothing,
            "/metrics" if reading => Needs::This(Wish::Path("/metrics")),
            "/v1/logs" if reading || method == Method::POST => {
                // Without them the request is about nothing, and must not count as one about everything.
                if of("namespace").is_empty() || of("pod").is_empty() {
                    return Needs::Root;
                }
                core("get", "pods", "log", of("namespace"), of("pod"))
            }
            "/v1/exec" if method == Method::POST => Needs::Exec,
            "/v1/usage" if reading => core("list", "pods", "", of("namespace"), String::new()),
            "/v1/info" | "/v1/df" | "/v1/why" | "/v1/history" if reading => node(),
            _ if !reading => Needs::Root,
            path => match path.strip_prefix("/v1/describe/").or_else(|| path.strip_prefix("/v1/")) {
                Some("pods") if !of("name").is_empty() => core("get", "pods", "", of("namespace"), of("name")),
                // A container's or volume's name is not its pod's: whoever looks for one looks at all pods.
                Some("pods" | "containers" | "volumes") => core("list", "pods", "", of("namespace"), String::new()),
                Some("events") => core("list", "events", "", of("namespace"), String::new()),
                Some(
                    "images"
                    | "layers"
                    | "manifests"
                    | "deployments"
                    | "statefulsets"
                    | "daemonsets"
                    | "jobs"
                    | "cronjobs"
                    | "services"
                    | "persistentvolumeclaims",
                ) => node(),
                _ => Needs::Root,
            },
        }
    }

    async fn user(&self, authorization: Option<HeaderValue>) -> Result<User, Refusal> {
        let token = authorization.as_ref().and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim).filter(|t| !t.is_empty());
        let Some(token) = token else { return Err(stranger("the request has no bearer token")) };
        match self.access.user(token).await {
            Ok(Some(user)) => Ok(user),
            Ok(None) => Err(stranger("the API server does not know the token")),
            Err(error) => Err(unanswered(&error)),
        }
    }

    async fn may(&self, user: &User, wish: &Wish) -> Result<(), Refusal> {
        match self.access.may(user, wish).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let problem = Problem::new(Reason::Refused, format!("{} may not {wish}", user.name));
                Err(Refusal::Problem(problem.hint("ask whoever grants roles in the cluster")))
            }
            Err(error) => Err(unanswered(&error)),
        }
    }

    async fn admit(&self, request: Request) -> Result<Request, Refusal> {
        // A query that cannot be read is refused by whoever reads it; here it says nothing.
        let query = Query::try_from_uri(request.uri()).map(|Query(query)| query).unwrap_or_default();
        let authorization = request.headers().get(AUTHORIZATION).cloned();
        match self.needs(request.method(), request.uri().path(), &query) {
            Needs::Nothing => Ok(request),
            Needs::This(wish) => {
                let user = self.user(authorization).await?;
                self.may(&user, &wish).await?;
                Ok(request)
            }
            Needs::Exec => {
                let user = self.user(authorization).await?;
                let (parts, body) = request.into_parts();
                let bytes = axum::body::to_bytes(body, MAX_BODY).await.map_err(|e| invalid(&e))?;
                let Exec { namespace, pod, .. } = serde_json::from_slice(&bytes).map_err(|e| invalid(&e))?;
                let wish = Wish::Resource {
                    verb: "create",
                    group: "",
                    resource: "pods",
                    subresource: "exec",
                    namespace: namespace.clone(),
                    name: pod.clone(),
                };
                if namespace.is_empty() || pod.is_empty() {
                    return Err(refused());
                }
                self.may(&user, &wish).await?;
                tracing::info!(user = user.name, namespace, pod, "a command is run for somebody elsewhere");
                Ok(Request::from_parts(parts, Body::from(bytes)))
            }
            Needs::Root => {
                self.user(authorization).await?;
                Err(refused())
            }
        }
    }
}

fn refused() -> Refusal {
    let problem = Problem::new(Reason::Refused, "the agent does this for root of its own machine alone");
    Refusal::Problem(problem.hint("run `lamina` on the node"))
}

fn invalid(error: &dyn std::error::Error) -> Refusal {
    Refusal::Problem(Problem::of(Reason::Invalid, error))
}

fn stranger(why: &str) -> Refusal {
    let hint = "send `Authorization: Bearer TOKEN` with a token of the cluster";
    Refusal::Stranger(Problem::new(Reason::Refused, why).hint(hint))
}

fn unanswered(error: &dyn std::error::Error) -> Refusal {
    tracing::warn!(error = chain(error), "nobody says who asks");
    Refusal::Problem(Problem::of(Reason::Unavailable, error))
}

/// Lets through who may.
pub(super) async fn check(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    match gate.admit(request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(method: &str, uri: &str) -> Needs {
        let gate = Gate::new(Access::new(None), "node-1".to_owned());
        let uri: http::Uri = uri.parse().unwrap();
        let Query(query) = Query::try_from_uri(&uri).unwrap();
        gate.needs(&method.parse().unwrap(), uri.path(), &query)
    }

    fn shown(method: &str, uri: &str) -> String {
        match needs(method, uri) {
            Needs::This(wish) => wish.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn each_request_needs_what_the_table_says() {
        for (method, uri, needed) in [
            ("GET", "/healthz", "Nothing"),
            ("GET", "/metrics", "get /metrics"),
            ("GET", "/v1/logs?namespace=arena&pod=game", "get pods/log in namespace arena"),
            ("POST", "/v1/logs?namespace=arena&pod=game", "get pods/log in namespace arena"),
            ("POST", "/v1/exec", "Exec"),
            ("GET", "/v1/pods", "list pods in all namespaces"),
            ("GET", "/v1/pods?namespace=arena&name=game", "get pods in namespace arena"),
            ("GET", "/v1/describe/pods?namespace=arena&name=game", "get pods in namespace arena"),
            ("GET", "/v1/volumes?namespace=arena", "list pods in namespace arena"),
            ("GET", "/v1/containers?namespace=arena&name=app", "list pods in namespace arena"),
            ("GET", "/v1/events", "list events in all namespaces"),
            ("GET", "/v1/images", "get nodereports.lamina.dev/proxy"),
            ("GET", "/v1/why?what=x", "get nodereports.lamina.dev/proxy"),
        ] {
            assert_eq!(shown(method, uri), needed, "{method} {uri}");
        }
    }

    #[test]
    fn whatever_is_not_named_is_roots_alone() {
        for (method, uri) in [
            ("GET", "/v1/logs?pod=game"),
            ("GET", "/v1/logs?namespace=&pod=game"),
            ("POST", "/v1/attach"),
            ("POST", "/v1/run"),
            ("POST", "/v1/apply"),
            ("GET", "/v1/copy?namespace=arena&pod=game&path=/etc/shadow"),
            ("GET", "/v1/export?what=x"),
            ("GET", "/v1/images/save?image=x"),
            ("POST", "/v1/images/pull"),
            ("POST", "/v1/gc"),
            ("POST", "/v1/drain"),
            ("DELETE", "/v1/objects/pod/arena/game"),
            ("GET", "/v1/po%64s"),
            ("GET", "/v1//pods"),
            ("GET", "/v1/pods/"),
            ("GET", "/v1/secrets"),
            ("POST", "/metrics"),
            ("GET", "/"),
        ] {
            assert_eq!(needs(method, uri), Needs::Root, "{method} {uri}");
        }
    }
}
