//! Who uses a network of plugins, as far as it can be seen on the machine: their garbage is collected only where nobody
//! else's attachments could be taken for it.
//!
//! ```text
//! /var/lib/cni/lamina/<network>/<instance>   an agent that has pods on it
//!              results/<network>-…           what other runtimes remember of theirs
//!              networks/<network>/…          addresses that host-local has handed out, and to whom
//! /etc/cni/net.d                             what other runtimes read
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Error, list};
use crate::sys::atomic;

/// Where plugins and runtimes keep what outlasts them.
const STATE: &str = "/var/lib/cni";
/// Where other runtimes read their networks.
const OTHERS: &str = "/etc/cni/net.d";

/// The claims of one agent.
#[derive(Debug)]
pub(super) struct Claims {
    state: PathBuf,
    others: PathBuf,
    instance: String,
}

impl Claims {
    pub(super) fn new(instance: &str) -> Self {
        Self { state: STATE.into(), others: OTHERS.into(), instance: instance.to_owned() }
    }

    fn dir(&self, network: &str) -> PathBuf {
        self.state.join("lamina").join(network)
    }

    /// Says that this agent has pods on a network.
    pub(super) fn claim(&self, network: &str) -> Result<(), Error> {
        let dir = self.dir(network);
        // What lies here is for others to see.
        atomic::create_dir(&dir, 0o755)?;
        let file = dir.join(&self.instance);
        // It says all by being there: nothing of it can be half written.
        let made = fs::File::create(&file);
        made.map_err(|source| Error::Io { action: format!("make {}", file.display()), source })?;
        Ok(atomic::sync_dir(&dir)?)
    }

    /// Says that it has none any more.
    pub(super) fn release(&self, network: &str) {
        let dir = self.dir(network);
        let done = fs::remove_file(dir.join(&self.instance));
        if done.is_err_and(|e| e.kind() != io::ErrorKind::NotFound) {
            tracing::warn!(network, "that no pod is on a network any more cannot be written down");
        }
        // Each goes once it is empty; the plugins' own stay.
        for dir in [dir, self.state.join("lamina")] {
            let _ = fs::remove_dir(dir);
        }
    }

    /// Who else uses a network; nobody, as far as can be seen, when there is nothing. What is ours begins with `ours`.
    pub(super) fn others(&self, network: &str, file: &Path, ours: &str) -> Option<String> {
        let names = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if file.parent().and_then(|dir| dir.canonicalize().ok()).is_some_and(|dir| dir == self.others) {
            return Some(format!("{} is read by other runtimes", self.others.display()));
        }
        let defined = |path: &PathBuf| list::name_of(path).is_some_and(|n| n == network);
        if let Some(path) = names(self.others.clone()).find(defined) {
            return Some(format!("{} has it, too", path.display()));
        }
        if let Some(path) = names(self.dir(network)).find(|path| name(path) != self.instance) {
            return Some(format!("another agent has pods on it ({})", path.display()));
        }
        if let Some(path) = names(self.state.join("results")).find(|p| name(p).starts_with(&format!("{network}-"))) {
            return Some(format!("another runtime has attached something ({})", path.display()));
        }
        let foreign = |path: &PathBuf| {
            // Files that are named by an address; their first line is to whom it was given.
            let is_address = name(path).parse::<std::net::IpAddr>().is_ok();
            is_address && fs::read_to_string(path).is_ok_and(|text| !text.starts_with(ours))
        };
        let path = names(self.state.join("networks").join(network)).find(foreign)?;
        Some(format!("an address was given to somebody else ({})", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_else_uses_a_network_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (state, others) = (dir.path().join("state"), dir.path().join("others"));
        let claims =
            |instance: &str| Claims { state: state.clone(), others: others.clone(), instance: instance.to_owned() };
        let (a, b) = (claims("a"), claims("b"));
        let file = dir.path().join("own/x.conflist");
        let seen = || a.others("pods", &file, "lamina-a-");
        let write = |path: &Path, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        a.claim("pods").unwrap();
        write(&state.join("results/other-pod-eth0"), "");
        write(&state.join("networks/pods/10.0.0.2"), "lamina-a-uid\neth0");
        write(&state.join("networks/pods/last_reserved_ip.0"), "10.0.0.2");
        write(&others.join("x.conflist"), r#"{"name": "other"}"#);
        assert_eq!(seen(), None);

        b.claim("pods").unwrap();
        assert!(seen().unwrap().contains("another agent"));
        b.release("pods");
        assert_eq!(seen(), None);
        for (path, text, why) in [
            (state.join("networks/pods/10.0.0.3"), "deadbeef\neth0", "an address"),
            (state.join("results/pods-deadbeef-eth0"), "", "another runtime"),
            (others.join("y.conflist"), r#"{"name": "pods"}"#, "has it, too"),
        ] {
            write(&path, text);
            assert!(seen().unwrap().contains(why), "{why}");
            fs::remove_file(path).unwrap();
        }
        assert_eq!(seen(), None);
        assert!(a.others("pods", &others.join("x.conflist"), "").unwrap().contains("read by other runtimes"));
        a.release("pods");
        assert!(!state.join("lamina").exists());
    }
}
