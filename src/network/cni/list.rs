//! Network configurations: the files of a directory, of which the first that can be read is the network of pods.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Error;

/// A version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(super) struct Version(pub(super) [u32; 3]);

impl Version {
    /// Where plugins came to be asked whether all is still well.
    pub(super) const WITH_CHECK: Self = Self([0, 4, 0]);
    /// Where they came to be told what is still in use, and asked whether they are ready.
    pub(super) const WITH_GC: Self = Self([1, 1, 0]);
    /// What is spoken here.
    const KNOWN: [Self; 7] = [
        Self([0, 1, 0]),
        Self([0, 2, 0]),
        Self([0, 3, 0]),
        Self([0, 3, 1]),
        Self::WITH_CHECK,
        Self([1, 0, 0]),
        Self::WITH_GC,
    ];
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('.').map(str::parse);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), patch, None) => {
                let patch = patch.unwrap_or(Ok(0)).map_err(|_| format!("{text:?} is no version"))?;
                Ok(Self([major, minor, patch]))
            }
            _ => Err(format!("{text:?} is no version")),
        }
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A network: what to run for it, one after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::network) struct Network {
    pub(super) name: String,
    /// The versions that it may be spoken with, the newest first; never empty.
    pub(super) versions: Vec<Version>,
    pub(super) disable_check: bool,
    pub(super) disable_gc: bool,
    /// What each plugin is told, as it is written.
    pub(super) plugins: Vec<Map<String, Value>>,
    /// Where it is written.
    pub(super) file: PathBuf,
}

/// The program of a plugin.
pub(super) fn kind(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Whether a plugin takes an argument of that name.
pub(super) fn takes(plugin: &Map<String, Value>, capability: &str) -> bool {
    plugin.get("capabilities").and_then(|c| c.get(capability)).and_then(Value::as_bool) == Some(true)
}

/// The first network of a directory, by the names of its files; none where there is no file.
///
/// # Errors
/// If there are files and none can be used: the reasons of the first.
pub(super) fn first(dir: &Path) -> Result<Option<Network>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Io { action: format!("list {}", dir.display()), source }),
    };
    let is_one = |path: &PathBuf| {
        let extension = path.extension().and_then(|e| e.to_str());
        extension.is_some_and(|e| ["conflist", "conf", "json"].contains(&e)) && path.is_file()
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(is_one).collect();
    files.sort();
    let mut wrong = None;
    for file in files {
        match read(&file) {
            Ok(network) => return Ok(Some(network)),
            Err(reason) => {
                let error = Error::Configuration { file, reason };
                tracing::warn!(error = &error as &dyn std::error::Error, "a network configuration is passed over");
                wrong.get_or_insert(error);
            }
        }
    }
    wrong.map_or(Ok(None), Err)
}

/// Reads one file: a list, or one plugin's configuration, which is a list of one.
fn read(file: &Path) -> Result<Network, String> {
    let text = fs::read(file).map_err(|e| e.to_string())?;
    let mut object: Map<String, Value> = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    let list = file.extension().is_some_and(|e| e == "conflist");
    if list != object.contains_key("plugins") {
        return Err(if list { "plugins: is missing" } else { "plugins: belongs into a .conflist file" }.to_owned());
    }
    let text = |object: &Map<String, Value>, key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    // The specification lets a bool be a text, too.
    let set = |key: &str| match object.get(key) {
        Some(Value::Bool(set)) => *set,
        Some(Value::String(set)) => set.eq_ignore_ascii_case("true"),
        _ => false,
    };
    let name = text(&object, "name").ok_or("name: is missing")?;
    let good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(good) {
        return Err(format!("name: {name:?} must be letters, digits, '_', '.' and '-', the first a letter or digit"));
    }
    let versions = versions(&object)?;
    let (disable_check, disable_gc) = (set("disableCheck"), set("disableGC"));
    let mut plugins: Vec<Map<String, Value>> = if list {
        let inline_only = set("loadOnlyInlinedPlugins");
        let plugins = object.remove("plugins").unwrap_or_default();
        let mut plugins: Vec<_> = serde_json::from_value(plugins).map_err(|e| format!("plugins: {e}"))?;
        if !inline_only {
            plugins.extend(beside(file, &name)?);
        }
        plugins
    } else {
        vec![object]
    };
    if plugins.is_empty() {
        return Err("plugins: there is none".to_owned());
    }
    for (i, plugin) in plugins.iter_mut().enumerate() {
        let kind = kind(plugin);
        // A name, never a path: it is looked for where plugins are.
        if kind.is_empty() || kind.contains('/') || kind.starts_with('.') {
            return Err(format!("plugins[{i}].type: {kind:?} is no name of a plugin"));
        }
        plugin.retain(|key, _| {
            !["name", "cniVersion", "cniVersions", "prevResult", "runtimeConfig"].contains(&key.as_str())
        });
    }
    Ok(Network { name, versions, disable_check, disable_gc, plugins, file: file.to_owned() })
}

/// The network that a file is about, if it can be read.
pub(super) fn name_of(file: &Path) -> Option<String> {
    let object: Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    Some(object.get("name")?.as_str()?.to_owned())
}

