//! Rows M1-M6 of reliability.md: whatever happens to files, nothing stops by accident, and nobody else is hurt.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::scan::{Memory, Scan, scan};
use super::*;

const NOW: Duration = Duration::ZERO;

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: \"{image}\"}}]}}\n"
    )
}

/// Looks twice, so that what is gone is gone for good.
fn look(path: &Path, memory: &mut Memory) -> DesiredSet {
    scan(path, memory, NOW);
    let Scan { set, .. } = scan(path, memory, NOW);
    assert!(set.synced);
    set
}

fn names(set: &DesiredSet) -> Vec<String> {
    set.objects.iter().map(|o| o.object.key().name).collect()
}

fn said(set: &DesiredSet) -> String {
    set.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn fixture() -> (tempfile::TempDir, Memory) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), pod("a", "x:1")).unwrap();
    fs::write(dir.path().join("b.yml"), pod("b", "x:1")).unwrap();
    let mut memory = Memory::default();
    assert_eq!(names(&look(dir.path(), &mut memory)), ["a", "b"]);
    (dir, memory)
}

/// A file that cannot be used, made anew or in place of a good one: only it is refused, and what it asked for stays.
fn spoiled(spoil: impl Fn(&Path), reason: &str) {
    let (dir, mut memory) = fixture();
    spoil(&dir.path().join("new.yaml"));
    let set = look(dir.path(), &mut memory);
    assert_eq!(names(&set), ["a", "b"], "{reason}");
    assert!(said(&set).contains("new.yaml") && said(&set).contains(reason), "{reason}: {}", said(&set));
    assert!(!set.is_gone(&dir.path().join("new.yaml")) && set.is_gone(&dir.path().join("a.yaml")));

    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    spoil(&dir.path().join("a.yaml"));
    let set = look(dir.path(), &mut memory);
    assert_eq!(names(&set), ["a", "b"], "what it asked for stays: {reason}");
    assert!(said(&set).contains("a.yaml"));
}

#[test]
fn m1_a_file_that_breaks_off_is_refused_and_nothing_of_it_counts() {
    let broken = format!("{}---\n{}", pod("c", "x:1"), "apiVersion: v1\nkind: Pod\nmetadata: {name: d");
    spoiled(|path| fs::write(path, &broken).unwrap(), "is not valid YAML");
}

#[test]
fn m1_a_file_that_is_being_written_waits_until_it_is_closed() {
    let (dir, mut memory) = fixture();
    let path = dir.path().join("a.yaml");
    let mut writer = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
    let set = look(dir.path(), &mut memory);
    assert_eq!(names(&set), ["a", "b"]);
    assert!(set.uncertain.contains(&path), "{set:?}");
    writer.write_all(pod("a", "x:2").as_bytes()).unwrap();
    let before = look(dir.path(), &mut memory);
    assert_eq!(before.objects, set.objects, "a whole document before it is closed is a prefix all the same");
    drop(writer);
    let after = look(dir.path(), &mut memory);
    assert_ne!(after.objects, set.objects);
    assert!(after.uncertain.is_empty() && after.problems.is_empty());
}

#[test]
fn m1_an_invalid_change_leaves_the_last_good_version() {
    let (dir, mut memory) = fixture();
    let good = look(dir.path(), &mut memory).objects;
    fs::write(dir.path().join("a.yaml"), pod("a", "x:2").replace("image", "imagee")).unwrap();
    let set = look(dir.path(), &mut memory);
    assert_eq!(set.objects, good);
    assert!(said(&set).contains("imagee"));
    fs::write(dir.path().join("a.yaml"), pod("a", "x:2")).unwrap();
    let set = look(dir.path(), &mut memory);
    assert!(set.objects != good && set.problems.is_empty());
}

#[test]
fn an_immutable_object_keeps_its_data_until_it_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    let map = |value: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\nimmutable: true\ndata: {{a: {value}}}\n")
    };
    fs::write(&path, map("one")).unwrap();
    let mut memory = Memory::default();
    let before = look(dir.path(), &mut memory);
    assert!(before.problems.is_empty());
    fs::write(&path, map("two")).unwrap();
    let after = look(dir.path(), &mut memory);
    assert_eq!(after.objects, before.objects);
    assert!(said(&after).contains("c.yaml: ConfigMap default/c: data: must not change"), "{}", said(&after));
    fs::remove_file(&path).unwrap();
    assert!(look(dir.path(), &mut memory).objects.is_empty());
    fs::write(&path, map("two")).unwrap();
    let fresh = look(dir.path(), &mut memory);
    assert!(fresh.problems.is_empty() && fresh.objects != before.objects);
}

