//! The real engine: images, layers, volumes, network and the shim, joined for one pod.
//!
//! | file | steps |
//! |---|---|
//! | `admit` | what this node allows: part of Accept |
//! | `record` | Accept, Amend, Doom, Expire, Evict, Renew, Again, Erase |
//! | `look` | the full look |
//! | `fetch` | Fetch, Tidy, Release: images and what is held of them |
//! | `sandbox` | Prepare, Refresh, Teardown, Bury |
//! | `container` | Start, Stop, Signal, Kill, Resize |
//! | `message` | what a container leaves to say why it ended |
//! | `health` | PostStart, Probe: tasks of containers |
//!
//! Nothing here decides anything; an engine's fields are caches of what the disk and the shim say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::desired::Desired;
use super::engine::{Engine, Push, StepError};
use super::plan::Step;
use super::state::{Observed, Record};
use crate::api::{PodKey, PodUid};
use crate::oci::Digest;
use crate::rootfs::Layer;
use crate::runtime::client::{self, Client, Events, Told};
use crate::runtime::protocol;
use crate::sys::mount::Mount;

mod admit;
mod binds;
mod container;
mod disk;
mod envfile;
mod fetch;
mod health;
mod look;
mod machine;
mod message;
mod record;
mod sandbox;
mod spec;
mod users;

pub use admit::Policy;
pub(crate) use disk::read_record;
pub use fetch::{pull_policy, secrets, uid_of_owner};
pub use machine::{Handle, Machine, Parts, PendingAttach};
pub use users::UserIds;

/// Containers of a pod, by name.
type PerContainer<T> = BTreeMap<String, T>;

/// How long a shim may take for anything but a start (which limits itself). One that is stopped or stuck must not hold
/// up its pod's end: after this its cgroup is killed.
const ANSWER: Duration = Duration::from_secs(15);

/// Waits for a shim's answer, but not for ever.
async fn answered<T>(
    pod: &PodKey,
    request: impl Future<Output = Result<T, client::Error>>,
) -> Result<T, client::Error> {
    match tokio::time::timeout(ANSWER, request).await {
        Ok(answer) => answer,
        Err(_) => Err(client::Error::Lost { pod: pod.to_string() }),
    }
}

/// Takes a lock; each change under it is a single insertion, so what a panicked holder left is whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The engine of one pod.
#[derive(Debug)]
pub struct Real {
    machine: Arc<Machine>,
    key: PodKey,
    /// Known once the pod is accepted.
    uid: Option<PodUid>,
    shim: Option<Shim>,
    /// The image of each container, by generation, as fetched; written by fetches.
    digests: Arc<Mutex<PerContainer<(u32, Digest)>>>,
    /// The layers that the shim keeps, held here too so that nobody mounts them a second time.
    layers: BTreeMap<String, Arc<Layer>>,
    /// The volumes in memory, by name.
    mounts: PerContainer<Arc<Mount>>,
    /// The pod's network namespace, once something wants to connect in it.
    network: Option<Arc<std::os::fd::OwnedFd>>,
    /// What runs for single containers: probes and hooks.
    tasks: PerContainer<health::Tasks>,
    /// When this engine began.
    born: super::backoff::Tick,
    /// Attempts that the shim knows.
    known: BTreeSet<(String, u32)>,
    /// Boxed: a channel makes room for many at a time.
    fetched: (mpsc::UnboundedSender<Box<Push>>, mpsc::UnboundedReceiver<Box<Push>>),
    /// Fetches under way; ended with the engine.
    fetches: tokio::task::JoinSet<()>,
}

#[derive(Debug)]
struct Shim {
    handle: Handle,
    events: Events,
}

impl Real {
    /// The engine of the pod `key`, whose uid is `uid` if it was accepted by an earlier agent.
    pub fn new(machine: Arc<Machine>, key: PodKey, uid: Option<PodUid>) -> Self {
        Self {
            machine,
            key,
            uid,
            shim: None,
            digests: Arc::default(),
            layers: BTreeMap::new(),
            mounts: BTreeMap::new(),
            network: None,
            tasks: BTreeMap::new(),
            born: super::backoff::now(),
            known: BTreeSet::new(),
            fetched: mpsc::unbounded_channel(),
            fetches: tokio::task::JoinSet::new(),
        }
    }

    fn dir(&self, uid: &PodUid) -> PathBuf {
        self.machine.dir(uid)
    }

    fn client(&self) -> Result<&Client, StepError> {
        match &self.shim {
            Some(shim) => Ok(&shim.handle.client),
            None => Err(StepError {
                retry: super::state::Retry::Backoff,
                reason: "FailedCreatePodSandBox",
                message: "the pod's shim is not there".to_owned(),
            }),
        }
    }

    /// Whether a pod of which nothing runs yet may take from what the node is short of.
    fn admit(&self, record: &Record, seen: &Observed) -> Result<(), StepError> {
        let begun = seen.containers.values().any(|c| c.attempt.is_some());
        match self.machine.pressures.refuses(&record.pod).filter(|_| !begun) {
            Some(message) => {
                Err(StepError { retry: super::state::Retry::Backoff, reason: "NodeUnderPressure", message })
            }
            None => Ok(()),
        }
    }

