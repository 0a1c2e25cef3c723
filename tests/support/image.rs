//! Images made in place: layers entry by entry (hostile ones too), written as an OCI image layout.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The static busybox of Debian's package `busybox-static`.
const BUSYBOX: &str = "/bin/busybox";

/// A layer as the tar it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    tar: Vec<u8>,
}

impl Layer {
    /// An empty layer.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A layer with busybox, its usual applets, and the files that every Linux has.
    pub(crate) fn busybox() -> Self {
        let busybox = fs::read(BUSYBOX).expect("busybox-static is installed (lamina-setup packages test)");
        let mut layer = Self::new();
        for dir in ["bin", "etc", "tmp", "root", "proc", "sys", "dev", "var", "data"] {
            layer = layer.dir(dir, if dir == "tmp" { 0o1777 } else { 0o755 });
        }
        layer = layer.file("bin/busybox", &busybox, 0o755);
        for applet in [
            "sh", "cat", "echo", "ls", "sleep", "true", "false", "id", "env", "kill", "ps", "touch", "rm", "mkdir",
            "stat", "dd", "mknod", "head", "tail", "wc", "grep", "hostname", "ip", "ln", "sync", "seq", "yes", "test",
            "pwd", "date", "mount", "tty", "stty", "od", "chmod", "printf", "cut", "sed", "tr", "find", "readlink",
            "httpd",
        ] {
            layer = layer.link(&format!("bin/{applet}"), "busybox");
        }
        layer.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nplayer:x:1000:1000::/data:/bin/sh\n", 0o644).file(
            "etc/group",
            b"root:x:0:\nplayer:x:1000:\naudio:x:29:player\n",
            0o644,
        )
    }

    /// Adds a directory.
    pub(crate) fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(&format!("{name}/"), b'5', mode, "", b"", (0, 0))
    }

    /// Adds a regular file.
    pub(crate) fn file(self, name: &str, content: &[u8], mode: u32) -> Self {
        self.entry(name, b'0', mode, "", content, (0, 0))
    }

    /// Adds a symbolic link.
    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.entry(name, b'2', 0o777, target, b"", (0, 0))
    }

    /// Adds a FIFO.
    pub(crate) fn fifo(self, name: &str) -> Self {
        self.entry(name, b'6', 0o644, "", b"", (0, 0))
    }

    /// Adds a device node, `b'3'` for a character and `b'4'` for a block device.
    pub(crate) fn device(self, name: &str, kind: u8, major: u32, minor: u32) -> Self {
        self.entry(name, kind, 0o666, "", b"", (major, minor))
    }

    /// Adds an entry of any type, as a hostile image might hold it.
    pub(crate) fn entry(
        mut self,
        name: &str,
        kind: u8,
        mode: u32,
        target: &str,
        content: &[u8],
        device: (u32, u32),
    ) -> Self {
        assert!(name.len() <= 100 && target.len() <= 100, "the test's tar writer has no long names");
        let mut head = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, b"14524770400\0");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, target.as_bytes());
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}\0", device.0).as_bytes());
        put(337, format!("{:07o}\0", device.1).as_bytes());
        let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.tar.extend_from_slice(&head);
        self.tar.extend_from_slice(content);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
        self
    }

    fn finished(&self) -> Vec<u8> {
        let mut tar = self.tar.clone();
        tar.resize(tar.len() + 1024, 0);
        tar
    }
}

/// What an image says of its containers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config(serde_json::Map<String, Value>);

impl Config {
    /// Sets a field of the image config's `config` object.
    pub(crate) fn set(mut self, field: &str, value: Value) -> Self {
        self.0.insert(field.into(), value);
        self
    }
}

/// An OCI image layout that grows image by image.
#[derive(Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
    manifests: Vec<Value>,
}

impl Layout {
    /// Starts an empty layout.
    pub(crate) fn create(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let layout = Self { dir: dir.to_owned(), manifests: Vec::new() };
        layout.index();
        layout
    }

    /// The name by which a manifest or a command asks for the image `tag` of this layout.
    pub(crate) fn name(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.dir.display())
    }

    /// The layout's directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Adds an image and gives its name.
    pub(crate) fn add(&mut self, tag: &str, layers: &[Layer], config: Config) -> String {
        let mut stack = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in layers {
            let tar = layer.finished();
            diff_ids.push(format!("sha256:{}", hex(&tar)));
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&tar).unwrap();
            let descriptor = self.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip.finish().unwrap());
            stack.push(descriptor);
        }
        let mut config = config.0;
        config.entry("Env").or_insert_with(|| json!(["PATH=/bin"]));
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": stack,
        });
        let mut descriptor = self.blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        self.manifests.retain(|m| m["annotations"] != descriptor["annotations"]);
        self.manifests.push(descriptor);
        self.index();
        self.name(tag)
    }

    fn index(&self) {
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": self.manifests,
        });
        fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = hex(bytes);
        fs::write(self.dir.join("blobs/sha256").join(&digest), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() })
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, b| {
        write!(text, "{b:02x}").unwrap();
        text
    })
}
