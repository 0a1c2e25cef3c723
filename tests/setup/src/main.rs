//! What a fresh Debian machine with Rust and root needs before the demo and the tests: packages, a static build,
//! real images, guests. It says what it does before it does it, and does nothing twice.
//!
//! ```text
//! lamina-setup packages SET…        install the Debian packages of these sets (demo, build, test, guest)
//! lamina-setup build                the static release binary; prints its path
//! lamina-setup cluster              kube-apiserver and kubectl (some minutes, once), etcd; prints their directory
//! lamina-setup helm                 helm (some minutes, once); prints its path
//! lamina-setup apps                 PostgreSQL, Redis and other real programs as one OCI layout; prints its path
//! lamina-setup images DIR           base, runtime, game:1 and game:2 as one OCI layout
//! lamina-setup demo                 all of the above, a registry on loopback, then `lamina demo`
//! lamina-setup guest KERNEL SCRIPT  boots Debian's kernel (6.1, 6.12 or newest) and runs SCRIPT in it
//! lamina-setup service DEB SCRIPT   boots Debian with systemd and runs SCRIPT there, with the package at hand
//! ```

mod apps;
mod build;
mod cluster;
mod demo;
mod guest;
mod helm;
mod images;
mod packages;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

/// A failure as a person should read it: what was attempted and why it failed.
pub type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["packages", sets @ ..] if !sets.is_empty() => packages::install(sets),
        ["build"] => build::release().map(|path| println!("{}", path.display())),
        ["cluster"] => cluster::programs().map(|dir| println!("{}", dir.display())),
        ["helm"] => helm::program().map(|path| println!("{}", path.display())),
        ["images", dir] => images::layout(std::path::Path::new(dir)),
        ["apps"] => cache().map(|c| c.join("apps-images")).and_then(|dir| {
            apps::layout(&dir)?;
            println!("{}", dir.display());
            Ok(())
        }),
        ["demo", rest @ ..] => demo::run(rest),
        ["guest", kernel, script] => guest::run(kernel, std::path::Path::new(script)),
        ["service", package, script] => guest::service(std::path::Path::new(package), std::path::Path::new(script)),
        _ => {
            eprintln!(
                "usage: lamina-setup packages SET… | build | cluster | helm | apps | images DIR | demo | guest KERNEL SCRIPT | service DEB SCRIPT"
            );
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("setup: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Tells what happens next, on standard error.
pub fn say(text: &str) {
    eprintln!("setup: {text}");
}

/// The root of the checkout that this crate lies in.
pub fn checkout() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map_or_else(|| here.clone(), std::path::Path::to_path_buf)
}

/// Where downloads and built images are kept between runs: `$XDG_CACHE_HOME/lamina`, else `~/.cache/lamina`.
pub fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").ok_or("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache"),
    };
    let dir = base.join("lamina");
    std::fs::create_dir_all(&dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    Ok(dir)
}

/// A command line for messages.
fn shown(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    if text.len() > 300 { format!("{}…", text.chars().take(300).collect::<String>()) } else { text }
}

/// Runs a command whose output goes to standard error; fails unless it succeeds.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .map_err(|e| format!("cannot run {}: {e}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", shown(command))) }
}

/// Runs a command quietly and gives what it printed; its errors are in the message when it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let out = command.stdin(Stdio::null()).output().map_err(|e| format!("cannot run {}: {e}", shown(command)))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    Err(format!("{} ended with {}: {}", shown(command), out.status, String::from_utf8_lossy(&out.stderr).trim()))
}

/// Runs a line of shell with positional arguments; pipes fail when a part fails.
pub fn shell(script: &str, args: &[&std::ffi::OsStr]) -> Result<String> {
    output(Command::new("bash").args(["-euo", "pipefail", "-c", script, "setup"]).args(args))
}
