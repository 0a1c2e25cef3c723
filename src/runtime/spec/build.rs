//! From a pod's container and its image's config to an OCI spec.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext,
};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{
    Capability, Linux, LinuxCapabilities, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespace, LinuxNamespaceType,
    LinuxResources, LinuxSeccomp, Mount, Process, Root, Spec,
};

use super::resources::oom_score_adj;
use super::seccomp::default_filter;
use super::{ContainerSpec, Error, UserRequest};
use crate::runtime::selinux::Labels;
use crate::sys::capability::Capabilities;

/// Everything that a spec is built from.
#[derive(Debug)]
pub struct SpecInput<'a> {
    /// The pod, as accepted.
    pub pod: &'a Pod,
    /// One of its containers.
    pub container: &'a Container,
    /// The config of the container's image.
    pub image: &'a ImageConfiguration,
    /// The environment that the manifest asks for, resolved; the image's comes before it.
    pub env: &'a [(String, String)],
    /// `command`, with `$(VAR)` expanded.
    pub command: &'a [String],
    /// `args`, with `$(VAR)` expanded.
    pub args: &'a [String],
    /// The pod's host name.
    pub host_name: &'a str,
    /// How much memory the machine has, in bytes.
    pub node_memory: u64,
    /// The filter of a `Localhost` seccomp profile.
    pub localhost_seccomp: Option<&'a LinuxSeccomp>,
    /// The AppArmor profile that is meant by `RuntimeDefault`.
    pub default_app_armor: Option<&'a str>,
    /// The SELinux labels that the container asks for.
    pub selinux: Option<&'a Labels>,
}

/// What containerd gives a container by default.
const CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Hidden from a container.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

