//! Where credentials come from, in which order.

use super::*;
use crate::image::credentials::Secret;

fn basic(username: &str) -> Credential {
    Credential::Basic { username: username.to_owned(), password: Secret::new("pw") }
}

/// A `config.json` with one user for `host`.
fn docker(host: &str, user: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, format!(r#"{{"auths":{{"{host}":{{"username":"{user}","password":"pw"}}}}}}"#)).unwrap();
    (dir, path)
}

fn config(text: &str, docker: Option<&Path>) -> RegistryConfig {
    RegistryConfig::parse(text, Path::new("f")).unwrap().with_docker_config(docker.map(Path::to_owned))
}

async fn node(config: &RegistryConfig, registry: &str) -> Option<Credential> {
    let keychain = Keychain { config, secrets: &[] };
    keychain.of_node(registry, "a/b").await.unwrap().map(|c| c.credential)
}

#[tokio::test]
async fn the_configuration_comes_before_the_home_directory() {
    let (_dir, path) = docker("r.example", "home");
    let both = config("registries: {r.example: {username: file, password: pw}}", Some(&path));
    assert_eq!(node(&both, "r.example").await, Some(basic("file")));
    assert_eq!(node(&config("", Some(&path)), "r.example").await, Some(basic("home")));
    assert_eq!(node(&config("docker-config: false", None), "r.example").await, None);
}

#[tokio::test]
async fn a_pods_secrets_come_first_and_the_nodes_own_last() {
    let config = config("registries: {r.example: {username: file, password: pw}}", None);
    let json = br#"{"auths":{"r.example":{"username":"pod","password":"pw"}}}"#;
    let secrets = [DockerConfigSecret::from_config_json("n/s", json).unwrap()];
    let keychain = Keychain { config: &config, secrets: &secrets };
    let all = keychain.candidates("r.example", "a/b").await.unwrap();
    assert_eq!(all.iter().map(|c| c.credential.clone()).collect::<Vec<_>>(), [basic("pod"), basic("file")]);
    assert_eq!(all[0].origin, Origin::Pod { secret: "n/s".to_owned() });
    assert!(keychain.candidates("other.example", "a/b").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_home_directory_without_docker_is_fine_and_a_broken_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    assert_eq!(node(&config("", Some(&path)), "r.example").await, None);
    std::fs::write(&path, r#"{"auths":"canary"}"#).unwrap();
    let config = config("", Some(&path));
    let error = Keychain { config: &config, secrets: &[] }.of_node("r.example", "a").await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("config.json") && !text.contains("canary"), "{text}");
}
