//! Settings from flags and file.

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
    assert_eq!(joined("--metrics 0.0.0.0:9640 --metrics-insecure", "").unwrap().tls, Tls::None);
    assert_eq!(joined("--metrics 10.0.0.5:9640 --kubernetes", "").unwrap().tls, Tls::Fresh);
    let files = "--tls-cert /tls.crt --tls-key /tls.key";
    let both = Tls::Files("/tls.crt".into(), "/tls.key".into());
    assert_eq!(joined(&format!("--metrics 10.0.0.5:9640 {files}"), "").unwrap().tls, both);
    joined("--tls-cert /tls.crt", "").unwrap_err();
    joined(&format!("--metrics-insecure {files}"), "").unwrap_err();
    joined("", "pull-parallel: 0").unwrap_err();
}

#[test]
fn an_address_of_either_kind_is_read_with_or_without_brackets() {
    for (text, read) in
        [("10.0.0.5:9640", "10.0.0.5:9640"), ("[fd00::5]:9640", "[fd00::5]:9640"), ("fd00::5:9640", "[fd00::5]:9640")]
    {
        assert_eq!(address(text).unwrap().to_string(), read);
    }
    for wrong in ["9640", ":9640", "localhost:9640", "10.0.0.5", "10.0.0.5:65536"] {
        address(wrong).unwrap_err();
    }
}

#[test]
fn thresholds_and_factors_are_read_from_flags_and_file_alike() {
    let flags = "--eviction-hard memory.available<1Gi --memory-throttling-factor 0.9";
    let file = "eviction-hard: memory.available<1Gi\nmemory-throttling-factor: 0.9\n";
    let (line, file) = (joined(flags, "").unwrap().node, joined("", file).unwrap().node);
    assert_eq!(line, file);
    assert_eq!((line.eviction_hard.to_string().as_str(), line.memory_throttling), ("memory.available<1Gi", Some(900)));
    assert_eq!(joined("--eviction-hard none", "").unwrap().node.eviction_hard.to_string(), "none");
    for wrong in ["--eviction-hard memory<1", "--memory-throttling-factor 2", "--memory-throttling-factor 0"] {
        Line::try_parse_from(std::iter::once("agent").chain(wrong.split(' '))).unwrap_err();
    }
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
