//! The demo's surroundings: images, a registry on loopback, and then `lamina demo` as a user would start it.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Result, build, cache, images, packages, say};

/// Builds, makes the images, serves them and starts the guided run. Ctrl-C ends this process and reaches the guided
/// run, which cleans up after itself; the registry ends by itself when its standard input closes.
pub fn run(args: &[&str]) -> Result<()> {
    packages::install(&["demo"])?;
    let lamina = build::release()?;
    let layout = cache()?.join("demo-images-2");
    images::layout(&layout)?;
    let mut command = Command::new(&lamina);
    command.arg("demo").args(args);
    let _registry = match Registry::start(&layout) {
        Ok(registry) => {
            command.arg("--registry").arg(format!("127.0.0.1:{}", registry.port));
            Some(registry)
        }
        Err(e) => {
            say(&format!("no registry ({e}); the demo reads the images from an OCI layout"));
            command.arg("--layout").arg(&layout);
            None
        }
    };
    let status = command.status().map_err(|e| format!("cannot run {}: {e}", lamina.display()))?;
    if status.success() { Ok(()) } else { Err(format!("the demo ended with {status}")) }
}

/// A docker-registry on loopback with its data in a temporary directory.
struct Registry {
    port: u16,
    child: Child,
}

impl Registry {
    fn start(layout: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .map_err(|e| format!("cannot find a free port: {e}"))?
            .port();
        // The shell waits for its standard input to close (this process ends, however it does), then stops the
        // registry and removes its data. `setsid` keeps the terminal's Ctrl-C away from it.
        let script = r#"
            dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
            cat >"$dir/config.yml" <<END
version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: $dir/data } }
http: { addr: "127.0.0.1:$1" }
END
            docker-registry serve "$dir/config.yml" >"$dir/log" 2>&1 </dev/null &
            pid=$!
            read -r _ || true
            kill "$pid"; wait "$pid" 2>/dev/null || true
        "#;
        let child = Command::new("setsid")
            .args(["bash", "-c", script, "registry", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("cannot start docker-registry: {e}"))?;
        let registry = Self { port, child };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > deadline {
                return Err("docker-registry does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for image in ["base:1", "runtime:1", "game:1", "game:2", "db:1", "shop:1"] {
            crate::run(Command::new("skopeo").args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
                &format!("oci:{}:{}", layout.display(), image.replace(':', "-")),
                &format!("docker://127.0.0.1:{port}/{image}"),
            ]))?;
        }
        say(&format!("images are served by a docker-registry on 127.0.0.1:{port}"));
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends on its own now; waiting only reaps it.
        let _ = self.child.wait();
    }
}
