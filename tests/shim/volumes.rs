//! What containers have mounted beside their root.

use std::os::fd::AsFd as _;

use lamina::runtime::spec::{HostPathKind, Propagation, VolumeBind, VolumeSource};
use lamina::sys::mount::Mount;
use rustix::mount::MountAttrFlags;

use crate::pod::{Pod, Start};

fn bind(target: &str, source: VolumeSource, read_only: bool) -> VolumeBind {
    VolumeBind {
        target: target.into(),
        source,
        sub_path: None,
        read_only,
        recursive: false,
        propagation: Propagation::None,
        options: Vec::new(),
    }
}

fn with(mut start: Start, binds: Vec<VolumeBind>) -> Start {
    start.request.volumes = binds;
    start
}

#[tokio::test]
async fn a_kept_tmpfs_is_shared_by_the_pod_and_filled_from_outside() {
    let mut pod = Pod::new().await;
    let tmpfs = Mount::tmpfs(Some(1 << 20), 0o700, MountAttrFlags::empty()).unwrap();
    let file = rustix::fs::openat(
        tmpfs.as_fd(),
        "from-the-agent",
        rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY,
        0o600.into(),
    )
    .unwrap();
    rustix::io::write(&file, b"hello\n").unwrap();
    drop(file);
    pod.client.keep(vec![("memory".into(), tmpfs.into_fd())]).await.unwrap();
    let kept = || VolumeSource::Kept { name: "memory".into() };
    let write = with(pod.sh("a", 0, "cat /vol/from-the-agent; echo there > /vol/b"), vec![bind("/vol", kept(), false)]);
    assert_eq!(pod.run(write).await.code, 0);
    assert_eq!(pod.log("a", 0), "hello\n");
    let read = pod.sh("b", 0, "cat /deep/er/b; touch /deep/er/c && exit 9; exit 0");
    assert_eq!(pod.run(with(read, vec![bind("/deep/er", kept(), true)])).await.code, 0);
    assert!(pod.log("b", 0).starts_with("there\n"));
    // The agent may forget its own; it is still the same one.
    let again = with(pod.sh("a", 1, "cat /vol/b"), vec![bind("/vol", kept(), false)]);
    assert_eq!(pod.run(again).await.code, 0);
    pod.client.drop_kept(vec!["memory".into()]).await.unwrap();
    let gone = with(pod.sh("a", 2, "true"), vec![bind("/vol", kept(), false)]);
    assert!(pod.client.start(gone.request, vec![]).await.is_err());
    pod.end().await;
}

#[tokio::test]
async fn host_paths_are_what_their_type_demands_or_the_container_does_not_start() {
    let mut pod = Pod::new().await;
    let host = pod.dir.path().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "content\n").unwrap();
    let path = |name: &str| host.join(name).to_str().unwrap().to_owned();
    let source = |name: &str, kind| VolumeSource::HostPath { path: path(name), kind };

    let start = with(
        pod.sh("a", 0, "cat /etc/one; echo new > /new/x; test -f /made"),
        vec![
            bind("/etc/one", source("file", HostPathKind::File), true),
            bind("/new", source("some/new", HostPathKind::DirectoryOrCreate), false),
            bind("/made", source("made", HostPathKind::FileOrCreate), false),
        ],
    );
    assert_eq!(pod.run(start).await.code, 0, "{}", pod.log("a", 0));
    assert_eq!(pod.log("a", 0), "content\n");
    assert_eq!(std::fs::read_to_string(host.join("some/new/x")).unwrap(), "new\n");
    assert!(host.join("made").is_file());

    // Only a part of it, and never what a link in it leads to.
    std::os::unix::fs::symlink("/", host.join("some/out")).unwrap();
    let part = |below: &str| VolumeBind {
        sub_path: Some(below.into()),
        ..bind("/part", source("some", HostPathKind::Directory), false)
    };
    let start = with(pod.sh("b", 0, "cat /part/x"), vec![part("new")]);
    assert_eq!(pod.run(start).await.code, 0);
    let start = with(pod.sh("b", 1, "true"), vec![part("out/etc")]);
    assert!(pod.client.start(start.request, vec![]).await.is_err());

    for (attempt, name, kind) in [
        (1, "file", HostPathKind::Directory),
        (2, "nothing", HostPathKind::Any),
        (3, "some", HostPathKind::File),
        (4, "file", HostPathKind::Socket),
    ] {
        let start = with(pod.sh("a", attempt, "true"), vec![bind("/x", source(name, kind), false)]);
        let refused = pod.client.start(start.request, vec![]).await.unwrap_err().to_string();
        assert!(refused.contains(&path(name)), "{refused}");
    }
    pod.end().await;
}

#[tokio::test]
async fn a_volume_target_that_is_a_link_in_the_image_stays_in_the_container() {
    let mut pod = Pod::new().await;
    let canary = pod.dir.path().join("canary");
    std::fs::create_dir(&canary).unwrap();
    std::os::unix::fs::symlink(&canary, pod.dir.path().join("layer/out")).unwrap();
    let volume = pod.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let source = VolumeSource::Dir { path: volume.to_str().unwrap().into() };
    let start = with(pod.sh("a", 0, "echo x > /out/below/file"), vec![bind("/out/below", source, false)]);
    // Whether it starts is the launch's business; where it may write is everybody's.
    let _ = pod.run(start).await;
    assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0);
    pod.end().await;
}
