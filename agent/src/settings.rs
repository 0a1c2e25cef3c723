//! The agent's settings: flags before the environment before `/etc/lamina/config.yaml` before the defaults.
//!
//! The same names everywhere: `--gc-grace`, `LAMINA_GC_GRACE`, `gc-grace:` in the file. An unknown name in the file is
//! an error, for a typo must not run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::Ipv4Net;
use lamina::network;
use lamina::node::{self, Cluster, StoreDriver, Thresholds};
use serde::{Deserialize, Deserializer};

use crate::cli::RUN;
use crate::failure::Failure;

#[cfg(test)]
mod tests;

/// Where the file is when nothing says otherwise; there it may be missing.
const FILE: &str = "/etc/lamina/config.yaml";

/// The longest settings file that is read.
const MAX_FILE: u64 = 1024 * 1024;

/// Where metrics and health are when nothing says otherwise.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9640);

/// One layer of settings: the command line with the environment, or the file.
#[derive(Debug, Default, Clone, PartialEq, Args, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub(crate) struct Layer {
    /// The store and pod state [default: /var/lib/lamina]
    #[arg(long, env = "LAMINA_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    /// Container logs in CRI format [default: /var/log/lamina/pods]
    #[arg(long, env = "LAMINA_LOG_DIR", value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// Watched directories of manifests; may be given more than once [default: /etc/lamina/manifests]
    #[arg(long, env = "LAMINA_MANIFESTS", value_name = "DIR", value_delimiter = ':')]
    manifests: Option<Vec<PathBuf>>,
    /// Watched directories of image archives; may be given more than once [default: /etc/lamina/images]
    #[arg(long, env = "LAMINA_IMAGES", value_name = "DIR", value_delimiter = ':')]
    images: Option<Vec<PathBuf>>,
    /// The node's name [default: the host's name]
    #[arg(long, env = "LAMINA_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// Take pods from the API server of a cluster, too: the NodeWorkloads that are assigned to this node [default: false]
    #[arg(long, env = "LAMINA_KUBERNETES", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    kubernetes: Option<bool>,
    /// How to reach the API server [default: as the service account of the agent's own pod]
    #[arg(long, env = "LAMINA_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the Leases by which the cluster knows that nodes are alive [default: lamina-system]
    #[arg(long, env = "LAMINA_LEASE_NAMESPACE", value_name = "NAMESPACE")]
    lease_namespace: Option<String>,
    /// Where /metrics, /healthz and /readyz are. An address that others can reach has TLS; with --kubernetes, tokens of the
    /// cluster are asked for, and `kubectl lamina` is answered there, too [default: 127.0.0.1:9640]
    #[arg(long, env = "LAMINA_METRICS", value_name = "ADDR", value_parser = address)]
    #[serde(deserialize_with = "address_of")]
    metrics: Option<SocketAddr>,
    /// The certificate for that, in PEM format [default: one made at each start, with --kubernetes]
    #[arg(long, env = "LAMINA_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM format
    #[arg(long, env = "LAMINA_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Serve metrics on an address that others can reach, without TLS and to anybody [default: false]
    #[arg(long, env = "LAMINA_METRICS_INSECURE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    metrics_insecure: Option<bool>,
    /// How new layers are kept: auto, erofs or directory [default: auto]
    #[arg(long, env = "LAMINA_STORE_DRIVER", value_name = "DRIVER")]
    store_driver: Option<Driver>,
    /// How long an unreferenced layer is kept [default: 0s]
    #[arg(long, env = "LAMINA_GC_GRACE", value_name = "DURATION", value_parser = lamina::api::duration::parse)]
    #[serde(deserialize_with = "duration")]
    gc_grace: Option<Duration>,
    /// How full the store's disk may be before cached images go, the longest unused first [default: 80]
    #[arg(long, env = "LAMINA_GC_HIGH", value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    gc_high: Option<u8>,
    /// How full it is when that stops [default: 75]
    #[arg(long, env = "LAMINA_GC_LOW", value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=99))]
    gc_low: Option<u8>,
    /// How long an image that no pod wants any more is kept [default: 0s]
    #[arg(long, env = "LAMINA_GC_IMAGE_AGE", value_name = "DURATION", value_parser = lamina::api::duration::parse)]
    #[serde(deserialize_with = "duration")]
    gc_image_age: Option<Duration>,
    /// Of what there must be how much, or pods are evicted; as for a kubelet, or none [default: memory.available<100Mi, nodefs.available<10%, nodefs.inodesFree<5%]
    #[arg(long, env = "LAMINA_EVICTION_HARD", value_name = "THRESHOLDS", value_parser = str::parse::<Thresholds>)]
    #[serde(deserialize_with = "thresholds")]
    eviction_hard: Option<Thresholds>,
    /// How long the node counts as short of something after it was [default: 5m]
    #[arg(long, env = "LAMINA_EVICTION_PRESSURE_TRANSITION_PERIOD", value_name = "DURATION", value_parser = lamina::api::duration::parse)]
    #[serde(deserialize_with = "duration")]
    eviction_pressure_transition_period: Option<Duration>,
    /// Where between its memory request and limit a container is slowed down, as 0.9 (memory.high; cgroup v2 only) [default: nowhere]
    #[arg(long, env = "LAMINA_MEMORY_THROTTLING_FACTOR", value_name = "FACTOR", value_parser = factor)]
    #[serde(deserialize_with = "factor_of")]
    memory_throttling_factor: Option<u64>,
    /// Mirrors, plain-http hosts, CAs and credentials of registries [default: /etc/lamina/registries.yaml]
    #[arg(long, env = "LAMINA_REGISTRY_CONFIG", value_name = "FILE")]
    registry_config: Option<PathBuf>,
    /// How many layers have a series of their own in the metrics [default: 200]
    #[arg(long, env = "LAMINA_METRICS_LAYERS", value_name = "N")]
    metrics_layers: Option<usize>,
    /// Layers fetched at once on the node [default: 4]
    #[arg(long, env = "LAMINA_PULL_PARALLEL", value_name = "N", value_parser = positive)]
    pull_parallel: Option<usize>,
    /// Tasks (processes and threads) that a pod may have [default: 8192]
    #[arg(long, env = "LAMINA_POD_PIDS_LIMIT", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pod_pids_limit: Option<u32>,
    /// What pods without hostNetwork are connected to: bridge, cni for what --cni-conf-dir configures, auto for cni where
    /// something is configured and bridge elsewhere, or none for their loopback alone [default: auto]
    #[arg(long, env = "LAMINA_NETWORK", value_name = "KIND")]
    network: Option<Connected>,
    /// Where configurations of CNI networks lie; the first by name counts [default: /etc/lamina/cni/net.d]
    #[arg(long, env = "LAMINA_CNI_CONF_DIR", value_name = "DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// Where CNI plugins lie; may be given more than once [default: /opt/cni/bin, /usr/lib/cni]
    #[arg(long, env = "LAMINA_CNI_BIN_DIR", value_name = "DIR", value_delimiter = ':')]
    cni_bin_dir: Option<Vec<PathBuf>>,
    /// How long a CNI plugin may take before it is killed [default: 1m]
    #[arg(long, env = "LAMINA_CNI_TIMEOUT", value_name = "DURATION", value_parser = lamina::api::duration::parse)]
    #[serde(deserialize_with = "duration")]
    cni_timeout: Option<Duration>,
    /// From where the node takes a range of addresses (a /24) for its pods [default: 10.88.0.0/14]
    #[arg(long, env = "LAMINA_POD_CIDR", value_name = "CIDR", value_parser = pod_cidr)]
    #[serde(deserialize_with = "cidr")]
    pod_cidr: Option<Ipv4Net>,
    /// From where the node takes a range of addresses (a /24) for services [default: 10.96.0.0/12]
    #[arg(long, env = "LAMINA_SERVICE_CIDR", value_name = "CIDR", value_parser = pod_cidr)]
    #[serde(deserialize_with = "cidr")]
    service_cidr: Option<Ipv4Net>,
    /// The domain below which services and pods have names [default: cluster.local]
    #[arg(long, env = "LAMINA_CLUSTER_DOMAIN", value_name = "DOMAIN")]
    cluster_domain: Option<String>,
    /// Sysctls that pods may set beside the safe ones: names, or beginnings that end in * [default: none]
    #[arg(long, env = "LAMINA_ALLOWED_UNSAFE_SYSCTLS", value_name = "NAMES", value_delimiter = ',')]
    allowed_unsafe_sysctls: Option<Vec<String>>,
    /// Where files describe devices (CDI); may be given more than once, the later wins [default: /etc/cdi, /var/run/cdi]
    #[arg(long, env = "LAMINA_CDI_DIR", value_name = "DIR", value_delimiter = ':')]
    cdi_dir: Option<Vec<PathBuf>>,
    /// Where the files of localhostProfile lie [default: seccomp below the root]
    #[arg(long, env = "LAMINA_SECCOMP_DIR", value_name = "DIR")]
    seccomp_dir: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or by module as in `info,lamina::image=debug` [default: info]
    #[arg(long, env = "LAMINA_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
    /// How: text or json [default: text]
    #[arg(long, env = "LAMINA_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Sockets and live state; on the command line it is a global option
    #[arg(skip)]
    run: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Driver {
    Auto,
    Erofs,
    Directory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Connected {
    Auto,
    Bridge,
    Cni,
    None,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("must be a number above 0".to_owned()),
        Ok(n) => Ok(n),
    }
}