/// Not to be written by a container.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Destination, type and options of the kernel's file systems in every container. `/dev/shm` is not among them: all
/// containers of a pod have the same one.
const FILESYSTEMS: [(&str, &str, &[&str]); 6] = [
    ("/proc", "proc", &["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
    ("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
];

/// Character devices that every container may use; those in `/dev`, the console and terminals of its own.
const DEVICES: [(i64, Option<i64>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// Builds the spec.
///
/// # Errors
/// If a capability, profile or quantity is not one, or there is no command.
pub fn build(input: &SpecInput<'_>) -> Result<ContainerSpec, Error> {
    let context = input.container.security_context.as_ref();
    let pod_spec = input.pod.spec.as_ref();
    let pod_context = pod_spec.and_then(|spec| spec.security_context.as_ref());
    let privileged = context.and_then(|c| c.privileged) == Some(true);
    let capabilities = capabilities(context, privileged)?;

    let mut spec = Spec::default();
    spec.set_hostname(None);
    spec.set_process(Some(process(input, capabilities)?));
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs"));
    root.set_readonly(context.and_then(|c| c.read_only_root_filesystem));
    spec.set_root(Some(root));
    spec.set_mounts(Some(filesystems(privileged)));

    let mut linux = Linux::default();
    let host_pid = pod_spec.and_then(|spec| spec.host_pid) == Some(true);
    linux.set_namespaces(Some(namespaces(host_pid, privileged)));
    let unmasked = privileged || context.and_then(|c| c.proc_mount.as_deref()) == Some("Unmasked");
    let texts = |paths: &[&str]| paths.iter().filter(|_| !unmasked).map(ToString::to_string).collect();
    linux.set_masked_paths(Some(texts(&MASKED)));
    linux.set_readonly_paths(Some(texts(&READ_ONLY)));
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(device_rules(privileged)));
    linux.set_resources(Some(resources));
    let profile = context
        .and_then(|c| c.seccomp_profile.as_ref())
        .or_else(|| pod_context.and_then(|c| c.seccomp_profile.as_ref()));
    linux.set_seccomp(seccomp(profile, privileged, capabilities, input.localhost_seccomp)?);
    linux.set_rootfs_propagation(None);
    linux.set_mount_label(input.selinux.map(|labels| labels.file.clone()));
    spec.set_linux(Some(linux));

    Ok(ContainerSpec { oci: spec, user: user(input, context, pod_context), privileged })
}

fn process(input: &SpecInput<'_>, capabilities: Capabilities) -> Result<Process, Error> {
    let container = input.container;
    let context = container.security_context.as_ref();
    let config = input.image.config().as_ref();
    let terminal = container.tty == Some(true);

    let mut process = Process::default();
    process.set_terminal(Some(terminal));
    process.set_args(Some(command(input)?));
    process.set_env(Some(environment(input, terminal)));
    let image_directory = config.and_then(|c| c.working_dir().as_deref());
    let directory = container.working_dir.as_deref().filter(|d| !d.is_empty()).or(image_directory);
    process.set_cwd(PathBuf::from("/").join(directory.unwrap_or("/")));
    let mut sets = LinuxCapabilities::default();
    let list: oci_spec::runtime::Capabilities =
        capabilities.names().filter_map(|name| name.trim_start_matches("CAP_").parse::<Capability>().ok()).collect();
    sets.set_bounding(Some(list.clone()));
    sets.set_permitted(Some(list.clone()));
    sets.set_effective(Some(list));
    sets.set_inheritable(None);
    sets.set_ambient(None);
    process.set_capabilities(Some(sets));
    process.set_rlimits(None);
    process.set_no_new_privileges(Some(context.and_then(|c| c.allow_privilege_escalation) == Some(false)));
    process.set_apparmor_profile(app_armor(input));
    process.set_selinux_label(input.selinux.and_then(|labels| labels.process.clone()));
    process.set_oom_score_adj(Some(oom_score_adj(input.pod, container, input.node_memory)?));
    Ok(process)
}

/// The manifest's `command` replaces the image's entrypoint and its arguments, `args` its arguments alone.
fn command(input: &SpecInput<'_>) -> Result<Vec<String>, Error> {
    let config = input.image.config().as_ref();
    let entrypoint = config.and_then(|c| c.entrypoint().clone()).unwrap_or_default();
    let arguments = config.and_then(|c| c.cmd().clone()).unwrap_or_default();
    let words: Vec<String> = match (input.command.is_empty(), input.args.is_empty()) {
        (false, _) => input.command.iter().chain(input.args).cloned().collect(),
        (true, false) => entrypoint.iter().chain(input.args).cloned().collect(),
        (true, true) => entrypoint.into_iter().chain(arguments).collect(),
    };
    if words.is_empty() { Err(Error::NoCommand) } else { Ok(words) }
}

/// The image's variables, what every container has, then the manifest's; a later one of the same name wins.
fn environment(input: &SpecInput<'_>, terminal: bool) -> Vec<String> {
    let mut variables: Vec<(String, String)> =
        vec![("PATH".into(), super::DEFAULT_PATH.into()), ("HOSTNAME".into(), input.host_name.into())];
    if terminal {
        variables.push(("TERM".into(), "xterm".into()));
    }
    let config = input.image.config().as_ref();
    let image = config.iter().flat_map(|c| c.env().iter().flatten()).filter_map(|line| line.split_once('='));
    let asked = input.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in image.chain(asked) {
        match variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => value.clone_into(known),
            None => variables.push((name.to_owned(), value.to_owned())),
        }
    }
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn capabilities(context: Option<&SecurityContext>, privileged: bool) -> Result<Capabilities, Error> {
    if privileged {
        return Ok(Capabilities::all());
    }
    let mut set =
        CAPABILITIES.iter().filter_map(|name| Capabilities::named(name)).fold(Capabilities::EMPTY, Capabilities::with);
    let Some(changes) = context.and_then(|c| c.capabilities.as_ref()) else { return Ok(set) };
    let named = |name: &String| {
        if name.eq_ignore_ascii_case("ALL") {
            return Ok(Capabilities::all());
        }
        Capabilities::named(name).ok_or_else(|| Error::Capability { name: name.clone() })
    };
    let (adds, drops) = (changes.add.iter().flatten(), changes.drop.iter().flatten());
    // `ALL` on one side is the ground that the other side's names stand on.
    for all in adds.clone().filter(|name| name.eq_ignore_ascii_case("ALL")) {
        set = set.with(named(all)?);
    }
    for name in drops {
        set = set.without(named(name)?);
    }
    for name in adds.filter(|name| !name.eq_ignore_ascii_case("ALL")) {
        set = set.with(named(name)?);
    }
    Ok(set)
}

fn seccomp(
    profile: Option<&SeccompProfile>,
    privileged: bool,
    capabilities: Capabilities,
    localhost: Option<&LinuxSeccomp>,
) -> Result<Option<LinuxSeccomp>, Error> {
    if privileged {
        return Ok(None);
    }
    match profile.map(|p| p.type_.as_str()) {
        None | Some("RuntimeDefault") => Ok(Some(default_filter(capabilities))),
        Some("Unconfined") => Ok(None),
        Some("Localhost") => localhost.cloned().map(Some).ok_or(Error::LocalhostProfile),
        Some(other) => Err(Error::SeccompProfile { name: other.to_owned() }),
    }
}

/// What a container's manifest says about AppArmor; a privileged one is never under a profile.
fn app_armor_wish<'a>(pod: &'a Pod, container: &'a Container) -> Option<&'a AppArmorProfile> {
    let own = container.security_context.as_ref();
    let pods = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    own.and_then(|c| c.app_armor_profile.as_ref())
        .or_else(|| pods.and_then(|c| c.app_armor_profile.as_ref()))
        .filter(|_| own.and_then(|c| c.privileged) != Some(true))
}

/// Whether a container asks for AppArmor's `RuntimeDefault`.
pub fn wants_default_app_armor(pod: &Pod, container: &Container) -> bool {
    app_armor_wish(pod, container).is_some_and(|profile| profile.type_ == "RuntimeDefault")
}

/// The AppArmor profile that the program runs under.
fn app_armor(input: &SpecInput<'_>) -> Option<String> {
    let profile = app_armor_wish(input.pod, input.container)?;
    match profile.type_.as_str() {
        "Localhost" => profile.localhost_profile.clone(),
        "RuntimeDefault" => input.default_app_armor.map(str::to_owned),
        _ => None,
    }
}

fn user(
    input: &SpecInput<'_>,
    context: Option<&SecurityContext>,
    pod_context: Option<&PodSecurityContext>,
) -> UserRequest {
    let id = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
    let config = input.image.config().as_ref();
    let of = |own: Option<i64>, pods: Option<i64>| own.or(pods).map(id);
    let groups = pod_context.iter().flat_map(|c| c.fs_group.iter().chain(c.supplemental_groups.iter().flatten()));
    UserRequest {
        uid: of(context.and_then(|c| c.run_as_user), pod_context.and_then(|c| c.run_as_user)),
        gid: of(context.and_then(|c| c.run_as_group), pod_context.and_then(|c| c.run_as_group)),
        image_user: config.and_then(|c| c.user().clone()).unwrap_or_default(),
        groups: groups.map(|n| id(*n)).collect(),
        strict_groups: pod_context.and_then(|c| c.supplemental_groups_policy.as_deref()) == Some("Strict"),
        non_root: context.and_then(|c| c.run_as_non_root).or_else(|| pod_context.and_then(|c| c.run_as_non_root))
            == Some(true),
    }
}

/// What a container has of its own. Network, IPC and host name are the pod's: those of whoever starts it. So is the pid
/// namespace where the pod's containers share one, whatever is said here.
fn namespaces(host_pid: bool, privileged: bool) -> Vec<LinuxNamespace> {
    let mut kinds = vec![LinuxNamespaceType::Mount];
    if !host_pid {
        kinds.push(LinuxNamespaceType::Pid);
    }
    // A privileged container manages the machine's groups, so it sees them all.
    if !privileged {
        kinds.push(LinuxNamespaceType::Cgroup);
    }
    kinds
        .into_iter()
        .map(|kind| {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(kind);
            namespace
        })
        .collect()
}

fn filesystems(privileged: bool) -> Vec<Mount> {
    let one = |(destination, kind, options): &(&str, &str, &[&str])| {
        let mut mount = Mount::default();
        mount.set_destination(PathBuf::from(destination));
        mount.set_typ(Some((*kind).to_owned()));
        mount.set_source(Some(PathBuf::from(kind)));
        let options = options.iter().filter(|option| !(privileged && **option == "ro"));
        mount.set_options(Some(options.map(ToString::to_string).collect()));
        mount
    };
    FILESYSTEMS.iter().map(one).collect()
}

fn device_rules(privileged: bool) -> Vec<LinuxDeviceCgroup> {
    let rule = |kind, major, minor, access: &str| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true);
        rule.set_typ(Some(kind));
        rule.set_major(major);
        rule.set_minor(minor);
        rule.set_access(Some(access.to_owned()));
        rule
    };
    if privileged {
        return vec![rule(LinuxDeviceType::A, None, None, "rwm")];
    }
    // A node may be made of any device, but only used if it is one of the list.
    let mut rules = vec![rule(LinuxDeviceType::C, None, None, "m"), rule(LinuxDeviceType::B, None, None, "m")];
    rules.extend(DEVICES.iter().map(|(major, minor)| rule(LinuxDeviceType::C, Some(*major), *minor, "rwm")));
    rules
}
