//! Which of several replicas works: who holds the Lease `lamina-controller`. Another takes it over when it has not
//! changed for its whole duration by the other's own clock, so clocks need not agree; who cannot renew it stops well
//! before. Every write is against the version that was read, so of two that try, one loses.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use super::{MANAGER, Metrics, Options, reconcile};
use crate::api::problem::chain;

/// The name of the Lease.
const NAME: &str = "lamina-controller";
/// For how long it is good.
const DURATION: Duration = Duration::from_secs(15);
/// How often it is renewed, and looked at by those who wait.
const RENEW: Duration = Duration::from_secs(5);
/// Who could not renew it for so long stops.
const STOP: Duration = Duration::from_secs(10);

/// Waits for the Lease, works while it is held, and returns when it is lost.
pub(super) async fn lead(client: Client, options: &Options, metrics: &Metrics) {
    let api = Api::<Lease>::namespaced(client.clone(), &options.namespace);
    // What another's Lease was when it was seen to change last, and when that was.
    let mut seen: Option<(Option<String>, Instant)> = None;
    loop {
        match take(&api, options, &mut seen).await {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => tracing::warn!(error = chain(&error), "cannot look at the controllers' lease"),
        }
        tokio::time::sleep(RENEW).await;
    }
    tracing::info!(identity = options.identity, "this replica leads");
    metrics.leader.set(1);
    tokio::select! {
        () = reconcile::run(client, options, metrics) => {}
        () = hold(&api, options) => tracing::warn!(identity = options.identity, "the lease is lost; another replica goes on"),
    }
    metrics.leader.set(0);
}

/// Renews until that has failed for too long, or another has it.
async fn hold(api: &Api<Lease>, options: &Options) {
    let mut good = Instant::now();
    loop {
        tokio::time::sleep(RENEW).await;
        let begun = Instant::now();
        let left = STOP.saturating_sub(good.elapsed());
        match tokio::time::timeout(left, take(api, options, &mut None)).await {
            Ok(Ok(true)) => good = begun,
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), "the controllers' lease cannot be renewed");
                if good.elapsed() + RENEW >= STOP {
                    return;
                }
            }
            Ok(Ok(false)) | Err(_) => return,
        }
    }
}

/// Takes or renews the Lease; whether it is ours then.
async fn take(api: &Api<Lease>, options: &Options, seen: &mut Option<(Option<String>, Instant)>) -> kube::Result<bool> {
    let post = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let Some(mut lease) = api.get_opt(NAME).await? else {
        let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(spec(options, None)) };
        return won(api.create(&post, &lease).await);
    };
    let held = lease.spec.clone().unwrap_or_default();
    let holder = held.holder_identity.clone().unwrap_or_default();
    if !holder.is_empty() && holder != options.identity {
        let version = lease.metadata.resource_version.clone();
        match seen {
            Some((known, since)) if *known == version => {
                if since.elapsed() < DURATION {
                    return Ok(false);
                }
            }
            _ => {
                *seen = Some((version, Instant::now()));
                return Ok(false);
            }
        }
    }
    lease.spec = Some(spec(options, (holder == options.identity).then_some(&held)));
    won(api.replace(NAME, &post, &lease).await)
}

/// Whoever was quicker has it.
fn won(said: kube::Result<Lease>) -> kube::Result<bool> {
    match said {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(answer)) if answer.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn spec(options: &Options, ours: Option<&LeaseSpec>) -> LeaseSpec {
    let now = MicroTime(Timestamp::now());
    LeaseSpec {
        holder_identity: Some(options.identity.clone()),
        lease_duration_seconds: Some(15),
        acquire_time: ours.and_then(|spec| spec.acquire_time.clone()).or_else(|| Some(now.clone())),
        renew_time: Some(now),
        ..LeaseSpec::default()
    }
}

/// Lets another take the Lease at once.
pub(super) async fn give_up(client: Client, options: &Options) {
    let api = Api::<Lease>::namespaced(client, &options.namespace);
    if let Ok(Some(mut lease)) = api.get_opt(NAME).await
        && let Some(spec) = &mut lease.spec
        && spec.holder_identity.as_deref() == Some(&options.identity)
    {
        spec.holder_identity = None;
        // Nobody is held up for longer than the Lease is good if this fails.
        let _ = api.replace(NAME, &PostParams::default(), &lease).await;
    }
}