/// Plugins that lie in a directory of the network's name beside its file.
fn beside(file: &Path, name: &str) -> Result<Vec<Map<String, Value>>, String> {
    let dir = file.with_file_name(name);
    let Ok(entries) = fs::read_dir(&dir) else { return Ok(Vec::new()) };
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "conf"));
    files.sort();
    let one = |path: PathBuf| {
        let failed = |e: &dyn fmt::Display| format!("{}: {e}", path.display());
        serde_json::from_slice(&fs::read(&path).map_err(|e| failed(&e))?).map_err(|e| failed(&e))
    };
    files.into_iter().map(one).collect()
}

/// The versions of a configuration that are known here, the newest first.
fn versions(object: &Map<String, Value>) -> Result<Vec<Version>, String> {
    let many = object.get("cniVersions").and_then(Value::as_array).into_iter().flatten();
    let mut said = Vec::new();
    for value in many.chain(object.get("cniVersion")) {
        said.push(value.as_str().ok_or("cniVersion: must be a text")?.parse::<Version>()?);
    }
    if said.is_empty() {
        said.push(Version::KNOWN[0]);
    }
    let mut known: Vec<Version> = said.iter().copied().filter(|v| Version::KNOWN.contains(v)).collect();
    known.sort_unstable_by(|a, b| b.cmp(a));
    known.dedup();
    if known.is_empty() {
        let [oldest, .., newest] = Version::KNOWN;
        return Err(format!("cniVersion: {} is not known here; {oldest} to {newest} are", said[0]));
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(files: &[(&str, &str)]) -> Result<Option<Network>, Error> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        first(dir.path())
    }

    const LIST: &str = r#"{"cniVersion": "0.4.0", "cniVersions": ["1.1.0", "1.0.0", "9.0.0"], "name": "pods", "disableCheck": true,
        "plugins": [{"type": "bridge", "capabilities": {"portMappings": true}}, {"type": "portmap"}]}"#;

    #[test]
    fn the_first_file_by_name_that_can_be_read_is_the_network() {
        assert_eq!(with(&[]).unwrap(), None);
        assert_eq!(with(&[("README", "x"), ("a.conflist~", LIST)]).unwrap(), None);
        let one = r#"{"cniVersion": "0.3.1", "name": "one", "type": "bridge", "x": 1}"#;
        let network = with(&[("10-bad.conf", "{"), ("20.conflist", LIST), ("30.conf", one)]).unwrap().unwrap();
        assert_eq!((network.name.as_str(), network.disable_check, network.disable_gc), ("pods", true, false));
        assert_eq!(network.versions, [Version([1, 1, 0]), Version([1, 0, 0]), Version([0, 4, 0])]);
        let kinds: Vec<_> = network.plugins.iter().map(kind).collect();
        assert_eq!(kinds, ["bridge", "portmap"]);
        assert!(takes(&network.plugins[0], "portMappings") && !takes(&network.plugins[1], "portMappings"));
        // One plugin alone is a list of one.
        let network = with(&[("30.conf", one)]).unwrap().unwrap();
        assert_eq!((network.versions[0], network.plugins.len()), (Version([0, 3, 1]), 1));
        assert_eq!(network.plugins[0]["x"], 1);
    }

    #[test]
    fn plugins_in_a_directory_of_the_networks_name_come_after_its_own() {
        let plugin = r#"{"type": "tuning"}"#;
        let network = with(&[("a.conflist", LIST), ("pods/50.conf", plugin), ("pods/no.txt", "{")]).unwrap().unwrap();
        assert_eq!(network.plugins.iter().map(kind).collect::<Vec<_>>(), ["bridge", "portmap", "tuning"]);
        let own = LIST.replace("\"disableCheck\"", "\"loadOnlyInlinedPlugins\"");
        assert_eq!(with(&[("a.conflist", &own), ("pods/50.conf", plugin)]).unwrap().unwrap().plugins.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, text, reason) in [
            ("a.conf", "[", "invalid type"),
            ("a.conf", LIST, "plugins: belongs into a .conflist file"),
            ("a.conflist", r#"{"name": "x"}"#, "plugins: is missing"),
            ("a.conflist", r#"{"name": "x", "plugins": []}"#, "plugins: there is none"),
            ("a.conflist", r#"{"plugins": [{"type": "a"}]}"#, "name: is missing"),
            ("a.conflist", r#"{"name": "../x", "plugins": [{"type": "a"}]}"#, "name: \"../x\" must be"),
            ("a.conflist", r#"{"name": "x", "plugins": [{"type": "../a"}]}"#, "plugins[0].type"),
            (
                "a.conflist",
                r#"{"name": "x", "cniVersion": "7.0.0", "plugins": [{"type": "a"}]}"#,
                "7.0.0 is not known here; 0.1.0 to 1.1.0",
            ),
            ("a.conflist", r#"{"name": "x", "cniVersion": "new", "plugins": [{"type": "a"}]}"#, "no version"),
        ] {
            let said = with(&[(name, text)]).unwrap_err().to_string();
            assert!(said.contains(reason) && said.contains(name), "{said}");
        }
    }
}
