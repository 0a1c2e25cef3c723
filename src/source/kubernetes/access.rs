//! Who somebody is, and what they may do: the API server's answer to a bearer token (TokenReview) and to a wish
//! (SubjectAccessReview). Answers are kept for a short while, so that a scrape every few seconds does not become a
//! request every few seconds.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use sha2::{Digest as _, Sha256};

use super::client;

/// How long it is remembered who a token is of, and what somebody may do.
const YES: Duration = Duration::from_mins(1);
/// How long it is remembered that a token is nobody's, or that something may not be done.
const NO: Duration = Duration::from_secs(10);
/// How many answers of each kind are remembered.
const MOST: usize = 1024;
/// How long the API server may take for one.
const ANSWER: Duration = Duration::from_secs(10);
/// How many questions are asked at once: whoever sends tokens that are nobody's gets no further.
const AT_ONCE: usize = 8;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nobody to ask.
    #[error("the API server cannot be asked")]
    Client(#[from] client::Error),
    /// It does not tell the agent.
    #[error("the API server does not tell the agent who that is and what they may do: {0}")]
    Refused(String),
    /// It did not answer.
    #[error("the API server does not say who that is and what they may do")]
    Api(#[source] kube::Error),
    /// It took too long.
    #[error("the API server did not answer within {} s", ANSWER.as_secs())]
    Slow,
}

/// Whoever a token is of, as the API server knows them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct User {
    /// As in bindings.
    pub name: String,
    uid: Option<String>,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// What somebody wants to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wish {
    /// Something with objects of the API server, or with what stands for them on a node.
    Resource {
        /// `get`, `list`, `create`.
        verb: &'static str,
        /// The API group; `""` is the core.
        group: &'static str,
        /// The plural.
        resource: &'static str,
        /// `log`, `exec`, `proxy`; `""` is the object itself.
        subresource: &'static str,
        /// `""` is all of them.
        namespace: String,
        /// `""` is all of them.
        name: String,
    },
    /// `get` of a path that is no object.
    Path(&'static str),
}

impl std::fmt::Display for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "get {path}"),
            Self::Resource { verb, group, resource, subresource, namespace, .. } => {
                write!(f, "{verb} {resource}")?;
                let dot = if group.is_empty() { "" } else { "." };
                write!(f, "{dot}{group}")?;
                let slash = if subresource.is_empty() { "" } else { "/" };
                write!(f, "{slash}{subresource}")?;
                match namespace.as_str() {
                    "" if group.is_empty() => write!(f, " in all namespaces"),
                    "" => Ok(()),
                    namespace => write!(f, " in namespace {namespace}"),
                }
            }
        }
    }
}

/// Asks the API server.
pub struct Access {
    kubeconfig: Option<PathBuf>,
    client: tokio::sync::Mutex<Option<Client>>,
    turn: tokio::sync::Semaphore,
    users: Remembered<[u8; 32], Option<User>>,
    allowed: Remembered<(User, Wish), bool>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("kubeconfig", &self.kubeconfig).finish_non_exhaustive()
    }
}

impl Access {
    /// Asks as whoever the kubeconfig or the pod's service account is. Nothing is sent.
    pub fn new(kubeconfig: Option<PathBuf>) -> Self {
        Self {
            kubeconfig,
            client: tokio::sync::Mutex::new(None),
            turn: tokio::sync::Semaphore::new(AT_ONCE),
            users: Remembered::default(),
            allowed: Remembered::default(),
        }
    }

    /// Whose token it is; `None` if nobody's.
    ///
    /// # Errors
    /// If the API server does not say.
    pub async fn user(&self, token: &str) -> Result<Option<User>, Error> {
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.users.get(&key) {
            return Ok(known);
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() },
            ..TokenReview::default()
        };
        let status = self.ask(&review).await?.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).map(|user| User {
            name: user.username.unwrap_or_default(),
            uid: user.uid,
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        });
        self.users.put(key, user.clone(), if user.is_some() { YES } else { NO });
        Ok(user)
    }

    /// Whether somebody may do something.
    ///
    /// # Errors
    /// If the API server does not say.
    pub async fn may(&self, user: &User, wish: &Wish) -> Result<bool, Error> {
        let key = (user.clone(), wish.clone());
        if let Some(known) = self.allowed.get(&key) {
            return Ok(known);
        }
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (resource, path) = match wish {
            Wish::Resource { verb, group, resource, subresource, namespace, name } => {
                let attributes = ResourceAttributes {
                    verb: some(verb),
                    group: some(group),
                    version: Some("*".to_owned()),
                    resource: some(resource),
                    subresource: some(subresource),
                    namespace: some(namespace),
                    name: some(name),
                    ..ResourceAttributes::default()
                };
                (Some(attributes), None)
            }
            Wish::Path(path) => {
                let attributes = NonResourceAttributes { path: some(path), verb: Some("get".to_owned()) };
                (None, Some(attributes))
            }
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: user.uid.clone(),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()),
                resource_attributes: resource,
                non_resource_attributes: path,
            },
            ..SubjectAccessReview::default()
        };
        let allowed = self.ask(&review).await?.status.is_some_and(|status| status.allowed);
        self.allowed.put(key, allowed, if allowed { YES } else { NO });
        Ok(allowed)
    }

    async fn ask<K>(&self, review: &K) -> Result<K, Error>
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    {
        let asked = async {
            let _turn = self.turn.acquire().await;
            let client = {
                let mut kept = self.client.lock().await;
                match kept.as_ref() {
                    Some(client) => client.clone(),
                    None => kept.insert(client::connect(self.kubeconfig.as_deref()).await?).clone(),
                }
            };
            Api::<K>::all(client).create(&PostParams::default(), review).await.map_err(|error| match error {
                kube::Error::Api(status) => Error::Refused(status.message),
                error => Error::Api(error),
            })
        };
        let said = tokio::time::timeout(ANSWER, asked).await.unwrap_or(Err(Error::Slow));
        if said.is_err() {
            // Its certificates may have been replaced.
            *self.client.lock().await = None;
        }
        said
    }
}

/// Answers, each for its time.
#[derive(Debug)]
struct Remembered<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Eq + Hash, V: Clone> Remembered<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|(until, _)| Instant::now() < *until).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V, time: Duration) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            let now = Instant::now();
            known.retain(|_, (until, _)| now < *until);
            if known.len() >= MOST {
                known.clear();
            }
        }
        known.insert(key, (Instant::now() + time, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_ends() {
        let known = Remembered::default();
        for n in 0..3 * MOST {
            known.put(n, n, YES);
            assert!(known.0.lock().unwrap().len() <= MOST);
        }
        assert_eq!(known.get(&(3 * MOST - 1)), Some(3 * MOST - 1));
        known.put(7, 7, Duration::ZERO);
        assert_eq!(known.get(&7), None);
    }

    #[test]
    fn a_wish_is_said_as_rules_have_it() {
        let wish = |group, subresource, namespace: &str| Wish::Resource {
            verb: "get",
            group,
            resource: "pods",
            subresource,
            namespace: namespace.to_owned(),
            name: String::new(),
        };
        assert_eq!(wish("", "log", "arena").to_string(), "get pods/log in namespace arena");
        assert_eq!(wish("", "", "").to_string(), "get pods in all namespaces");
        assert_eq!(wish("lamina.dev", "proxy", "").to_string(), "get pods.lamina.dev/proxy");
        assert_eq!(Wish::Path("/metrics").to_string(), "get /metrics");
    }
}
