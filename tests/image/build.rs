//! The image: what its last stage makes of the binary, byte for byte the same each time.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Where the Dockerfile's first stage leaves the binary.
const BUILT: &str = "src/target/x86_64-unknown-linux-musl/release/lamina";

/// A file of the tree.
fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The static binary that `tests/run release` builds.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("LAMINA_BINARY").expect("LAMINA_BINARY names the release binary: `tests/run image`").into()
}

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The last stage of the Dockerfile: what is shipped.
fn last_stage() -> String {
    let text = fs::read_to_string(tree("Dockerfile")).unwrap();
    let at = text.rfind("\nFROM ").unwrap();
    text[at + 1..].to_owned()
}

/// Makes the image of a binary below `dir`, as a layout with the tag `agent`; gives the layout's directory.
pub(crate) fn image(dir: &Path, binary: &Path) -> PathBuf {
    let (first, context, file, layout) =
        (dir.join("first"), dir.join("context"), dir.join("Dockerfile"), dir.join("layout"));
    // What the first stage has where the last one looks: it cannot be run here, for its own base is in a registry.
    for from in ["etc/ssl/certs/ca-certificates.crt", "usr/share/zoneinfo"] {
        let to = first.join(from);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        run(Command::new("cp").arg("-a").arg(Path::new("/").join(from)).arg(to));
    }
    fs::create_dir_all(first.join(BUILT).parent().unwrap()).unwrap();
    fs::copy(binary, first.join(BUILT)).unwrap();
    fs::create_dir_all(&context).unwrap();
    fs::write(&file, last_stage()).unwrap();
    let buildah = || {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(dir.join("store")).arg("--runroot").arg(dir.join("run"));
        command.args(["--storage-driver", "vfs"]);
        command
    };
    run(buildah()
        .args(["build", "--isolation", "chroot", "--timestamp", "0", "--tag", "localhost/lamina:agent"])
        .arg(format!("--build-context=build={}", first.display()))
        .arg("--file")
        .arg(&file)
        .arg(&context));
    run(buildah().args(["push", "--quiet", "localhost/lamina:agent"]).arg(format!("oci:{}:agent", layout.display())));
    layout
}

/// A file of a layout, by its digest.
fn blob(layout: &Path, digest: &Value) -> Vec<u8> {
    fs::read(layout.join("blobs").join(digest.as_str().unwrap().replace(':', "/"))).unwrap()
}

fn manifest(layout: &Path) -> (Value, Value) {
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].clone();
    (serde_json::from_slice(&blob(layout, &digest)).unwrap(), digest)
}

#[test]
fn the_image_holds_the_binary_and_no_shell_and_is_the_same_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let layouts = ["one", "two"].map(|n| image(&dir.path().join(n), &binary()));
    let ((one, first), (_, second)) = (manifest(&layouts[0]), manifest(&layouts[1]));
    assert_eq!(first, second, "the same from the same");
    let config: Value = serde_json::from_slice(&blob(&layouts[0], &one["config"]["digest"])).unwrap();
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/usr/bin/lamina"]));
    assert_eq!(config["config"]["Cmd"], serde_json::json!(["agent"]));
    let mut files = BTreeSet::new();
    for layer in one["layers"].as_array().unwrap() {
        let path = layouts[0].join("blobs").join(layer["digest"].as_str().unwrap().replace(':', "/"));
        let listed = run(Command::new("tar").arg("-tf").arg(path));
        files.extend(listed.lines().map(|l| l.trim_start_matches("./").to_owned()));
    }
    for there in ["usr/bin/lamina", "etc/ssl/certs/ca-certificates.crt", "usr/share/zoneinfo/Europe/Berlin"] {
        assert!(files.contains(there), "{there} is missing");
    }
    let programs: Vec<_> =
        files.iter().filter(|f| f.contains("bin/") && !f.ends_with('/') && *f != "usr/bin/lamina").collect();
    assert!(programs.is_empty(), "{programs:?}");
    // One that is not static would start nowhere.
    let interpreter = run(Command::new("readelf").arg("-l").arg(binary()));
    assert!(!interpreter.contains("INTERP"), "{interpreter}");
}
