//! `cargo bench`: the parts whose speed users feel, each on input made here.

#![expect(clippy::unwrap_used, reason = "a benchmark without its input has nothing to say")]

use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use flate2::write::GzEncoder;
use lamina::oci::{DiffId, Digest};
use lamina::store::convert::{Compression, Conversion, Inflate, Limits};
use lamina::store::driver::{Driver, DriverChoice};
use lamina::store::{Access, ImageDocuments, Options, Proof, RefKind, Store, SweepOptions};

/// A tar of `files` files of `size` bytes that compress about threefold, as programs do.
fn tar(files: usize, size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut seed = 1_u64;
    let mut entry = |name: &str, kind: u8, content: &[u8]| {
        let mut head = [0_u8; 512];
        head[..name.len()].copy_from_slice(name.as_bytes());
        head[100..108].copy_from_slice(b"0000755\0");
        head[108..116].copy_from_slice(b"0000000\0");
        head[116..124].copy_from_slice(b"0000000\0");
        head[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        head[136..148].copy_from_slice(b"14524770400\0");
        head[148..156].copy_from_slice(b"        ");
        head[156] = kind;
        head[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    };
    entry("d/", b'5', b"");
    for n in 0..files {
        let mut content = Vec::with_capacity(size);
        while content.len() < size {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            content.extend_from_slice(&seed.to_le_bytes()[2..6]);
            content.extend_from_slice(b"abcdefgh");
        }
        content.truncate(size);
        entry(&format!("d/file-{n}"), b'0', &content);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn layers(c: &mut Criterion) {
    let plain = tar(4_000, 16 << 10);
    let packed = gzip(&plain);
    let mut group = c.benchmark_group("layer of 64 MiB");
    group.sample_size(10).throughput(Throughput::Bytes(plain.len() as u64));
    group.bench_function("inflate", |b| {
        b.iter(|| {
            let mut inflate = Inflate::new(Some(Compression::Gzip), 1 << 40);
            let mut total = 0;
            inflate
                .feed(&packed, &mut |out: &[u8]| {
                    total += out.len();
                    Ok::<(), lamina::store::convert::InflateError>(())
                })
                .unwrap();
            black_box(total)
        });
    });
    group.bench_function("convert to EROFS", |b| {
        b.iter_batched(
            || tempfile::tempdir().unwrap(),
            |dir| {
                let mut conversion = Conversion::begin(Driver::Erofs, dir.path(), &Limits::default()).unwrap();
                for piece in plain.chunks(256 << 10) {
                    conversion.feed(piece).unwrap();
                }
                conversion.finish([1; 16], &mut || unreachable!("the layer stands alone")).unwrap();
                dir
            },
            BatchSize::PerIteration,
        );
    });
    let (blob, diff_id) = (Digest::sha256_of(&packed), DiffId(Digest::sha256_of(&plain)));
    let bytes = Bytes::from(packed.clone());
    group.bench_function("whole pass into the store", |b| {
        b.iter_batched(
            || {
                let dir = tempfile::tempdir().unwrap();
                let store = open(dir.path());
                (dir, store)
            },
            |(dir, store)| {
                let named = Some((blob.clone(), bytes.len() as u64));
                let mut ingest = store.begin_ingest(vec![diff_id.clone()], named, Some(Compression::Gzip)).unwrap();
                for at in (0..bytes.len()).step_by(64 << 10) {
                    ingest.write_blocking(bytes.slice(at..bytes.len().min(at + (64 << 10)))).unwrap();
                }
                ingest.finish_blocking(|| Ok(Vec::new())).unwrap();
                (dir, store)
            },
            BatchSize::PerIteration,
        );
    });
}

fn open(root: &Path) -> Store {
    let mut options = Options::new(root);
    options.driver = DriverChoice::Directory;
    Store::open(&options).unwrap()
}

/// 10,000 layers in 1,000 images that are all held: nothing to free, the sweep that runs most often.
fn sweep(c: &mut Criterion) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = open(dir.path());
    let mut diff_ids = Vec::new();
    for n in 0..10_000_u32 {
        let mut layer = tar(0, 0);
        // Another name, another layer: the directory's modification time.
        layer[136..147].copy_from_slice(format!("{n:011o}").as_bytes());
        layer[148..156].copy_from_slice(b"        ");
        let sum: u32 = layer[..512].iter().map(|b| u32::from(*b)).sum();
        layer[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let diff_id = DiffId(Digest::sha256_of(&layer));
        let mut ingest = store.begin_ingest(vec![diff_id.clone()], None, None).unwrap();
        ingest.write_blocking(layer.into()).unwrap();
        ingest.finish_blocking(|| Ok(Vec::new())).unwrap();
        diff_ids.push(diff_id);
    }
    for (n, stack) in diff_ids.chunks(10).enumerate() {
        let stack: Vec<String> = stack.iter().map(|d| format!("\"{d}\"")).collect();
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            stack.join(",")
        );
        let layer = r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}"#;
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{}]}}"#,
            Digest::sha256_of(config.as_bytes()),
            config.len(),
            [layer; 10].join(",")
        );
        let image = store
            .put_image(ImageDocuments {
                index: None,
                manifest: manifest.into_bytes(),
                config: config.into_bytes(),
                access: Access::by(Proof::Local),
            })
            .unwrap();
        store.hold(RefKind::Pod, &format!("pod-{n}"), &image.manifest).unwrap();
    }
    c.bench_function("sweep of 10,000 layers, nothing to free", |b| {
        b.iter(|| black_box(store.plan_sweep(&SweepOptions::default())));
    });
}

criterion_group!(parts, layers, sweep);
criterion_main!(parts);
