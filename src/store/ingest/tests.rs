//! Layers through the whole pipeline, from compressed bytes to a committed file.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::oci::{ChainId, DiffId, Digest};
use crate::store::convert::testing::Tar;
use crate::store::convert::{self, Compression, Limits};
use crate::store::driver::DriverChoice;
use crate::store::{Error, Ingest, Ingested, LayerKey, Options, Store, layout};

fn store(root: &Path) -> Store {
    Store::open(&Options { driver: DriverChoice::Erofs, ..Options::new(root) }).unwrap()
}

/// A store that unpacks layers where EROFS is missing.
fn unpacking(root: &Path) -> Store {
    Store::open(&Options { driver: DriverChoice::Directory, ..Options::new(root) }).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn diff_id(tar: &[u8]) -> DiffId {
    DiffId(Digest::sha256_of(tar))
}

fn named(blob: &[u8]) -> (Digest, u64) {
    (Digest::sha256_of(blob), blob.len() as u64)
}

/// A layer that stands alone, with enough in it for several chunks.
fn alone() -> Vec<u8> {
    let noise: Vec<u8> = (0..1_500_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    Tar::new().dir("etc/").file("etc/hosts", b"127.0.0.1 localhost\n").file("noise", &noise).end()
}

/// A layer that needs what is below it: its parent directory is not declared.
fn bound() -> Vec<u8> {
    Tar::new().file("etc/issue", b"hello\n").end()
}

async fn ingest(store: &Store, stack: &[&[u8]], blob: &[u8]) -> Result<Ingested, Error> {
    let ids: Vec<DiffId> = stack.iter().map(|tar| diff_id(tar)).collect();
    let mut ingest = store.begin_ingest(ids.clone(), Some(named(blob)), None)?;
    write_all(&mut ingest, blob).await?;
    let below =
        async { store.find_stack(&ids[..ids.len() - 1]).ok_or(Error::MissingLayer { diff_id: ids[0].clone() }) };
    ingest.finish(below).await
}

async fn write_all(ingest: &mut Ingest, blob: &[u8]) -> Result<(), Error> {
    for piece in blob.chunks(10_000) {
        ingest.write(Bytes::copy_from_slice(piece)).await?;
    }
    Ok(())
}

/// Waits for the pipeline's threads, which clean up by themselves.
fn settles(store: &Store) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !layout::list(&store.root().join("staging")).unwrap().is_empty() {
        assert!(Instant::now() < deadline, "staging is not emptied");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn nothing_is_left(store: &Store) {
    settles(store);
    assert!(store.layers().is_empty());
    assert!(layout::list(&store.root().join("layers")).unwrap().is_empty());
}

#[tokio::test]
async fn a_layer_is_the_same_however_its_blob_is_compressed() {
    let tar = alone();
    let zstd = zstd::bulk::compress(&tar, 3).unwrap();
    for blob in [tar.clone(), gzip(&tar), zstd] {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let ingested = ingest(&store, &[&tar], &blob).await.unwrap();
        assert_eq!(ingested.key, LayerKey::Diff(diff_id(&tar)));
        assert_eq!(ingested.fetched_bytes, blob.len() as u64);
        let info = store.layer(&ingested.key).unwrap();
        assert_eq!((info.disk_bytes, info.entries), (ingested.disk_bytes, 3));
        assert_eq!(info.source.blob, Some(Digest::sha256_of(&blob)));
        let mut rebuilt = Vec::new();
        store.rebuild_tar(&ingested.key, &mut rebuilt).unwrap();
        assert!(rebuilt == tar);
        assert!(store.check(true).unwrap().is_sound());
        settles(&store);
        drop(store);
        let store = self::store(dir.path());
        assert_eq!(store.find_layer(&[diff_id(&tar)]), Some(ingested.key));
        assert!(store.check(true).unwrap().is_sound());
    }
}

#[tokio::test]
async fn layers_of_both_drivers_live_side_by_side_and_on_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (base, upper) = (alone(), bound());
    let first = store(dir.path());
    ingest(&first, &[&base], &gzip(&base)).await.unwrap();
    settles(&first);
    drop(first);
    let store = unpacking(dir.path());
    ingest(&store, &[&base, &upper], &gzip(&upper)).await.unwrap();
    let keys = store.find_stack(&[diff_id(&base), diff_id(&upper)]).unwrap();
    let drivers: Vec<_> = keys.iter().map(|key| store.layer(key).unwrap().driver).collect();
    assert_eq!(drivers, [crate::store::driver::Driver::Erofs, crate::store::driver::Driver::Directory]);
    for (key, tar) in keys.iter().zip([&base, &upper]) {
        let mut rebuilt = Vec::new();
        store.rebuild_tar(key, &mut rebuilt).unwrap();
        assert!(rebuilt == *tar);
    }
    let merged = store.merged(&keys).unwrap();
    assert!(merged.node(Path::new("etc/issue")).unwrap().is_some());
    assert!(merged.node(Path::new("etc/hosts")).unwrap().is_some());
    assert!(store.check(true).unwrap().is_sound());
    store.sweep(&crate::store::SweepOptions::default()).unwrap();
    nothing_is_left(&store);
}

#[tokio::test]
async fn a_layer_that_needs_its_base_is_kept_by_its_chain() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (base, upper) = (alone(), bound());
    ingest(&store, &[&base], &gzip(&base)).await.unwrap();
    let ingested = ingest(&store, &[&base, &upper], &gzip(&upper)).await.unwrap();
    let stack = [diff_id(&base), diff_id(&upper)];
    assert_eq!(ingested.key, LayerKey::Chain(ChainId::of(&stack).unwrap()));
    assert_eq!(store.find_layer(&stack), Some(ingested.key));
    assert_eq!(store.find_layer(&stack[1..]), None);
    assert!(store.check(true).unwrap().is_sound());
}

#[tokio::test]
async fn a_lowest_layer_that_declares_no_parents_needs_nothing_below() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let tar = bound();
    let mut ingest = store.begin_ingest(vec![diff_id(&tar)], None, Some(Compression::None)).unwrap();
    write_all(&mut ingest, &tar).await.unwrap();
    let ingested = ingest.finish(std::future::pending()).await.unwrap();
    assert!(matches!(ingested.key, LayerKey::Chain(_)));
}

