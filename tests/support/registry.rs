//! A real docker-registry on loopback, for tests that need one.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::image::{Config, Layer, Layout};
use super::wait;

/// A registry that ends with its owner.
#[derive(Debug)]
pub(crate) struct Registry {
    child: Child,
    port: u16,
    _data: tempfile::TempDir,
}

/// A port nobody uses at the moment.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Registry {
    /// Starts Debian's docker-registry with its data in a temporary directory.
    pub(crate) fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = data.path().join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{ level: error, accesslog: {{ disabled: true }} }}\n\
                 storage: {{ filesystem: {{ rootdirectory: {0}/data }}, delete: {{ enabled: true }} }}\n\
                 http: {{ addr: \"127.0.0.1:{port}\" }}\n",
                data.path().display()
            ),
        )
        .unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed (lamina-setup packages test)");
        wait("docker-registry answers", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { child, port, _data: data }
    }

    /// The image name `name` in this registry.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// Copies an image of a layout into the registry with skopeo.
    pub(crate) fn push(&self, layout: &Path, tag: &str, name: &str) -> String {
        let to = self.name(name);
        let out = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
            .arg(format!("oci:{}:{tag}", layout.display()))
            .arg(format!("docker://{to}"))
            .output()
            .expect("skopeo is installed (lamina-setup packages test)");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        to
    }

    /// Two versions of an image, which differ in a small top layer and share a large one; their names.
    pub(crate) fn versions(&self, layout: &mut Layout, name: &str) -> Vec<String> {
        let big = Layer::new().file("big", &vec![7; 3 << 20], 0o644);
        for n in ["1", "2"] {
            let top = Layer::new().file("version", n.as_bytes(), 0o644);
            layout.add(n, &[Layer::busybox(), big.clone(), top], Config::default());
        }
        ["1", "2"].iter().map(|n| self.push(layout.dir(), n, &format!("{name}:{n}"))).collect()
    }

    /// Ends the registry as a crash would.
    pub(crate) fn stop(&mut self) {
        // It may have ended already; either way it is gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
