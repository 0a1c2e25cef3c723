//! Events: what happened to an object, in a line a person reads; equal ones are counted, not repeated.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::document::ObjectKey;

/// Whether an event is news or a worry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EventType {
    /// All is as it should be.
    Normal,
    /// A person may have to act.
    Warning,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident $kind:ident,)+) => {
        /// Why an event is there: a closed list, so that metrics by reason stay bounded. The kubelet's words where it has one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// As it is written in events and metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// Whether it is news or a worry.
            pub const fn event_type(self) -> EventType {
                match self {
                    $(Self::$name => EventType::$kind,)+
                }
            }
        }
    };
}

reasons! {
    /// A pod was taken over from a manifest.
    Accepted Normal,
    /// A manifest has something wrong, or asks for what is not there.
    Rejected Warning,
    /// The same object comes from two places; this one does not count.
    Shadowed Warning,
    /// A manifest source cannot be read; nothing was stopped for it.
    SourceUnavailable Warning,
    /// A manifest source can be read again.
    SourceAvailable Normal,
    /// A field was given that another was used for.
    Fallback Warning,
    /// An image is being pulled.
    Pulling Normal,
    /// An image is here.
    Pulled Normal,
    /// An image could not be pulled.
    FailedPull Warning,
    /// A container was made.
    Created Normal,
    /// A container runs.
    Started Normal,
    /// A container or pod could not be made or started.
    Failed Warning,
    /// A container is being stopped.
    Killing Normal,
    /// A probe failed.
    Unhealthy Warning,
    /// A container's hook after its start failed; the container is ended.
    FailedPostStartHook Warning,
    /// A container's hook before its end failed; the end goes on.
    FailedPreStopHook Warning,
    /// A container ended.
    Exited Normal,
    /// A container ended badly.
    Crashed Warning,
    /// A container was killed for its memory.
    OomKilled Warning,
    /// A restart or a pull waits.
    BackOff Warning,
    /// A pod took longer than it may.
    DeadlineExceeded Warning,
    /// A pod was changed without a restart.
    Updated Normal,
    /// A pod or container is replaced for a change in its manifest.
    Replacing Normal,
    /// A container ended so that its rule has all containers of its pod start anew.
    RestartingAllContainers Normal,
    /// A volume could not be mounted.
    FailedMount Warning,
    /// A claim has a volume.
    ProvisioningSucceeded Normal,
    /// A claim holds more than it asked for.
    ExceededCapacity Warning,
    /// A running pod was found and taken over.
    Adopted Normal,
    /// A running pod could not be taken over and was killed.
    ShimLost Warning,
    /// A pod is gone.
    Deleted Normal,
    /// The node is short of something, and goes about to free it.
    EvictionThresholdMet Warning,
    /// A pod was evicted for want of disk or memory.
    Evicted Warning,
    /// A job made a pod, or a workload did.
    SuccessfulCreate Normal,
    /// A job is done.
    Completed Normal,
    /// A job gave up.
    BackoffLimitExceeded Warning,
    /// Layers that nothing uses were removed.
    Collected Normal,
    /// The disk fills up.
    DiskPressure Warning,
    /// Every pod is stopped, and none is started.
    Drained Normal,
    /// Pods are started again.
    Undrained Normal,
    /// A layer or image on disk is damaged.
    Damaged Warning,
    /// A damaged layer was fetched again.
    Repaired Normal,
    /// The agent began.
    AgentStarted Normal,
    /// The agent ends; pods run on.
    AgentStopped Normal,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One event, and how often it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// What it is about.
    pub object: ObjectKey,
    /// The uid of that object, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The container it is about, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// News or worry.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// Why.
    pub reason: Reason,
    /// What happened, for people.
    pub message: String,
    /// How often.
    pub count: u32,
    /// When first.
    pub first_timestamp: Timestamp,
    /// When last.
    pub last_timestamp: Timestamp,
}

impl Event {
    /// An event that happens now for the first time.
    pub fn new(object: ObjectKey, reason: Reason, message: impl Into<String>, now: Timestamp) -> Self {
        Self {
            object,
            uid: None,
            container: None,
            kind: reason.event_type(),
            reason,
            message: message.into(),
            count: 1,
            first_timestamp: now,
            last_timestamp: now,
        }
    }

    /// Whether another event says the same of the same object, so that it is to be counted and not kept.
    pub fn repeats(&self, other: &Self) -> bool {
        self.object == other.object
            && self.uid == other.uid
            && self.container == other.container
            && self.reason == other.reason
            && self.message == other.message
    }

    /// Counts another one of the same.
    pub fn count(&mut self, again: &Self) {
        self.count = self.count.saturating_add(again.count);
        self.first_timestamp = self.first_timestamp.min(again.first_timestamp);
        self.last_timestamp = self.last_timestamp.max(again.last_timestamp);
    }
}
