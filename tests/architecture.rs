//! The rules of the tree: who may use whom, where `unsafe` may stand, how long a file may be.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// Rows of modules, lowest first; a module uses only rows below its own, and `api oci sys metrics` each other's none.
const ROWS: [&[&str]; 6] = [
    &["api", "oci", "sys", "metrics"],
    &["store", "source", "volume", "network", "runtime"],
    &["image", "rootfs", "controller"],
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

/// A row of a table of `tests/conformance`.
struct Behaviour {
    /// As in `sig-node`.
    sig: String,
    name: String,
    tests: String,
    result: String,
}

/// The rows of a table, of which every one says what it should.
fn behaviours(table: &str) -> Vec<Behaviour> {
    let text = fs::read_to_string(root().join("tests/conformance").join(format!("{table}.md"))).unwrap();
    let (_, rows) = text.split_once("| behaviour | test | result |\n|---|---|---|\n").unwrap();
    let row = |line: &str| -> Option<Behaviour> {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
        let (sig, name) = cells.next()?.strip_prefix('[')?.split_once("] ")?;
        let (tests, result) = (cells.next()?.to_owned(), cells.next()?.to_owned());
        let why = result.strip_prefix("does not apply: ");
        let sound =
            if result == "passes" { tests != "–" } else { tests == "–" && why.is_some_and(|w| !w.is_empty()) };
        let row = Behaviour { sig: sig.to_owned(), name: name.to_owned(), tests, result };
        (sound && cells.next().is_none()).then_some(row)
    };
    rows.lines().map(|l| row(l).unwrap_or_else(|| panic!("{table}.md: no row of three cells: {l}"))).collect()
}

/// The tables that are counted.
const CONFORMANCE: [&str; 4] = ["lifecycle", "network", "security", "storage"];

/// The tables say which test shows a behaviour: each names tests that are there, by the path of their file.
#[test]
fn every_row_of_the_conformance_tables_names_tests_that_are_there() {
    for table in CONFORMANCE.into_iter().chain(["beyond"]) {
        for row in behaviours(table) {
            // A reason may name what does the same here.
            let text = format!("{} {}", row.tests, row.result);
            let named: Vec<&str> = text.split('`').filter(|w| w.contains(".rs::")).collect();
            assert!(row.result != "passes" || !named.is_empty(), "{table}.md: no test: {}", row.name);
            for (file, test) in named.into_iter().filter_map(|w| w.split_once("::")) {
                let code = fs::read_to_string(root().join(file)).unwrap_or_default();
                assert!(code.contains(&format!("fn {test}(")), "{table}.md: no test {test} in {file}");
            }
        }
    }
}

/// The whole list, each behaviour once, and the counts of the README.
#[test]
fn the_conformance_tables_have_the_whole_list_and_the_readme_counts_them() {
    let counts = |rows: &[&Behaviour]| {
        let of = |sig: &str| rows.iter().filter(|r| r.sig == sig).count();
        let passes = rows.iter().filter(|r| r.result == "passes").count();
        [of("sig-node"), of("sig-storage"), of("sig-network"), passes, rows.len() - passes]
    };
    let readme = fs::read_to_string(root().join("tests/conformance/README.md")).unwrap();
    let said = |name: &str, counts: [usize; 5]| {
        let line = format!("| {name} | {} |", counts.map(|n| n.to_string()).join(" | "));
        assert!(readme.lines().any(|l| l == line), "the README does not say: {line}");
    };
    let all: Vec<(&str, Vec<Behaviour>)> = CONFORMANCE.iter().map(|table| (*table, behaviours(table))).collect();
    for (table, rows) in &all {
        said(&format!("[{table}]({table}.md)"), counts(&rows.iter().collect::<Vec<_>>()));
    }
    let rows: Vec<&Behaviour> = all.iter().flat_map(|(_, rows)| rows).collect();
    let counted = counts(&rows);
    said("all", counted);
    assert_eq!(counted[..3], [66, 71, 4]);
    let mut names: Vec<&String> = rows.iter().map(|r| &r.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), rows.len(), "a behaviour is there twice");
}
