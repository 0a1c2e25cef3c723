//! Tests of layer mounts; root and a kernel with the mount API are needed.

use rustix::mount::MountAttrFlags;

use super::attached::Attacher;
use super::*;

fn layer_with(content: &str) -> Mount {
    let mount = Mount::tmpfs(Some(1 << 16), 0o755, MountAttrFlags::empty()).unwrap();
    std::fs::write(mount.proc_path().join("file"), content).unwrap();
    mount
}

#[test]
fn an_attached_layer_reaches_another_namespace_and_leaves_no_trace_here() {
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let attacher = Attacher::start().unwrap();
    let low = attacher.attach(layer_with("low")).unwrap();
    let high = attacher.attach(layer_with("high")).unwrap();
    let clones = [high.clone_mount().unwrap(), low.clone_mount().unwrap()];
    // As a shim does: attach the clones in a namespace of its own and mount an overlay by paths.
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().to_owned();
    let seen = std::thread::spawn(move || {
        mount::private_namespace().unwrap();
        let lower: Vec<PathBuf> = clones
            .iter()
            .enumerate()
            .map(|(n, clone)| {
                let place = base.join(n.to_string());
                std::fs::create_dir(&place).unwrap();
                clone.attach(&place).unwrap();
                place
            })
            .collect();
        let writable = Writable::create(&base.join("attempt"), false).unwrap();
        std::fs::create_dir(base.join("merged")).unwrap();
        mount::overlay_at(&lower, Some((&writable.upper, &writable.work)), None, &base.join("merged")).unwrap();
        std::fs::write(base.join("merged/mine"), "x").unwrap();
        std::fs::read_to_string(base.join("merged/file")).unwrap()
    })
    .join()
    .unwrap();
    assert_eq!(seen, "high");
    assert!(dir.path().join("attempt/upper/mine").exists());
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
}

#[test]
fn a_directory_layer_is_mounted_read_only() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let mount = source_mount(dir.path(), None).unwrap();
    assert_eq!(std::fs::read(mount.proc_path().join("file")).unwrap(), b"x");
    assert!(std::fs::write(mount.proc_path().join("more"), "").is_err());
}

#[test]
fn the_two_writable_directories_are_made_once() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let writable = Writable::create(&dir.path().join("a/0"), true).unwrap();
    assert_eq!(std::fs::metadata(&writable.upper).unwrap().permissions().mode() & 0o777, 0o755);
    assert!(Writable::create(&dir.path().join("a/0"), true).is_err(), "an attempt's directories were used twice");
}
