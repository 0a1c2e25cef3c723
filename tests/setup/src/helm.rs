//! `helm`, built once from the Go module beside this crate.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use crate::{Result, cache, checkout, run, say};

/// The module that has it.
const MODULE: &str = "helm.sh/helm/v4";

/// Builds it unless it is there; gives its path.
pub fn program() -> Result<PathBuf> {
    let module = checkout().join("tests/setup/helm");
    let file = module.join("go.mod");
    let text = fs::read_to_string(&file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    let asked = text.lines().find_map(|line| line.trim().strip_prefix(MODULE)?.strip_prefix(" v"));
    let version =
        asked.and_then(|v| v.split(' ').next()).ok_or_else(|| format!("{} asks for no {MODULE}", file.display()))?;
    let dir = cache()?.join("helm").join(version);
    let failed = |e: std::io::Error| format!("cannot use {}: {e}", dir.display());
    fs::create_dir_all(&dir).map_err(failed)?;
    // Whoever comes second waits, and finds it built.
    let lock = File::create(dir.join("lock")).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let program = dir.join("helm");
    if !program.exists() {
        say(&format!("building helm {version} from its Go module; some minutes, once"));
        let unfinished = dir.join("helm.unfinished");
        let mut go = Command::new("go");
        go.current_dir(&module).env("CGO_ENABLED", "0");
        go.args(["build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o"]).arg(&unfinished);
        run(go.arg(format!("{MODULE}/cmd/helm")))
            .map_err(|e| format!("{e}; a Go toolchain as new as {} says is needed on the PATH", file.display()))?;
        fs::rename(&unfinished, &program).map_err(failed)?;
    }
    Ok(program)
}