/// The smallest pool has an address for the bridge and one for a pod.
const LONGEST_PREFIX: u8 = 30;

fn pod_cidr(text: &str) -> Result<Ipv4Net, String> {
    let net: Ipv4Net = text.parse().map_err(|_| "must be an IPv4 network, as in 10.88.0.0/14".to_owned())?;
    if net.prefix_len() > LONGEST_PREFIX || net.prefix_len() < 8 {
        return Err(format!("must have a prefix from /8 to /{LONGEST_PREFIX}"));
    }
    Ok(net.trunc())
}

fn cidr<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Ipv4Net>, D::Error> {
    let text = String::deserialize(from)?;
    pod_cidr(&text).map(Some).map_err(serde::de::Error::custom)
}

/// A path as seen from where the agent was started: shims and later agents are started elsewhere.
fn absolute(name: &str, path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path)
        .map_err(|e| Failure::usage(format!("--{name} {:?} cannot be made absolute", path.display())).source(e))
}

/// An address and a port. Brackets around an IPv6 address may be missing, as they are when the address is put in by
/// somebody who does not know which kind it is (`$(HOST_IP):9640`).
fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let parts =
        text.rsplit_once(':').and_then(|(ip, port)| Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?)));
    parts.ok_or_else(|| "must be an IP address and a port, as in 127.0.0.1:9640 or [::1]:9640".to_owned())
}