#[tokio::test]
async fn what_stands_alone_does_not_wait_for_what_is_below() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (base, tar) = (bound(), alone());
    let mut ingest = store.begin_ingest(vec![diff_id(&base), diff_id(&tar)], None, None).unwrap();
    write_all(&mut ingest, &tar).await.unwrap();
    let ingested = ingest.finish(std::future::pending()).await.unwrap();
    assert_eq!(ingested.key, LayerKey::Diff(diff_id(&tar)));
}

#[tokio::test]
async fn layers_below_that_cannot_be_had_say_so_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (base, tar) = (alone(), bound());
    let error = ingest(&store, &[&base, &tar], &gzip(&tar)).await.unwrap_err();
    assert!(matches!(&error, Error::MissingLayer { diff_id: id } if *id == diff_id(&base)), "{error:?}");
    nothing_is_left(&store);
}

#[tokio::test]
async fn a_blob_that_is_not_what_was_named_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let tar = alone();
    let blob = gzip(&tar);
    let run = async |expected: Option<(Digest, u64)>, sent: &[u8], id: DiffId| {
        let mut ingest = store.begin_ingest(vec![id], expected, Some(Compression::Gzip)).unwrap();
        match write_all(&mut ingest, sent).await {
            Ok(()) => ingest.finish(std::future::pending()).await.unwrap_err(),
            Err(error) => error,
        }
    };
    let id = || diff_id(&tar);
    let size = |by: u64| Some((Digest::sha256_of(&blob), by));
    assert!(matches!(run(size(10), &blob, id()).await, Error::Size { want: 10, .. }));
    assert!(matches!(run(size(1 << 40), &blob, id()).await, Error::Size { .. }));
    assert!(matches!(run(Some(named(&blob)), &blob[..blob.len() - 9], id()).await, Error::Size { .. }));
    let mut flipped = blob.clone();
    flipped[blob.len() / 2] ^= 0x10;
    assert!(matches!(run(Some(named(&blob)), &flipped, id()).await, Error::Digest { what: "layer blob", .. }));
    assert!(matches!(run(Some(named(&flipped)), &flipped, id()).await, Error::Inflate { .. }));
    let other = DiffId(Digest::sha256_of(b"other"));
    assert!(matches!(run(Some(named(&blob)), &blob, other).await, Error::Digest { what: "layer content", .. }));
    assert!(matches!(run(None, &blob[..100], id()).await, Error::Inflate { .. }));
    assert!(matches!(run(None, b"", id()).await, Error::Inflate { .. } | Error::Convert { .. } | Error::Digest { .. }));
    nothing_is_left(&store);
}

#[tokio::test]
async fn a_blob_with_a_sha512_digest_is_checked_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let tar = bound();
    let digest = Digest::of(crate::oci::Algorithm::Sha512, &tar);
    for (sent, good) in [(tar.clone(), true), ([&tar[..tar.len() - 1], b"x"].concat(), false)] {
        let blob = Some((digest.clone(), tar.len() as u64));
        let mut ingest = store.begin_ingest(vec![diff_id(&tar)], blob, None).unwrap();
        write_all(&mut ingest, &sent).await.unwrap();
        let result = ingest.finish(std::future::pending()).await;
        assert_eq!(result.is_ok(), good, "{result:?}");
    }
}

