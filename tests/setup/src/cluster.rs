//! The programs of a cluster that tests talk to: `kube-apiserver` and `kubectl`, built once from the Go module beside this
//! crate; `etcd` is a package.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, cache, checkout, packages, run, say};

/// What is built, below `k8s.io/kubernetes/cmd`.
const PROGRAMS: [&str; 2] = ["kube-apiserver", "kubectl"];

/// Builds what is missing; gives the directory. `KUBEBUILDER_ASSETS` names one that has everything instead.
pub fn programs() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    packages::install(&["cluster"])?;
    let module = checkout().join("tests/setup/kube");
    let version = version(&module)?;
    let all = cache()?.join("cluster");
    let dir = all.join(&version);
    fs::create_dir_all(&all).map_err(|e| format!("cannot create {}: {e}", all.display()))?;
    // Whoever comes second waits, and finds everything built.
    let lock =
        File::create(all.join("lock")).map_err(|e| format!("cannot create {}: {e}", all.join("lock").display()))?;
    lock.lock().map_err(|e| format!("cannot lock {}: {e}", all.display()))?;
    for program in PROGRAMS {
        if !dir.join(program).exists() {
            build(&module, &version, program, &dir)?;
        }
    }
    Ok(dir)
}

/// The version of Kubernetes that the module asks for, as `1.37.2`.
fn version(module: &Path) -> Result<String> {
    let file = module.join("go.mod");
    let text = fs::read_to_string(&file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"));
    line.map(str::to_owned).ok_or_else(|| format!("{} asks for no k8s.io/kubernetes", file.display()))
}

fn build(module: &Path, version: &str, program: &str, dir: &Path) -> Result<()> {
    say(&format!("building {program} {version} from its Go module; some minutes, once"));
    let variable = "k8s.io/component-base/version";
    let mut parts = version.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let flags = format!(
        "-s -w -X {variable}.gitVersion=v{version} -X {variable}.gitMajor={major} -X {variable}.gitMinor={minor}"
    );
    let unfinished = dir.join(format!("{program}.unfinished"));
    let mut go = Command::new("go");
    go.current_dir(module).env("CGO_ENABLED", "0");
    go.args(["build", "-mod=readonly", "-trimpath", "-ldflags", &flags, "-o"]).arg(&unfinished);
    run(go.arg(format!("k8s.io/kubernetes/cmd/{program}")))
        .map_err(|e| format!("{e}; a Go toolchain as new as {}/go.mod says is needed on the PATH", module.display()))?;
    fs::rename(&unfinished, dir.join(program)).map_err(|e| format!("cannot keep {program}: {e}"))
}
