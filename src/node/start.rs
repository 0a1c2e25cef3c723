//! From settings to a node that runs: everything is opened in the order in which it depends on each other.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::manager::Found;
use super::{Error, Settings, StoreDriver};
use crate::api::{PodKey, PodUid};
use crate::image::{Images, RegistryConfig};
use crate::metrics::Registry;
use crate::network::Network;
use crate::pod;
use crate::pod::real::{Machine, Parts, Policy, read_record};
use crate::rootfs::Layers;
use crate::runtime::selinux;
use crate::store::driver::DriverChoice;
use crate::store::{self, Store};
use crate::sys::cgroup::Hierarchies;
use crate::sys::mount::Tier;
use crate::sys::{atomic, removal};
use crate::volume::claim::Claims;

/// Which boot the files under `--run` are of.
const BOOT: &str = "boot";
/// How much of a binary's digest names its build: enough that no two builds of a node share it.
const BUILD_ID_BYTES: usize = 16;
/// The kernel's id of this boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Opens the store. Blocks.
pub(super) fn open_store(settings: &Settings) -> Result<Store, Error> {
    let driver = match settings.store_driver {
        StoreDriver::Auto => DriverChoice::Auto,
        StoreDriver::Erofs => DriverChoice::Erofs,
        StoreDriver::Directory => DriverChoice::Directory,
    };
    let options = store::Options { driver, ..store::Options::new(&settings.root) };
    Store::open(&options).map_err(|error| match error {
        store::Error::Locked { holder, .. } => Error::Locked {
            root: settings.root.clone(),
            holder: holder.map_or_else(|| "an unknown process".to_owned(), |pid| format!("process {pid}")),
        },
        error => Error::failed(format!("open the store at {}", settings.root.display()))(error),
    })
}

/// Puts together what all pods share. Blocks.
pub(super) fn machine(
    settings: &Settings,
    registry: &Registry,
    store: Store,
    events: tokio::sync::mpsc::UnboundedSender<crate::api::Event>,
) -> Result<Arc<Machine>, Error> {
    let boot = boot_id()?;
    let pods = settings.root.join("pods");
    let live = settings.run.join("pods");
    for dir in [&settings.root, &settings.run, &pods] {
        atomic::create_dir(dir, 0o700).map_err(Error::failed("make a directory"))?;
    }
    warn_of_scores();
    forget_other_boots(&settings.run, &live, &boot)?;
    make_dir(&live, 0o700)?;
    make_dir(&settings.log_dir, 0o755)?;
    let config =
        RegistryConfig::load(&settings.registry_config).map_err(Error::failed("read the registries' settings"))?;
    let images =
        Images::new(store.clone(), config, registry, settings.pull_parallel).map_err(Error::failed("set up pulls"))?;
    let selinux = selinux::Defaults::of_node();
    let layers = Layers::new(store.clone(), selinux.as_ref().and_then(selinux::Defaults::shared))
        .map_err(Error::failed("find out how layers are mounted here"))?;
    let user_namespaces = layers.tier() == Tier::Detached && user_namespaces();
    let hierarchies = Hierarchies::probe().map_err(Error::failed("find the cgroup hierarchies"))?;
    let shim = install_shim(settings)?;
    let network = Network::open(settings.network.clone(), &settings.root.join("network"), store.instance())
        .map_err(Error::failed("read what addresses pods have"))?;
    let claims = Claims::open(settings.root.join("volumes")).map_err(Error::failed("read what claims there are"))?;
    Machine::new(Parts {
        pods,
        live,
        log_dir: settings.log_dir.clone(),
        node: node_name(settings),
        boot,
        hierarchies,
        shim,
        store,
        images,
        layers,
        network: Arc::new(network),
        claims,
        metrics: pod::metrics::Metrics::new(registry).map_err(Error::failed("set up metrics"))?,
        events,
        pod_pids_limit: settings.pod_pids_limit,
        policy: Policy {
            user_namespaces,
            app_armor: app_armor(),
            selinux,
            memory_throttling: settings.memory_throttling,
            cdi: settings.cdi.clone(),
            unsafe_sysctls: settings.allowed_unsafe_sysctls.clone(),
            seccomp: settings.seccomp.clone().unwrap_or_else(|| settings.root.join("seccomp")),
        },
    })
    .map_err(Error::failed("start the thread that makes sockets"))
}

