//! A pod's network: the host's, the built-in bridge, or that of CNI plugins; addresses, ports of the host, and the names that pods know.
//!
//! ```text
//!   pod ── eth0 ══ veth ── bridge ── host ── masquerade ──▶ elsewhere
//!          10.88.n.m        10.88.n.1        ▲
//!          default via .1                    └── hostPort
//! ```
//!
//! A pod reaches its neighbours through the host, too (its address stands alone, with no network around it), so that
//! whatever the host's rules redirect comes back the same way. All that is made carries the store's instance in its
//! name: several agents fit on one machine. What is handed out lies on disk before it is used, and the kernel's state is
//! made from that; the bridge and the table of rules are there as long as a pod needs them.
//!
//! | file | what |
//! |---|---|
//! | `files` | host names, `/etc/hosts`, `/etc/resolv.conf` |
//! | `lease` | which pod has which addresses and ports, on disk |
//! | `ports` | ports of the host that pods ask for |
//! | `subnet` | a range of addresses that nobody else on the machine has |
//! | `cni` | networks of plugins |
//! | `bridge` | bridge, veth pairs, and what is set in a pod's namespace |
//! | `service` | what is behind each service, and which addresses it has |
//! | `dns` | the resolver that answers pods for services and pods |
//! | `rules`, `nft` | the table of rules, and its form for the kernel |
//! | `hand` | all of it together: what the rest of the agent uses |
//!
//! A new kind is an arm of [`Kind`] here and a file beside this one.

mod bridge;
mod cni;
mod dns;
mod files;
mod hand;
mod lease;
mod nft;
mod ports;
mod rules;
mod service;
mod subnet;

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::sys::{atomic, netlink};

pub use cni::{Error as PluginError, Settings as PluginSettings};
pub use files::{Around, Files, HostFiles, files, hostname};
pub use hand::{Granted, Network};
pub use lease::Lease;
pub use ports::HostPort;
pub use service::Backend;

/// What a pod is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The host's own network.
    Host,
    /// A namespace of its own.
    Own,
}

impl Kind {
    /// The kind that a pod asks for.
    pub fn of(pod: &Pod) -> Self {
        let host = pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or_default();
        if host { Self::Host } else { Self::Own }
    }
}

/// What a namespace of a pod's own is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Plugins where they are configured, else the bridge.
    #[default]
    Auto,
    /// The built-in bridge.
    Bridge,
    /// Plugins.
    Cni,
    /// Nothing: it has its loopback alone.
    None,
}

/// A network namespace of a pod's own.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
    /// Where others can open it, while the pod has it.
    path: String,
    /// Its device and inode.
    id: (u64, u64),
}

impl Namespace {
    /// Opens one.
    ///
    /// # Errors
    /// If it is not there.
    pub fn open(path: String) -> io::Result<Self> {
        let file = std::fs::File::open(&path)?;
        let meta = file.metadata()?;
        Ok(Self { fd: file.into(), path, id: (meta.dev(), meta.ino()) })
    }
}

/// How pods of this node are connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// To what.
    pub mode: Mode,
    /// From which the node takes a range of addresses for its pods.
    pub pods: Ipv4Net,
    /// From which the node takes a range of addresses for services.
    pub services: Ipv4Net,
    /// The domain below which services and pods have names.
    pub domain: String,
    /// Where plugins and their configurations are.
    pub cni: PluginSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            // 1024 ranges of 254 addresses, so that two agents on one machine hardly begin with the same.
            pods: Ipv4Net::new_assert(Ipv4Addr::new(10, 88, 0, 0), 14),
            services: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 12),
            domain: "cluster.local".to_owned(),
            cni: PluginSettings::default(),
        }
    }
}

/// The protocols that have ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// As manifests have it; TCP where they say nothing.
    pub fn of(text: Option<&str>) -> Self {
        match text {
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            _ => Self::Tcp,
        }
    }

    /// Its number in a packet.
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// Why a pod has no network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a step.
    #[error("cannot {action}")]
    Kernel {
        /// What was attempted.
        action: String,
        /// Why not.
        source: netlink::Error,
    },
    /// The kernel lacks something altogether.
    #[error(
        "this kernel has no {what}; with --network none pods have their loopback alone, and hostNetwork: true works as ever"
    )]
    Missing {
        /// What.
        what: &'static str,
        /// How that was found out.
        source: netlink::Error,
    },
    /// Plugins did not do what they should.
    #[error(transparent)]
    Plugins(#[from] cni::Error),
    /// A file, directory or namespace.
    #[error("cannot {action}")]
    Io {
        /// What was attempted.
        action: String,
        /// Why not.
        source: io::Error,
    },
    /// What is handed out cannot be written down.
    #[error(transparent)]
    Disk(#[from] atomic::Error),
    /// Every range is somebody else's.
    #[error("every range of addresses in {pool} is in use on this machine; give another with --pod-cidr")]
    NoRange {
        /// The pool.
        pool: Ipv4Net,
    },
    /// Every address is taken.
    #[error("every address of {range} is taken; a larger --pod-cidr has more")]
    Full {
        /// The range.
        range: Ipv4Net,
    },
    /// Somebody else has a port of the host.
    #[error("{path}: {port} is taken by {holder}")]
    Taken {
        /// The field that asks for it.
        path: String,
        /// The port.
        port: String,
        /// Who has it.
        holder: String,
    },
}

impl Error {
    fn kernel(action: impl Into<String>) -> impl FnOnce(netlink::Error) -> Self {
        let action = action.into();
        move |source| Self::Kernel { action, source }
    }

    fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
