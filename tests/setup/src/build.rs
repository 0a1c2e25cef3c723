//! The static release binary: musl, not position independent (shims share every page of it), stripped, and without a
//! word of whose machine made it: sources of crates are named below `/crates`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, checkout, output, packages, run, say};

/// The target of the release binary.
pub const TARGET: &str = "x86_64-unknown-linux-musl";

/// Builds the release binary and gives its path.
pub fn release() -> Result<PathBuf> {
    packages::install(&["build"])?;
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let std_lib = PathBuf::from(sysroot.trim()).join("lib/rustlib").join(TARGET);
    if !std_lib.exists() {
        say(&format!("adding Rust's standard library for {TARGET}"));
        run(Command::new("rustup").args(["target", "add", TARGET]))?;
    }
    let tree = checkout();
    say("building lamina (release, static); a few minutes the first time");
    run(Command::new("cargo").current_dir(&tree).args(["fetch", "--quiet", "--locked", "--target", TARGET]))?;
    run(Command::new("cargo").current_dir(&tree).arg("--config").arg(remapped(&cargo_home()?)?).args([
        "build",
        "--quiet",
        "--release",
        "--locked",
        "--package",
        "lamina-agent",
        "--target",
        TARGET,
    ]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| tree.join("target"), PathBuf::from);
    Ok(target.join(TARGET).join("release/lamina"))
}

fn cargo_home() -> Result<PathBuf> {
    let set = std::env::var_os("CARGO_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let own = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    set.or_else(own).ok_or_else(|| "neither CARGO_HOME nor HOME is set".to_owned())
}

/// The setting by which rustc names the sources of crates the same on every machine. It is added to what the tree sets.
fn remapped(home: &Path) -> Result<String> {
    let sources = home.join("registry/src");
    let failed = |e: std::io::Error| format!("cannot list {}: {e}", sources.display());
    let mut flags = Vec::new();
    for entry in std::fs::read_dir(&sources).map_err(failed)? {
        let dir = entry.map_err(failed)?.path();
        flags.push(format!("{:?}", format!("--remap-path-prefix={}=/crates", dir.display())));
    }
    flags.sort_unstable();
    Ok(format!("target.{TARGET}.rustflags=[{}]", flags.join(", ")))
}