/// Says once what every pod would have to say for itself.
fn warn_of_scores() {
    use crate::sys::capability::{Capabilities, permitted};
    let needed = Capabilities::named("SYS_RESOURCE");
    if let (Some(needed), Ok(has)) = (needed, permitted())
        && has.both(needed) != needed
    {
        tracing::warn!(
            "without CAP_SYS_RESOURCE no oom_score_adj below the agent's own can be set: when memory runs out, the kernel \
             chooses among pods by less than their class"
        );
    }
}

/// Whether the kernel runs AppArmor.
fn app_armor() -> bool {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    enabled.trim() == "Y"
}

/// Whether the kernel makes user namespaces.
fn user_namespaces() -> bool {
    let most = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    most.trim().parse::<u64>().is_ok_and(|most| most > 0)
}

/// The node's name: as set, else the host's.
fn node_name(settings: &Settings) -> String {
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    settings.node_name.clone().unwrap_or_else(host)
}

fn boot_id() -> Result<String, Error> {
    let id = fs::read_to_string(BOOT_ID).map_err(Error::failed("read the boot id"))?;
    Ok(id.trim().to_owned())
}

/// Live state of another boot is of nothing that lives.
fn forget_other_boots(run: &Path, live: &Path, boot: &str) -> Result<(), Error> {
    let file = run.join(BOOT);
    if fs::read_to_string(&file).is_ok_and(|known| known == boot) {
        return Ok(());
    }
    removal::remove(live).map_err(Error::failed("remove state of another boot"))?;
    atomic::write_volatile(&file, boot.as_bytes(), 0o600).map_err(Error::failed("note which boot this is"))
}

fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(Error::failed(format!("make {}", path.display())))
}

/// Keeps a copy of the binary that shims run, so that replacing the agent's own file changes nothing under them; the
/// copy's directory is named by what the file holds.
fn install_shim(settings: &Settings) -> Result<(PathBuf, String), Error> {
    let source = settings.shim.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let failed = |action: &str| Error::failed::<io::Error>(format!("{action} {}", source.display()));
    let mut file = fs::File::open(&source).map_err(failed("open"))?;
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut HashWriter(&mut hash)).map_err(failed("read"))?;
    let mut build = String::new();
    for byte in hash.finalize().iter().take(BUILD_ID_BYTES) {
        // Writing to a String cannot fail.
        let _ = write!(build, "{byte:02x}");
    }
    let dir = settings.root.join("bin").join(&build);
    let path = dir.join("lamina");
    if path.exists() {
        return Ok((path, build));
    }
    make_dir(&dir, 0o700)?;
    let new = dir.join(format!("{}{}", atomic::TEMPORARY, std::process::id()));
    fs::copy(&source, &new).map_err(failed("copy"))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o500)).map_err(failed("set the mode of a copy of"))?;
    fs::File::open(&new).and_then(|f| f.sync_all()).map_err(failed("sync a copy of"))?;
    atomic::commit(&new, &path).map_err(Error::failed("install the shim"))?;
    Ok((path, build))
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Removes builds of the shim that no shim runs and that the next would not run either. Blocks.
pub(super) fn remove_old_builds(machine: &Machine, root: &Path) {
    let mut used: BTreeSet<String> = machine.builds_in_use().into_iter().collect();
    used.insert(machine.shim.1.clone());
    for entry in fs::read_dir(root.join("bin")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !used.contains(&name)
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(%error, build = name, "an old build of the shim stays");
        }
    }
}

/// The pods of earlier agents. A directory without a record is what a crash left of one that was never accepted or has
/// gone already. Blocks.
pub(super) fn found(machine: &Machine) -> Result<Vec<Found>, Error> {
    let mut found = Vec::new();
    let entries = fs::read_dir(&machine.pods).map_err(Error::failed("list the pods"))?;
    for entry in entries {
        let path = entry.map_err(Error::failed("list the pods"))?.path();
        let named: Option<PodUid> = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok());
        match read_record(&path) {
            Ok(Some(record)) if Some(&record.uid) == named.as_ref() => {
                record.users.inspect(|first| machine.users.keep(*first));
                found.push(Found { key: PodKey::of(&record.pod.metadata), record });
            }
            Ok(None) => {
                if let Err(error) = removal::remove(&path) {
                    tracing::warn!(error = %crate::api::problem::chain(&error), path = %path.display(), "what is left of a pod stays");
                }
            }
            Ok(Some(_)) => tracing::warn!(path = %path.display(), "not a pod's directory; left alone"),
            Err(error) => {
                tracing::warn!(path = %path.display(), error = %crate::api::problem::chain(&error), "a pod is left alone");
            }
        }
    }
    // The newest of one name first.
    found.sort_by_key(|f| std::cmp::Reverse(f.record.created));
    Ok(found)
}