fn address_of<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(from)?;
    address(&text).map(Some).map_err(serde::de::Error::custom)
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    lamina::api::duration::parse(&text).map(Some).map_err(serde::de::Error::custom)
}

/// A share between 0 and 1, in thousandths.
fn factor(text: &str) -> Result<u64, String> {
    let bad = || "must be above 0 and at most 1, as 0.9".to_owned();
    let thousandths = text.parse::<lamina::api::quantity::Quantity>().map_err(|_| bad())?.milli_units();
    if (1..=1000).contains(&thousandths) { Ok(thousandths) } else { Err(bad()) }
}

fn factor_of<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let number = f64::deserialize(from)?;
    factor(&number.to_string()).map(Some).map_err(serde::de::Error::custom)
}

fn thresholds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Thresholds>, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// How what listens on an address is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tls {
    /// Not at all: the address is a loopback one, or that was asked for.
    None,
    /// By a certificate made at each start.
    Fresh,
    /// By a certificate in a file, and its key in another.
    Files(PathBuf, PathBuf),
}

/// Everything the daemon needs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// The node's part.
    pub(crate) node: node::Settings,
    /// Where metrics and health are.
    pub(crate) metrics: SocketAddr,
    /// How they are protected.
    pub(crate) tls: Tls,
    /// What is logged.
    pub(crate) log_level: String,
    /// How.
    pub(crate) log_format: LogFormat,
}

impl Layer {
    /// Reads the file; one that was not named may be missing.
    pub(crate) fn file(named: Option<&Path>) -> Result<Self, Failure> {
        let path = named.unwrap_or_else(|| Path::new(FILE));
        let failed = |what: &str| Failure::usage(format!("{what} the settings file {}", path.display()));
        match std::fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && named.is_none() => return Ok(Self::default()),
            Err(e) => return Err(failed("cannot read").source(e)),
            Ok(found) if found.len() > MAX_FILE => return Err(failed("far too long is")),
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(path).map_err(|e| failed("cannot read").source(e))?;
        Self::parse(&text)
            .map_err(|e| failed("cannot understand").source(e).hint("lamina agent --help lists the names"))
    }

