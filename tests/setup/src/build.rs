//! The static release binary: musl, not position independent (shims share every page of it), stripped.

use std::path::PathBuf;
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
    run(Command::new("cargo").current_dir(&tree).args([
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
