//! The agent's settings: flags before the environment before `/etc/lamina/config.yaml` before the defaults.
//!
//! The same names everywhere: `--gc-grace`, `LAMINA_GC_GRACE`, `gc-grace:` in the file. An unknown name in the file is
//! an error, for a typo must not run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use lamina::node::{self, StoreDriver};
use serde::{Deserialize, Deserializer};

use crate::cli::RUN;
use crate::failure::Failure;

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
    /// The node's name [default: the host's name]
    #[arg(long, env = "LAMINA_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// Where /metrics, /healthz and /readyz are; only a loopback address, unless --metrics-insecure [default: 127.0.0.1:9640]
    #[arg(long, env = "LAMINA_METRICS", value_name = "ADDR")]
    metrics: Option<SocketAddr>,
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

/// A path as seen from where the agent was started: shims and later agents are started elsewhere.
fn absolute(name: &str, path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path)
        .map_err(|e| Failure::usage(format!("--{name} {:?} cannot be made absolute", path.display())).source(e))
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    lamina::api::duration::parse(&text).map(Some).map_err(serde::de::Error::custom)
}

/// Everything the daemon needs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// The node's part.
    pub(crate) node: node::Settings,
    /// Where metrics and health are.
    pub(crate) metrics: SocketAddr,
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
            node_name: self.node_name.or(below.node_name),
            metrics: self.metrics.or(below.metrics),
            metrics_insecure: self.metrics_insecure.or(below.metrics_insecure),
            store_driver: self.store_driver.or(below.store_driver),
            gc_grace: self.gc_grace.or(below.gc_grace),
            gc_high: self.gc_high.or(below.gc_high),
            gc_low: self.gc_low.or(below.gc_low),
            gc_image_age: self.gc_image_age.or(below.gc_image_age),
            registry_config: self.registry_config.or(below.registry_config),
            metrics_layers: self.metrics_layers.or(below.metrics_layers),
            pull_parallel: self.pull_parallel.or(below.pull_parallel),
            pod_pids_limit: self.pod_pids_limit.or(below.pod_pids_limit),
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
            node_name: all.node_name.or(default.node_name),
            store_driver: match all.store_driver {
                None | Some(Driver::Auto) => StoreDriver::Auto,
                Some(Driver::Erofs) => StoreDriver::Erofs,
                Some(Driver::Directory) => StoreDriver::Directory,
            },
            gc_grace: all.gc_grace.unwrap_or(default.gc_grace),
            gc_high: all.gc_high.unwrap_or(default.gc_high),
            gc_low: all.gc_low.unwrap_or(default.gc_low),
            gc_image_age: all.gc_image_age.unwrap_or(default.gc_image_age),
            registry_config: absolute("registry-config", all.registry_config.unwrap_or(default.registry_config))?,
            metrics_layers: all.metrics_layers.unwrap_or(default.metrics_layers),
            pull_parallel: all.pull_parallel.unwrap_or(default.pull_parallel),
            pod_pids_limit: all.pod_pids_limit.unwrap_or(default.pod_pids_limit),
            shim: None,
        };
        if node.gc_low >= node.gc_high || node.gc_high > 100 {
            return Err(Failure::usage(format!(
                "--gc-low is {} and --gc-high is {}: low must be below high, and high at most 100",
                node.gc_low, node.gc_high
            )));
        }
        if node.pull_parallel == 0 {
            return Err(Failure::usage("--pull-parallel must be above 0"));
        }
        let metrics = all.metrics.unwrap_or(METRICS);
        if !metrics.ip().is_loopback() && all.metrics_insecure != Some(true) {
            return Err(Failure::usage(format!("metrics on {metrics} can be read by others"))
                .hint("use a loopback address, or say --metrics-insecure"));
        }
        Ok(Self {
            node,
            metrics,
            log_level: all.log_level.unwrap_or_else(|| "info".to_owned()),
            log_format: all.log_format.unwrap_or(LogFormat::Text),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        layer: Layer,
    }

    fn line(text: &str) -> Layer {
        Line::try_parse_from(std::iter::once("agent").chain(text.split_whitespace())).unwrap().layer
    }

    fn joined(flags: &str, file: &str) -> Result<Settings, Failure> {
        Settings::join(line(flags), Layer::parse(file).unwrap())
    }

    #[test]
    fn nothing_said_gives_the_defaults_of_the_table() {
        let settings = joined("", "").unwrap();
        assert_eq!(settings.node, node::Settings::default());
        assert_eq!(settings.metrics.to_string(), "127.0.0.1:9640");
    }

    #[test]
    fn a_flag_weighs_more_than_the_file() {
        let file = "root: /a\ngc-grace: 1h\nmanifests: [/x, /y]\nlog-format: json\npull-parallel: 2\n";
        let settings = joined("--root /b --manifests /m --manifests /n:/o", file).unwrap();
        assert_eq!(settings.node.root, Path::new("/b"));
        assert_eq!(settings.node.manifests, ["/m", "/n", "/o"].map(PathBuf::from));
        assert_eq!(settings.node.gc_grace, Duration::from_hours(1));
        assert_eq!((settings.log_format, settings.node.pull_parallel), (LogFormat::Json, 2));
    }

    #[test]
    fn an_unknown_name_in_the_file_is_refused_by_name() {
        let error = Layer::parse("gc-grase: 1h\n").unwrap_err().to_string();
        assert!(error.contains("gc-grase"), "{error}");
        assert!(Layer::parse("gc-grace: soon\n").is_err());
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        for flags in ["--gc-high 50 --gc-low 60", "--metrics 0.0.0.0:9640"] {
            joined(flags, "").unwrap_err();
        }
        joined("--metrics 0.0.0.0:9640 --metrics-insecure", "").unwrap();
        joined("", "pull-parallel: 0").unwrap_err();
    }

    #[test]
    fn relative_paths_are_seen_from_where_the_agent_is_started() {
        let here = std::env::current_dir().unwrap();
        let settings = joined("--root state --manifests ./m", "log-dir: logs\n").unwrap().node;
        assert_eq!(settings.root, here.join("state"));
        assert_eq!(settings.manifests, [here.join("m")]);
        assert_eq!(settings.log_dir, here.join("logs"));
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let missing = Path::new("/nonexistent/lamina.yaml");
        assert!(Layer::file(Some(missing)).unwrap_err().to_string().contains("/nonexistent/lamina.yaml"));
    }
}
