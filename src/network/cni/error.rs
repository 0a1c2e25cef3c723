//! Why plugins did not do what they should, in words that name the network, the plugin and the way out.

use std::io;
use std::path::PathBuf;

use crate::sys::atomic;

/// Why plugins did not do what they should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration that cannot be used.
    #[error("{}: {reason}", file.display())]
    Configuration {
        /// Where it is.
        file: PathBuf,
        /// The field and what is wrong with it.
        reason: String,
    },
    /// Plugins are asked for and not configured.
    #[error("{} has no network configuration; put one there, or use --network bridge", dir.display())]
    NoConfiguration {
        /// Where it should be.
        dir: PathBuf,
    },
    /// A plugin that is not there.
    #[error("network {network}: there is no plugin {plugin} in {dirs}")]
    NoPlugin {
        /// The network.
        network: String,
        /// The plugin.
        plugin: String,
        /// Where it was looked for.
        dirs: String,
    },
    /// No version fits.
    #[error("network {network} is written for version {wanted}, and plugin {plugin} speaks {spoken}")]
    Version {
        /// The network.
        network: String,
        /// What its configuration says.
        wanted: String,
        /// The plugin.
        plugin: String,
        /// What it says.
        spoken: String,
    },
    /// A plugin cannot be run, or says what is no answer.
    #[error("network {network}: plugin {plugin} gives no answer to {task}")]
    Run {
        /// The network.
        network: String,
        /// The plugin.
        plugin: String,
        /// What it was to do.
        task: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A plugin that takes too long.
    #[error("network {network}: plugin {plugin} took longer than {seconds} s for {task} and was killed")]
    Timeout {
        /// The network.
        network: String,
        /// The plugin.
        plugin: String,
        /// What it was to do.
        task: &'static str,
        /// How long it had.
        seconds: u64,
    },
    /// A plugin that says no.
    #[error("network {network}: plugin {plugin} failed {task}: {reason}")]
    Refused {
        /// The network.
        network: String,
        /// The plugin.
        plugin: String,
        /// What it was to do.
        task: &'static str,
        /// Its own number for that.
        code: Option<u32>,
        /// In its own words.
        reason: String,
    },
    /// A port of the host on a network that has none.
    #[error("{path}: no plugin of network {network} has the capability portMappings")]
    NoPorts {
        /// The field.
        path: String,
        /// The network.
        network: String,
    },
    /// An annotation that is no rate.
    #[error("metadata.annotations[{annotation}]: {value:?} is no rate in bits a second")]
    Rate {
        /// The annotation.
        annotation: &'static str,
        /// Its value.
        value: String,
    },
    /// A file or directory.
    #[error("cannot {action}")]
    Io {
        /// What was attempted.
        action: String,
        /// Why not.
        source: io::Error,
    },
    /// What is attached cannot be written down.
    #[error(transparent)]
    Disk(#[from] atomic::Error),
}