#[tokio::test]
async fn a_bomb_stops_at_its_budget_and_a_bad_tar_at_its_first_fault() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { tar_bytes: 1 << 20, ..Limits::default() };
    let options = Options { driver: DriverChoice::Erofs, limits, ..Options::new(dir.path()) };
    let store = Store::open(&options).unwrap();
    let bomb = gzip(&Tar::new().file("zeros", &vec![0; 8 << 20]).end());
    let mut ingest = store.begin_ingest(vec![diff_id(b"")], Some(named(&bomb)), None).unwrap();
    let written = write_all(&mut ingest, &bomb).await;
    let error = match written {
        Ok(()) => ingest.finish(std::future::pending()).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(
        matches!(&error, Error::Inflate { source: convert::inflate::InflateError::Budget { .. }, .. }),
        "{error:?}"
    );
    let junk = vec![0x41; 512 << 10];
    let mut ingest = store.begin_ingest(vec![diff_id(&junk)], None, Some(Compression::None)).unwrap();
    let written = write_all(&mut ingest, &junk).await;
    let error = match written {
        Ok(()) => ingest.finish(std::future::pending()).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, Error::Convert { .. }), "{error:?}");
    nothing_is_left(&store);
}

#[tokio::test]
async fn an_ingest_that_is_dropped_leaves_nothing_and_no_thread_waits() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let tar = alone();
    let mut ingest = store.begin_ingest(vec![diff_id(&tar)], None, None).unwrap();
    write_all(&mut ingest, &gzip(&tar)[..50_000]).await.unwrap();
    drop(ingest);
    nothing_is_left(&store);
    // Given up while it waits for the layers below, too.
    let (base, upper) = (alone(), bound());
    let mut ingest = store.begin_ingest(vec![diff_id(&base), diff_id(&upper)], None, None).unwrap();
    write_all(&mut ingest, &upper).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(50), ingest.finish(std::future::pending()));
    assert!(waiting.await.is_err());
    nothing_is_left(&store);
}

#[test]
fn a_thread_without_a_runtime_can_ingest_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (base, upper) = (alone(), bound());
    let mut ingest = store.begin_ingest(vec![diff_id(&base)], None, None).unwrap();
    ingest.write_blocking(Bytes::from(gzip(&base))).unwrap();
    let below = ingest.finish_blocking(|| Ok(Vec::new())).unwrap().key;
    let mut ingest = store.begin_ingest(vec![diff_id(&base), diff_id(&upper)], None, None).unwrap();
    ingest.write_blocking(Bytes::from(upper)).unwrap();
    let ingested = ingest.finish_blocking(|| Ok(vec![below])).unwrap();
    assert!(matches!(ingested.key, LayerKey::Chain(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_layer_from_many_sides_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let tar = alone();
    let blob = gzip(&tar);
    let results = futures_util::future::join_all((0..4).map(async |_| ingest(&store, &[&tar], &blob).await)).await;
    assert!(results.iter().all(|result| result.as_ref().unwrap().key == LayerKey::Diff(diff_id(&tar))));
    settles(&store);
    assert_eq!(layout::list(&store.root().join("layers")).unwrap().len(), 1);
    assert!(store.check(true).unwrap().is_sound());
}

#[tokio::test]
async fn damage_is_found_by_the_look_that_is_deep_enough_and_repaired_by_an_ingest() {
    let tar = alone();
    type Harm = fn(&Path);
    let harms: [(&str, bool, Harm); 5] = [
        ("gone", false, |dir| std::fs::remove_dir_all(dir).unwrap()),
        ("file gone", false, |dir| std::fs::remove_file(dir.join("layer.erofs")).unwrap()),
        ("truncated", false, |dir| {
            let file = std::fs::File::options().write(true).open(dir.join("layer.erofs")).unwrap();
            file.set_len(file.metadata().unwrap().len() - 4096).unwrap();
        }),
        ("metadata flipped", false, |dir| flip(&dir.join("layer.erofs"), |len| len - 300)),
        ("data flipped", true, |dir| flip(&dir.join("layer.erofs"), |len| len / 2)),
    ];
    for (harm, full, inflict) in harms {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let key = ingest(&store, &[&tar], &tar).await.unwrap().key;
        inflict(&store.layer(&key).unwrap().dir);
        assert_eq!(store.check(false).unwrap().is_sound(), full, "{harm}");
        assert!(!store.check(true).unwrap().is_sound(), "{harm}");
        assert_eq!(store.find_layer(&[diff_id(&tar)]), None, "{harm}");
        assert!(matches!(store.verify(&key), Err(Error::Damaged { .. })), "{harm}");
        ingest(&store, &[&tar], &tar).await.unwrap();
        assert!(store.check(true).unwrap().is_sound(), "{harm}");
        assert_eq!(store.find_layer(&[diff_id(&tar)]), Some(key), "{harm}");
        settles(&store);
    }
}

/// Flips one bit of a file that only its owner may read.
fn flip(path: &Path, at: impl FnOnce(u64) -> u64) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let at = at(file.metadata().unwrap().len());
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}