    fn parse(text: &str) -> Result<Self, serde_yaml::Error> {
        if text.trim().is_empty() { Ok(Self::default()) } else { serde_yaml::from_str(text) }
    }

    /// The run directory, where this layer names one.
    pub(crate) fn with_run(mut self, run: Option<PathBuf>) -> Self {
        self.run = run;
        self
    }

    /// This layer before another.
    fn over(self, below: Self) -> Self {
        Self {
            root: self.root.or(below.root),
            log_dir: self.log_dir.or(below.log_dir),
            manifests: self.manifests.or(below.manifests),
            images: self.images.or(below.images),
            node_name: self.node_name.or(below.node_name),
            kubernetes: self.kubernetes.or(below.kubernetes),
            kubeconfig: self.kubeconfig.or(below.kubeconfig),
            lease_namespace: self.lease_namespace.or(below.lease_namespace),
            metrics: self.metrics.or(below.metrics),
            tls_cert: self.tls_cert.or(below.tls_cert),
            tls_key: self.tls_key.or(below.tls_key),
            metrics_insecure: self.metrics_insecure.or(below.metrics_insecure),
            store_driver: self.store_driver.or(below.store_driver),
            gc_grace: self.gc_grace.or(below.gc_grace),
            gc_high: self.gc_high.or(below.gc_high),
            gc_low: self.gc_low.or(below.gc_low),
            gc_image_age: self.gc_image_age.or(below.gc_image_age),
            eviction_hard: self.eviction_hard.or(below.eviction_hard),
            eviction_pressure_transition_period: self
                .eviction_pressure_transition_period
                .or(below.eviction_pressure_transition_period),
            memory_throttling_factor: self.memory_throttling_factor.or(below.memory_throttling_factor),
            registry_config: self.registry_config.or(below.registry_config),
            metrics_layers: self.metrics_layers.or(below.metrics_layers),
            pull_parallel: self.pull_parallel.or(below.pull_parallel),
            pod_pids_limit: self.pod_pids_limit.or(below.pod_pids_limit),
            network: self.network.or(below.network),
            cni_conf_dir: self.cni_conf_dir.or(below.cni_conf_dir),
            cni_bin_dir: self.cni_bin_dir.or(below.cni_bin_dir),
            cni_timeout: self.cni_timeout.or(below.cni_timeout),
            pod_cidr: self.pod_cidr.or(below.pod_cidr),
            service_cidr: self.service_cidr.or(below.service_cidr),
            cluster_domain: self.cluster_domain.or(below.cluster_domain),
            allowed_unsafe_sysctls: self.allowed_unsafe_sysctls.or(below.allowed_unsafe_sysctls),
            cdi_dir: self.cdi_dir.or(below.cdi_dir),
            seccomp_dir: self.seccomp_dir.or(below.seccomp_dir),
            log_level: self.log_level.or(below.log_level),
            log_format: self.log_format.or(below.log_format),
            run: self.run.or(below.run),
        }
    }
}

