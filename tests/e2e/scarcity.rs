//! What a node does when something that it needs is not to be had: the disk is full, a registry wants to be left alone.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use crate::support::image::{Config, Layer};
use crate::support::node::{LAMINA, Node};
use crate::support::wait;

const MIB: u64 = 1 << 20;

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {{ name: app, image: \"{image}\", imagePullPolicy: IfNotPresent, command: [sleep, infinity] }}\n"
    )
}

/// Bytes that no compression makes fewer.
fn noise(bytes: u64) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect()
}

/// Files that take all of a file system but `rest` bytes, until they are dropped.
struct Filler(PathBuf);

impl Filler {
    fn leave(path: PathBuf, rest: u64) -> Self {
        let mut file = File::options().append(true).create(true).open(&path).unwrap();
        let stat = rustix::fs::statvfs(path.parent().unwrap()).unwrap();
        let free = stat.f_bavail * stat.f_frsize;
        let piece = vec![1; 1 << 16];
        let mut left = free.saturating_sub(rest);
        while left > 0 {
            let want = usize::try_from(left).unwrap().min(piece.len());
            match file.write(&piece[..want]) {
                Ok(n) => left -= n as u64,
                Err(e) if e.kind() == std::io::ErrorKind::StorageFull => break,
                Err(e) => panic!("{}: {e}", path.display()),
            }
        }
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_full_disk_fails_the_pull_alone_and_is_recovered_from() {
    // The state directory also takes a copy of the binary.
    let node = Node::on_a_disk_of(fs::metadata(LAMINA).unwrap().len() + 48 * MIB);
    let (mut layout, busybox) = node.busybox();
    let of = |bytes: u64| [Layer::busybox(), Layer::new().file("own", &noise(bytes), 0o644)];
    let (other, big) =
        (layout.add("other", &of(MIB), Config::default()), layout.add("big", &of(20 * MIB), Config::default()));
    node.manifest("steady.yaml", &pod("steady", &busybox));
    node.manifest("other.yaml", &pod("other", &other));
    node.running("steady");
    node.running("other");
    let (steady, layers) = (node.pid("steady", "app"), node.layers());

    // Some room, but not enough: the pull fails and says why, and nothing is left of it.
    let filler = Filler::leave(node.path("root/filler"), 4 * MIB);
    node.manifest("big.yaml", &pod("big", &big));
    let refused = node.until("big", "refused", |p| {
        let waiting = &p["status"]["containerStatuses"][0]["state"]["waiting"];
        ["ErrImagePull", "ImagePullBackOff"].iter().any(|r| waiting["reason"] == *r)
    });
    let message = refused["status"]["containerStatuses"][0]["state"]["waiting"]["message"].to_string();
    assert!(message.contains("No space left on device"), "{message}");
    let staging = || fs::read_dir(node.path("root/staging")).unwrap().count();
    wait("nothing half-made is left", || (staging() == 0).then_some(()));
    assert_eq!(node.layers(), layers);
    node.ok(&["check", "--full"]);

    // Not a byte: what goes is collected all the same, and what runs is not disturbed.
    let rest = Filler::leave(node.path("root/rest"), 0);
    node.remove_manifest("other.yaml");
    node.gone("other");
    wait("the layer of what went is freed", || (node.layers().len() == layers.len() - 1).then_some(()));
    assert_eq!(node.pid("steady", "app"), steady);
    assert_eq!(node.ok(&["exec", "steady", "--", "echo", "here"]), "here\n");

    // Room again: the node gets on by itself.
    drop((filler, rest));
    node.running("big");
    assert_eq!(node.pid("steady", "app"), steady);
    node.ok(&["check", "--full"]);
    node.finish();
}

#[test]
fn a_registry_that_asks_to_be_left_alone_is_asked_again_when_it_said() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 240\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        }
    });
    let node = Node::start();
    node.manifest("web.yaml", &pod("web", &format!("127.0.0.1:{port}/x/web:1")));
    let waits = node.until("web", "waiting", |p| p["lamina"]["containers"][0]["nextStart"].is_string());
    let next: jiff::Timestamp = waits["lamina"]["containers"][0]["nextStart"].as_str().unwrap().parse().unwrap();
    let wait = next.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((200..=240).contains(&wait), "asked again in {wait} s: {waits}");
    node.finish();
}
