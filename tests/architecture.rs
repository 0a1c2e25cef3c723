//! The rules of the tree: who may use whom, where `unsafe` may stand, how long a file may be.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// Rows of modules, lowest first; a module uses only rows below its own, and `api oci sys metrics` each other's none.
const ROWS: [&[&str]; 6] = [
    &["api", "oci", "sys", "metrics"],
    &["store", "source", "volume", "network", "runtime"],
    &["image", "rootfs"],
    &["pod", "build"],
    &["node"],
    &["server"],
];
/// What may be used within the lowest rows, where not everything below is allowed.
const ONLY: [(&str, &[&str]); 9] = [
    ("api", &[]),
    ("oci", &[]),
    ("sys", &[]),
    ("metrics", &[]),
    ("store", &["api", "oci", "sys", "metrics"]),
    ("source", &["api", "sys", "metrics"]),
    ("volume", &["api", "sys", "metrics"]),
    ("network", &["api", "sys", "metrics"]),
    ("runtime", &["api", "oci", "sys", "metrics"]),
];
/// The longest a file may be.
const MAX_LINES: usize = 500;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `dir`, with its text.
fn sources(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().unwrap() != "target" {
                found.extend(sources(&path));
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

fn row(module: &str) -> usize {
    ROWS.iter().position(|row| row.contains(&module)).unwrap_or_else(|| panic!("module {module} is in no row"))
}

/// The names of top-level modules that a line of code names as `crate::<module>`.
fn used(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or("");
    code.split("crate::")
        .skip(1)
        .flat_map(|rest| match rest.strip_prefix('{') {
            // `use crate::{a::x, b}`; nested groups are rare and on lines of their own.
            Some(group) => group.split('}').next().unwrap_or("").split(',').map(str::trim).collect(),
            None => vec![rest],
        })
        .map(|path| path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .filter(|name: &String| ROWS.iter().any(|row| row.contains(&name.as_str())))
        .collect()
}

fn allowed(module: &str, other: &str) -> bool {
    if module == other {
        return true;
    }
    match ONLY.iter().find(|(name, _)| *name == module) {
        Some((_, others)) => others.contains(&other),
        None => row(other) < row(module),
    }
}

#[test]
fn a_module_uses_only_modules_to_its_left() {
    let src = root().join("src");
    let mut wrong = Vec::new();
    for (path, text) in sources(&src) {
        let below = path.strip_prefix(&src).unwrap();
        let Some(module) = below.iter().next().and_then(|c| c.to_str()).filter(|m| !m.contains('.')) else {
            continue;
        };
        row(module);
        for (n, line) in text.lines().enumerate() {
            for other in used(line) {
                if !allowed(module, &other) {
                    wrong.push(format!("{}:{}: {module} uses {other}", below.display(), n + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stands_in_sys_alone() {
    let mut wrong = Vec::new();
    for dir in ["src", "agent/src"] {
        for (path, text) in sources(&root().join(dir)) {
            let in_sys = path.strip_prefix(root()).unwrap().starts_with("src/sys");
            for (n, line) in text.lines().enumerate() {
                let code = line.split("//").next().unwrap_or("");
                if !in_sys && code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe") {
                    wrong.push(format!("{}:{}", path.display(), n + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "unsafe outside src/sys:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_and_is_short() {
    let mut wrong = Vec::new();
    for dir in ["src", "agent/src", "tests"] {
        for (path, text) in sources(&root().join(dir)) {
            if !text.starts_with("//!") {
                wrong.push(format!("{} does not open with //!", path.display()));
            }
            let lines = text.lines().count();
            if lines > MAX_LINES {
                wrong.push(format!("{} has {lines} lines", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn anyhow_stays_in_the_agent() {
    let wrong: Vec<_> = sources(&root().join("src"))
        .into_iter()
        .filter(|(_, text)| text.lines().any(|l| l.split("//").next().unwrap_or("").contains("anyhow")))
        .map(|(path, _)| path)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn the_rules_themselves_find_what_breaks_them() {
    assert_eq!(used("use crate::store::Store; // crate::node"), ["store"]);
    assert_eq!(used("use crate::{api::Pod, node::Node};"), ["api", "node"]);
    assert!(!allowed("runtime", "store") && !allowed("store", "image") && !allowed("sys", "api"));
    assert!(allowed("node", "pod") && allowed("image", "store") && !allowed("image", "rootfs"));
}