    /// Takes a connected shim as the pod's.
    fn connected(&mut self, uid: &PodUid, client: Client, events: Events) {
        let handle = Handle { client, told: Told::default() };
        self.machine.set_sandbox(uid, Some(handle.clone()));
        self.shim = Some(Shim { handle, events });
    }

    /// Lets go of a shim that is gone or is to be.
    fn disconnected(&mut self) {
        self.shim = None;
        self.known.clear();
        self.tasks.clear();
        self.network = None;
        self.layers.clear();
        self.mounts.clear();
        if let Some(uid) = &self.uid {
            self.machine.set_sandbox(uid, None);
        }
    }

    /// What a shim tells, as the plan understands it.
    fn told(&self, event: protocol::Event) -> Option<Push> {
        match event {
            protocol::Event::Exited { name, attempt, exit } => {
                let dir = disk::attempt_dir(&self.dir(self.uid.as_ref()?), &name, attempt);
                let known = disk::read_attempt(&dir)?;
                let exit = disk::ended(&dir, &known, &exit);
                Some(Push::Exited { container: name, attempt, exit })
            }
            protocol::Event::ExecExited { .. } => None,
        }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        // The worker is gone (the agent ends, or the pod has): nobody reads its shim's events any more.
        if let Some(uid) = &self.uid {
            self.machine.set_sandbox(uid, None);
        }
    }
}

impl Engine for Real {
    async fn look(&mut self) -> Result<Observed, StepError> {
        self.full_look().await
    }

    async fn apply(&mut self, step: &Step, desired: Option<&Desired>, seen: &mut Observed) -> Result<(), StepError> {
        if let Step::Accept = step {
            return self.accept(wanted(desired)?, seen).await;
        }
        let Some(record) = seen.record.clone() else {
            return Err(StepError {
                retry: super::state::Retry::Never,
                reason: "Failed",
                message: format!("pod {} has no record", self.key),
            });
        };
        let record: &Record = &record;
        match step {
            Step::Accept => Ok(()),
            Step::Amend { containers, resources } => {
                self.amend(record, wanted(desired)?, containers, resources, seen).await
            }
            Step::Doom { grace, .. } => {
                self.doom(record, *grace, seen).await;
                Ok(())
            }
            Step::Expire => self.expire(record, seen).await,
            Step::Evict(eviction) => {
                self.evict(record, eviction, seen).await;
                Ok(())
            }
            Step::Renew { .. } => self.renew(record, seen).await,
            Step::Again => self.again(record, seen).await,
            Step::Bury => self.bury(record, seen).await,
            Step::Fetch { container, generation, attempt } => {
                self.admit(record, seen)?;
                self.fetch(record, wanted(desired)?, container, (*generation, *attempt), seen)
            }
            Step::FetchVolume { volume } => {
                self.admit(record, seen)?;
                self.fetch_volume(record, wanted(desired)?, volume, seen)
            }
            Step::Prepare => {
                self.admit(record, seen)?;
                self.prepare(record, wanted(desired)?, seen).await
            }
            Step::Refresh => self.refresh(record, wanted(desired)?, seen).await,
            Step::Start { container, attempt, level } => {
                self.start(record, wanted(desired)?, container, (*attempt, *level), seen).await
            }
            Step::Resize { container } => self.resize(record, container, seen).await,
            Step::Stop { container, grace, why, turn } => {
                self.stop(record, container, (*grace, *why, *turn), seen).await;
                Ok(())
            }
            Step::Signal { container } => {
                self.ask(record, container, seen).await;
                Ok(())
            }
            Step::PostStart { container } => self.post_start(record, container, seen),
            Step::Probe { container } => self.probe(record, container, seen),
            Step::Kill { container } => {
                self.kill(record, container, seen).await;
                Ok(())
            }
            Step::Tidy { container } => self.tidy(record, container, seen).await,
            Step::Teardown => self.teardown(record, seen).await,
            Step::Release => self.release(record, seen).await,
            Step::Erase => self.erase(record, seen).await,
        }
    }

    async fn pushed(&mut self) -> Push {
        loop {
            let event = async {
                match &mut self.shim {
                    Some(shim) => shim.events.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Both are channel receivers: cancel-safe.
                Some(push) = self.fetched.1.recv() => {
                    self.note(&push);
                    return *push;
                }
                event = event => {
                    let Some(event) = event else {
                        self.disconnected();
                        return Push::ShimLost;
                    };
                    if let Some(shim) = &self.shim {
                        shim.handle.told.tell(&event);
                    }
                    if let Some(push) = self.told(event) {
                        if let Push::Exited { container, .. } = &push {
                            self.tasks.remove(container);
                        }
                        return push;
                    }
                }
                Some(_) = self.fetches.join_next() => {}
            }
        }
    }
}

fn wanted(desired: Option<&Desired>) -> Result<&Desired, StepError> {
    desired.ok_or_else(|| StepError {
        retry: super::state::Retry::Never,
        reason: "Failed",
        message: "nothing is wanted".to_owned(),
    })
}
