//! What `registries.yaml` means.

use super::*;

fn config(text: &str) -> RegistryConfig {
    RegistryConfig::parse(text, Path::new("registries.yaml")).unwrap().with_docker_config(None)
}

fn urls(config: &RegistryConfig, name: &str) -> Vec<String> {
    let reference: Reference = name.parse().unwrap();
    config.endpoints(&reference).unwrap().iter().map(|e| e.base.to_string()).collect()
}

#[test]
fn a_loopback_registry_is_plain_http_and_any_other_is_not() {
    let none = RegistryConfig::empty();
    assert_eq!(urls(&none, "127.0.0.1:5000/a"), ["http://127.0.0.1:5000/"]);
    assert_eq!(urls(&none, "[::1]:5000/a"), ["http://[::1]:5000/"]);
    assert_eq!(urls(&none, "localhost:5000/a"), ["http://localhost:5000/"]);
    assert_eq!(urls(&none, "10.0.0.1:5000/a"), ["https://10.0.0.1:5000/"]);
    assert_eq!(urls(&none, "busybox"), ["https://registry-1.docker.io/"]);
    let forced = config("registries: {'127.0.0.1:5000': {plain-http: false}, r.example: {plain-http: true}}");
    assert_eq!(urls(&forced, "127.0.0.1:5000/a"), ["https://127.0.0.1:5000/"]);
    assert_eq!(urls(&forced, "r.example/a"), ["http://r.example/"]);
}

#[test]
fn mirrors_come_first_and_the_registry_last() {
    let text = "registries: {docker.io: {mirrors: ['http://127.0.0.1:1/hub/', 'https://m.example']}}";
    let config_ = config(text);
    assert_eq!(
        urls(&config_, "busybox"),
        ["http://127.0.0.1:1/hub", "https://m.example/", "https://registry-1.docker.io/"]
    );
    let only = config("registries: {docker.io: {mirrors: ['https://m.example'], fallback: false}}");
    assert_eq!(urls(&only, "busybox"), ["https://m.example/"]);
}

#[test]
fn the_more_exact_entry_wins() {
    let config = config("registries: {'*.example.com': {helper: all}, a.example.com: {helper: one}}");
    assert_eq!(config.helper("a.example.com"), Some("one"));
    assert_eq!(config.helper("b.example.com"), Some("all"));
    assert_eq!(config.helper("example.com"), None);
    assert_eq!(config.helper("x.b.example.com"), None);
    assert_eq!(config.helper("b.example.com:5000"), None);
}

#[test]
fn an_unknown_key_is_refused() {
    let error = RegistryConfig::parse("registries: {a: {skip_verify: true}}", Path::new("f")).unwrap_err();
    assert!(error.to_string().contains("skip_verify"), "{error}");
}

#[test]
fn a_broken_file_never_shows_its_secrets() {
    let text = "registries:\n  a:\n    username: u\n    password: [canary-secret]\n";
    let error = RegistryConfig::parse(text, Path::new("f")).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
}

#[test]
fn what_contradicts_itself_is_refused() {
    for entry in [
        "{username: u}",
        "{password: p}",
        "{username: u, password: p, password-file: /f}",
        "{client-cert: /c}",
        "{helper: ../../bin/sh}",
        "{endpoint: 'ftp://x'}",
        "{mirrors: ['https://u:p@x']}",
        "{mirrors: ['https://x?y=z']}",
    ] {
        let text = format!("registries: {{r.example: {entry}}}");
        assert!(RegistryConfig::parse(&text, Path::new("f")).is_err(), "{entry}");
    }
}

#[test]
fn a_password_file_is_read_without_its_line_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p");
    std::fs::write(&path, "secret\n").unwrap();
    let config = config(&format!("registries: {{r.example: {{username: u, password-file: {}}}}}", path.display()));
    let Some(Credential::Basic { username, password }) = config.credential("r.example").unwrap() else { panic!() };
    assert_eq!((username.as_str(), password.expose()), ("u", "secret"));
    assert_eq!(config.credential("other.example").unwrap(), None);
}

#[test]
fn a_file_that_is_not_there_is_the_default() {
    assert!(RegistryConfig::load(Path::new("/nonexistent/registries.yaml")).is_ok());
}
