//! The tables of the README are what the code says: `lamina docs` makes each. `LAMINA_UPDATE=1` writes them anew.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What opens a table, before the name of it.
const OPEN: &str = "<!-- lamina docs ";
const END: &str = "<!-- end -->";

/// What the binary prints for a table.
fn made(table: &str) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_lamina")).args(["docs", table]).output().unwrap();
    assert!(out.status.success(), "lamina docs {table}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The text with every table made anew, and the names of the tables.
fn renewed(text: &str) -> (String, Vec<String>) {
    let (mut new, mut names) = (String::new(), Vec::new());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OPEN) {
        let (name, after) = after.split_once(" -->").unwrap_or_else(|| panic!("a marker is not closed"));
        let (_, after) = after.split_once(END).unwrap_or_else(|| panic!("the table {name} has no {END}"));
        write!(new, "{before}{OPEN}{name} -->\n{}{END}", made(name)).unwrap();
        names.push(name.to_owned());
        rest = after;
    }
    new.push_str(rest);
    (new, names)
}

#[test]
fn the_tables_of_the_readme_are_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(&path).unwrap();
    let (new, mut names) = renewed(&text);
    names.sort();
    assert_eq!(names, ["fields", "metrics", "settings", "verbs"]);
    if std::env::var_os("LAMINA_UPDATE").is_some() {
        fs::write(&path, new).unwrap();
        return;
    }
    for (line, (old, new)) in text.lines().zip(new.lines()).enumerate() {
        assert!(old == new, "README.md:{}:\n is {old}\n not {new}\nLAMINA_UPDATE=1 writes the tables anew", line + 1);
    }
    assert!(text == new, "README.md ends otherwise; LAMINA_UPDATE=1 writes the tables anew");
}