#[test]
fn m2_files_too_large_or_with_bombs_are_refused() {
    spoiled(|path| fs::File::create(path).unwrap().set_len(100 << 20).unwrap(), "is larger than");
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..10 {
        writeln!(bomb, "a{i}: &a{i} [{}]", vec![format!("*a{}", i - 1); 10].join(", ")).unwrap();
    }
    spoiled(|path| fs::write(path, &bomb).unwrap(), "has too much in it");
}

#[test]
fn m2_odd_bytes_are_named_and_a_byte_order_mark_is_not_odd() {
    spoiled(|path| fs::write(path, b"kind: \0").unwrap(), "NUL");
    spoiled(|path| fs::write(path, b"kind: \xff").unwrap(), "UTF-8");
    let (dir, mut memory) = fixture();
    fs::write(dir.path().join("c.yaml"), format!("\u{feff}{}", pod("c", "x:1"))).unwrap();
    assert_eq!(names(&look(dir.path(), &mut memory)), ["a", "b", "c"]);
}

#[test]
fn m3_of_two_files_with_one_object_the_first_by_name_counts_in_any_order_of_events() {
    for order in [["1.yaml", "2.yaml"], ["2.yaml", "1.yaml"]] {
        let dir = tempfile::tempdir().unwrap();
        let mut memory = Memory::default();
        let mut set = DesiredSet::default();
        for name in order {
            fs::write(dir.path().join(name), pod("a", &format!("x:{name}"))).unwrap();
            set = look(dir.path(), &mut memory);
        }
        assert_eq!(set.objects[0].file, dir.path().join("1.yaml"));
        assert_eq!((set.shadowed[0].loser.clone(), set.shadowed.len()), (dir.path().join("2.yaml"), 1));
    }
}

#[test]
fn m3_touching_or_copying_a_file_changes_nothing() {
    let (dir, mut memory) = fixture();
    let before = look(dir.path(), &mut memory);
    fs::write(dir.path().join("a.yaml"), pod("a", "x:1")).unwrap();
    assert_eq!(look(dir.path(), &mut memory), before);
    fs::copy(dir.path().join("a.yaml"), dir.path().join(".tmp")).unwrap();
    fs::rename(dir.path().join(".tmp"), dir.path().join("a.yaml")).unwrap();
    assert_eq!(look(dir.path(), &mut memory), before);
}

#[test]
fn m4_what_editors_leave_is_no_manifest() {
    let (dir, mut memory) = fixture();
    let before = look(dir.path(), &mut memory);
    for name in
        ["a.yaml~", "#a.yaml#", ".a.yaml.swp", ".a.yaml", "4913", "a.yaml.bak", "a.yaml.orig", "README.md", "..data"]
    {
        fs::write(dir.path().join(name), pod("other", "x:1")).unwrap();
    }
    assert_eq!(look(dir.path(), &mut memory), before);
}

#[test]
fn m4_an_editor_that_moves_the_file_away_first_deletes_nothing() {
    let (dir, mut memory) = fixture();
    let long = Duration::from_mins(1);
    let path = dir.path().join("a.yaml");
    fs::rename(&path, dir.path().join("a.yaml~")).unwrap();
    let away = scan(dir.path(), &mut memory, long);
    assert_eq!((names(&away.set).len(), away.again), (2, Some(Duration::from_secs(3))));
    fs::write(&path, pod("a", "x:2")).unwrap();
    assert_eq!(names(&scan(dir.path(), &mut memory, long).set), ["a", "b"]);
    fs::remove_file(&path).unwrap();
    assert_eq!(names(&look(dir.path(), &mut memory)), ["b"]);
}

#[test]
fn m4_a_flip_of_a_data_link_is_one_change() {
    let dir = tempfile::tempdir().unwrap();
    for (version, image) in [("..1", "x:1"), ("..2", "x:2")] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("a.yaml"), pod("a", image)).unwrap();
    }
    symlink("..1", dir.path().join("..data")).unwrap();
    symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
    let mut memory = Memory::default();
    let before = look(dir.path(), &mut memory);
    assert_eq!(names(&before), ["a"]);
    symlink("..2", dir.path().join("..tmp")).unwrap();
    fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
    let after = look(dir.path(), &mut memory);
    assert!(after.objects != before.objects && after.problems.is_empty());
}

#[test]
fn m5_links_to_nothing_fifos_directories_and_sockets_are_named_and_never_waited_for() {
    spoiled(|path| symlink("/nonexistent-lamina", path).unwrap(), "leads nowhere");
    spoiled(|path| fs::create_dir(path).unwrap(), "is a directory");
    spoiled(
        |path| rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap(),
        "is a FIFO",
    );
    spoiled(|path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()), "is a socket");
    spoiled(|path| symlink("/dev/zero", path).unwrap(), "is a device");
    spoiled(|path| symlink(path.file_name().unwrap(), path).unwrap(), "cannot be read");
}

