//! Manifests on the command line: files, directories and standard input, read as they are; the agent parses them.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use lamina::server::wire::File;

use crate::failure::Failure;

/// The longest file that is sent; the agent's own limit is below it.
const MAX_FILE: u64 = 16 * 1024 * 1024;

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}

fn text(name: &str, from: impl std::io::Read) -> anyhow::Result<File> {
    let mut bytes = Vec::new();
    from.take(MAX_FILE + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Failure::usage(format!("{name} is longer than {MAX_FILE} bytes, which no manifest is")).into());
    }
    let text = String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{name} is not UTF-8 text")))?;
    Ok(File { name: name.to_owned(), text })
}

/// Reads what `-f` names: a file, each manifest of a directory in order of name, or standard input for `-`.
pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<File>> {
    let mut files = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            files.push(text("-", std::io::stdin().lock())?);
            continue;
        }
        let name = |path: &Path| path.display().to_string();
        let missing = |e: std::io::Error| Failure::usage(format!("cannot read {}", name(path))).source(e);
        if !fs::metadata(path).map_err(missing)?.is_dir() {
            files.push(text(&name(path), fs::File::open(path).map_err(missing)?)?);
            continue;
        }
        let mut inside: Vec<PathBuf> = fs::read_dir(path)
            .map_err(missing)?
            .map(|entry| entry.map(|e| e.path()))
            .collect::<Result<_, _>>()
            .map_err(missing)?;
        inside.retain(|path| is_manifest(path) && path.is_file());
        inside.sort();
        if inside.is_empty() {
            return Err(Failure::usage(format!("{} holds no .yaml, .yml or .json file", name(path))).into());
        }
        for path in inside {
            let file = fs::File::open(&path).with_context(|| format!("cannot read {}", name(&path)))?;
            files.push(text(&name(&path), file)?);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_its_manifests_in_order_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.json", "notes.txt", ".b.yaml.swp"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let files = read(&[dir.path().to_owned()]).unwrap();
        assert_eq!(files.iter().map(|f| f.text.as_str()).collect::<Vec<_>>(), ["a.json", "b.yaml"]);
    }

    #[test]
    fn what_is_not_there_or_not_text_is_a_usage_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let noise = dir.path().join("x.yaml");
        fs::write(&noise, [0xff, 0xfe]).unwrap();
        for path in [noise, dir.path().join("none.yaml")] {
            let error = read(std::slice::from_ref(&path)).unwrap_err();
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            assert_eq!(error.downcast::<Failure>().unwrap().status(), crate::failure::Status::Usage);
        }
    }
}