impl Settings {
    /// Joins the layers and checks what only the whole can tell.
    pub(crate) fn join(line: Layer, file: Layer) -> Result<Self, Failure> {
        let all = line.over(file);
        let default = node::Settings::default();
        let node = node::Settings {
            root: absolute("root", all.root.unwrap_or(default.root))?,
            run: absolute("run", all.run.unwrap_or_else(|| RUN.into()))?,
            log_dir: absolute("log-dir", all.log_dir.unwrap_or(default.log_dir))?,
            manifests: all
                .manifests
                .unwrap_or(default.manifests)
                .into_iter()
                .map(|path| absolute("manifests", path))
                .collect::<Result<_, _>>()?,
            images: all
                .images
                .unwrap_or(default.images)
                .into_iter()
                .map(|path| absolute("images", path))
                .collect::<Result<_, _>>()?,
            node_name: all.node_name.or(default.node_name),
            kubernetes: all.kubernetes.unwrap_or_default().then(|| Cluster {
                kubeconfig: all.kubeconfig,
                namespace: all.lease_namespace.unwrap_or_else(|| "lamina-system".to_owned()),
                endpoint: None,
            }),
            store_driver: match all.store_driver {
                None | Some(Driver::Auto) => StoreDriver::Auto,
                Some(Driver::Erofs) => StoreDriver::Erofs,
                Some(Driver::Directory) => StoreDriver::Directory,
            },
            gc_grace: all.gc_grace.unwrap_or(default.gc_grace),
            gc_high: all.gc_high.unwrap_or(default.gc_high),
            gc_low: all.gc_low.unwrap_or(default.gc_low),
            gc_image_age: all.gc_image_age.unwrap_or(default.gc_image_age),
            eviction_hard: all.eviction_hard.unwrap_or(default.eviction_hard),
            eviction_transition: all.eviction_pressure_transition_period.unwrap_or(default.eviction_transition),
            memory_throttling: all.memory_throttling_factor.or(default.memory_throttling),
            registry_config: absolute("registry-config", all.registry_config.unwrap_or(default.registry_config))?,
            metrics_layers: all.metrics_layers.unwrap_or(default.metrics_layers),
            pull_parallel: all.pull_parallel.unwrap_or(default.pull_parallel),
            pod_pids_limit: all.pod_pids_limit.unwrap_or(default.pod_pids_limit),
            network: network::Settings {
                mode: match all.network {
                    None | Some(Connected::Auto) => network::Mode::Auto,
                    Some(Connected::Bridge) => network::Mode::Bridge,
                    Some(Connected::Cni) => network::Mode::Cni,
                    Some(Connected::None) => network::Mode::None,
                },
                pods: all.pod_cidr.unwrap_or(default.network.pods),
                services: all.service_cidr.unwrap_or(default.network.services),
                domain: all.cluster_domain.unwrap_or(default.network.domain),
                cni: network::PluginSettings {
                    dir: absolute("cni-conf-dir", all.cni_conf_dir.unwrap_or(default.network.cni.dir))?,
                    programs: all
                        .cni_bin_dir
                        .unwrap_or(default.network.cni.programs)
                        .into_iter()
                        .map(|path| absolute("cni-bin-dir", path))
                        .collect::<Result<_, _>>()?,
                    limit: all.cni_timeout.unwrap_or(default.network.cni.limit),
                },
            },
            allowed_unsafe_sysctls: all.allowed_unsafe_sysctls.unwrap_or_default(),
            cdi: all
                .cdi_dir
                .unwrap_or(default.cdi)
                .into_iter()
                .map(|path| absolute("cdi-dir", path))
                .collect::<Result<_, _>>()?,
            seccomp: all.seccomp_dir.map(|dir| absolute("seccomp-dir", dir)).transpose()?,
            shim: None,
        };
        for pattern in &node.allowed_unsafe_sysctls {
            lamina::api::sysctl::check_pattern(pattern)
                .map_err(|e| Failure::usage(format!("sysctls that pods may set: {e}")))?;
        }
        if node.gc_low >= node.gc_high || node.gc_high > 100 {
            return Err(Failure::usage(format!(
                "--gc-low is {} and --gc-high is {}: low must be below high, and high at most 100",
                node.gc_low, node.gc_high
            )));
        }
        if let Err(error) = lamina::api::ids::check_subdomain(&node.network.domain) {
            return Err(Failure::usage(format!("--cluster-domain {:?} {error}", node.network.domain)));
        }
        if node.pull_parallel == 0 {
            return Err(Failure::usage("--pull-parallel must be above 0"));
        }
        let metrics = all.metrics.unwrap_or(METRICS);
        let reachable = !metrics.ip().is_loopback();
        let tls = match (all.tls_cert, all.tls_key) {
            (Some(_), None) | (None, Some(_)) => {
                return Err(Failure::usage("--tls-cert and --tls-key belong together"));
            }
            (Some(_), Some(_)) if all.metrics_insecure == Some(true) => {
                return Err(Failure::usage("--metrics-insecure and --tls-cert contradict each other"));
            }
            (Some(certificate), Some(key)) => Tls::Files(absolute("tls-cert", certificate)?, absolute("tls-key", key)?),
            (None, None) if !reachable || all.metrics_insecure == Some(true) => Tls::None,
            (None, None) if node.kubernetes.is_some() => Tls::Fresh,
            (None, None) => {
                return Err(Failure::usage(format!("metrics on {metrics} can be read by others"))
                    .hint("use a loopback address, or --tls-cert and --tls-key, or say --metrics-insecure"));
            }
        };
        Ok(Self {
            node,
            metrics,
            tls,
            log_level: all.log_level.unwrap_or_else(|| "info".to_owned()),
            log_format: all.log_format.unwrap_or(LogFormat::Text),
        })
    }
}