#[test]
fn m6_a_directory_that_is_gone_moved_emptied_by_unmount_or_no_directory_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().join("manifests");
    let away = dir.path().join("away");
    fs::create_dir(&here).unwrap();
    fs::write(here.join("a.yaml"), pod("a", "x:1")).unwrap();
    let mut memory = Memory::default();
    assert_eq!(names(&look(&here, &mut memory)), ["a"]);

    fs::rename(&here, &away).unwrap();
    let set = look(&here, &mut memory);
    assert!(names(&set) == ["a"] && said(&set).contains("cannot be read") && !set.is_gone(&here.join("x.yaml")));

    fs::write(&here, "not a directory").unwrap();
    assert_eq!(names(&look(&here, &mut memory)), ["a"]);
    fs::remove_file(&here).unwrap();

    // Another directory of the same name, as an unmount leaves it: readable and empty.
    fs::create_dir(&here).unwrap();
    let set = look(&here, &mut memory);
    assert!(names(&set) == ["a"] && said(&set).contains("another than before"), "{}", said(&set));
    fs::write(here.join("b.yaml"), pod("b", "x:1")).unwrap();
    assert_eq!(names(&look(&here, &mut memory)), ["a", "b"]);

    // The first one comes back, and a deletion there is a deletion.
    fs::remove_dir_all(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    assert_eq!(names(&look(&here, &mut memory)), ["a", "b"]);
    fs::remove_file(here.join("a.yaml")).unwrap();
    assert_eq!(names(&look(&here, &mut memory)), ["b"]);
}

#[test]
fn m6_a_directory_that_is_not_there_at_the_start_is_no_reason_to_stop_anything() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no");
    let set = look(&path, &mut Memory::default());
    assert!(set.objects.is_empty() && !set.is_gone(&path.join("a.yaml")) && set.problems.len() == 1);
}

#[test]
fn a_file_of_mode_0_is_read_by_root_and_refused_by_name_otherwise() {
    let (dir, mut memory) = fixture();
    fs::set_permissions(dir.path().join("a.yaml"), fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(names(&look(dir.path(), &mut memory)), ["a", "b"]);
}

async fn until(rx: &mut watch::Receiver<Arc<DesiredSet>>, wanted: &[&str]) -> Arc<DesiredSet> {
    let wait = rx.wait_for(|set| set.synced && names(set) == wanted);
    Arc::clone(&tokio::time::timeout(Duration::from_secs(20), wait).await.expect("in time").unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_heard_of_also_in_a_directory_that_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manifests");
    // No rescan within the time of the test: what is found was heard of, but for the directory that is not there yet.
    let options = Options { rescan: Duration::from_mins(10), ..Options::new(path.clone()) };
    let directory = Directory::watch(options);
    let mut rx = directory.subscribe();
    until(&mut rx, &[]).await;
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), pod("a", "x:1")).unwrap();
    until(&mut rx, &["a"]).await;
    fs::write(path.join("b.yaml"), pod("b", "x:1")).unwrap();
    until(&mut rx, &["a", "b"]).await;
    fs::remove_file(path.join("a.yaml")).unwrap();
    until(&mut rx, &["b"]).await;
    // Moved away and made anew: what is written into the new one is heard of, too.
    fs::rename(&path, dir.path().join("old")).unwrap();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("c.yaml"), pod("c", "x:1")).unwrap();
    until(&mut rx, &["b", "c"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rescan_finds_what_inotify_does_not_hear_of() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("real");
    fs::write(&target, pod("a", "x:1")).unwrap();
    symlink(&target, dir.path().join("a.yaml")).unwrap();
    let options = Options { rescan: Duration::from_millis(100), ..Options::new(dir.path().to_owned()) };
    let directory = Directory::watch(options);
    let mut rx = directory.subscribe();
    let before = until(&mut rx, &["a"]).await;
    fs::write(&target, pod("a", "x:2")).unwrap();
    let changed = rx.wait_for(|set| set.objects != before.objects);
    tokio::time::timeout(Duration::from_secs(20), changed).await.expect("in time").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overflow_of_events_loses_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { rescan: Duration::from_mins(10), ..Options::new(dir.path().to_owned()) };
    let directory = Directory::watch(options);
    let mut rx = directory.subscribe();
    until(&mut rx, &[]).await;
    // More events than a queue holds (16384 by default), while the task may or may not keep up.
    let path = dir.path().to_owned();
    tokio::task::spawn_blocking(move || {
        for i in 0..12_000 {
            let file = path.join(format!("noise-{}", i % 7));
            fs::write(&file, "x").unwrap();
        }
        fs::write(path.join("a.yaml"), pod("a", "x:1")).unwrap();
    })
    .await
    .unwrap();
    until(&mut rx, &["a"]).await;
}
