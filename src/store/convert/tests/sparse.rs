//! Sparse files in every notation of GNU tar, the real one compared too.

use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use super::super::testing::{Head, Tar, convert, seal};
use super::super::{Conversion, Error, Limits};
use super::DRIVERS;
use crate::oci::{DiffId, Digest};
use crate::store::driver::Driver;

fn content(driver: Driver, dir: &Path, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    driver.open_tree(dir).unwrap().open(Path::new(name)).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn check(tar: &[u8], name: &str, want: &[u8]) {
    for driver in DRIVERS {
        let (dir, converted) = convert(driver, tar).unwrap();
        assert!(content(driver, dir.path(), name) == want, "{}", driver.name());
        assert_eq!(converted.content_bytes, want.len() as u64);
        driver.verify_full(dir.path(), &converted.seal, &DiffId(Digest::sha256_of(tar))).unwrap();
    }
}

/// 10,000 bytes with `ab` at 4096 and `cde` at 9000.
fn want() -> Vec<u8> {
    let mut want = vec![0; 10_000];
    want[4096..4098].copy_from_slice(b"ab");
    want[9000..9003].copy_from_slice(b"cde");
    want
}

#[test]
fn pax_sparse_files_of_all_versions_are_read() {
    let v00 = Tar::new().pax(&[
        ("GNU.sparse.size", b"10000"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.offset", b"4096"),
        ("GNU.sparse.numbytes", b"2"),
        ("GNU.sparse.offset", b"9000"),
        ("GNU.sparse.numbytes", b"3"),
    ]);
    check(&v00.file("s", b"abcde").end(), "s", &want());
    let v01 = Tar::new().pax(&[
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.size", b"10000"),
        ("GNU.sparse.map", b"4096,2,9000,3,10000,0"),
    ]);
    check(&v01.file("GNUSparseFile.1/s", b"abcde").end(), "s", &want());
    let v10: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.realsize", b"10000"),
    ];
    let mut data = b"2\n4096\n2\n9000\n3\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"abcde");
    check(&Tar::new().pax(v10).file("GNUSparseFile.1/s", &data).end(), "s", &want());
    check(&Tar::new().pax(v10).file("x", &[&b"0\n"[..], &[0; 510]].concat()).end(), "s", &[0; 10_000]);
}

#[test]
fn old_gnu_sparse_files_are_read_with_their_continuation_blocks() {
    let count = 30;
    let mut data = Vec::new();
    let mut want = vec![0; 40 * 5000];
    let mut segments = Vec::new();
    for n in 0..count {
        segments.push((n * 5000, 100));
        let part = vec![u8::try_from(n + 1).unwrap(); 100];
        want[n * 5000..n * 5000 + 100].copy_from_slice(&part);
        data.extend_from_slice(&part);
    }
    let pair = |(offset, length): (usize, usize)| format!("{offset:011o}\0{length:011o}\0").into_bytes();
    let mut head = Tar::header(&Head { name: "s", kind: b'S', ..Head::default() }, data.len() as u64);
    head[257..265].copy_from_slice(b"ustar  \0");
    head[345..386].fill(0);
    head[386..482].copy_from_slice(&segments[..4].iter().copied().flat_map(pair).collect::<Vec<_>>());
    head[482] = 1;
    head[483..495].copy_from_slice(format!("{:011o}\0", want.len()).as_bytes());
    seal(&mut head);
    let mut tar = Tar::new().raw(&head);
    for (at, part) in segments[4..].chunks(21).enumerate() {
        let mut block = part.iter().copied().flat_map(pair).collect::<Vec<_>>();
        block.resize(512, 0);
        block[504] = u8::from(at == 0);
        tar = tar.raw(&block);
    }
    data.resize(data.len().next_multiple_of(512), 0);
    check(&tar.raw(&data).end(), "s", &want);
}

#[test]
fn maps_that_lie_are_refused() {
    let sparse = |map: &[u8], size: &[u8], data: &[u8]| {
        Tar::new().pax(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)]).file("s", data).end()
    };
    for bad in [
        sparse(b"0,2,1,2", b"9", b"abcd"),
        sparse(b"4,2,0,2", b"9", b"abcd"),
        sparse(b"8,2", b"9", b"ab"),
        sparse(b"0,2", b"9", b"abc"),
        sparse(b"0,4", b"9", b"abc"),
        sparse(b"18446744073709551615,2", b"9", b"ab"),
        Tar::new().pax(&[("GNU.sparse.map", b"0,1")]).file("s", b"a").end(),
        Tar::new().pax(&[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0")]).file("s", b"a").end(),
    ] {
        assert!(matches!(convert(Driver::Erofs, &bad), Err(Error::Malformed { .. })));
    }
    let v10: &[(&str, &[u8])] =
        &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"10")];
    for map in [&b"9999999999\n"[..], b"x\n", b"1\n0\n", b"111111111111111111111111\n"] {
        let mut data = map.to_vec();
        data.resize(512, 0);
        assert!(convert(Driver::Erofs, &Tar::new().pax(v10).file("s", &data).end()).is_err());
    }
}

#[test]
fn a_huge_sparse_file_takes_no_room_and_counts_against_the_budget() {
    let sparse = |size: u64| {
        Tar::new()
            .pax(&[("GNU.sparse.size", size.to_string().as_bytes()), ("GNU.sparse.map", b"0,1")])
            .file("s", b"a")
            .end()
    };
    for driver in DRIVERS {
        let (_dir, converted) = convert(driver, &sparse(8 << 30)).unwrap();
        assert!(converted.disk_bytes < 1 << 20, "{}", converted.disk_bytes);
        assert!(matches!(convert(driver, &sparse(100 << 30)), Err(Error::Limit { .. })));
    }
}

#[test]
fn what_gnu_tar_writes_is_what_is_read() {
    let work = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(work.path().join("s")).unwrap();
    use std::os::unix::fs::FileExt as _;
    for n in 0..40_u64 {
        file.write_all_at(&[7; 5000], n * 70_000).unwrap();
    }
    file.set_len(5_000_000).unwrap();
    let want = std::fs::read(work.path().join("s")).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=pax"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=0.0"],
    ] {
        let out = Command::new("tar").arg("-C").arg(work.path()).arg("-cS").args(format).arg("s").output().unwrap();
        assert!(out.status.success());
        assert!(out.stdout.len() < 1_000_000, "not sparse");
        check(&out.stdout, "s", &want);
    }
}

#[test]
fn pieces_of_any_size_give_the_same_sparse_file() {
    let mut data = b"2\n4096\n2\n9000\n3\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"abcde");
    let v10: &[(&str, &[u8])] =
        &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"10000")];
    let tar = Tar::new().pax(v10).file("s", &data).end();
    for step in [1, 2, 3, 7, 512, 513] {
        let dir = tempfile::tempdir().unwrap();
        let mut conversion = Conversion::begin(Driver::Erofs, dir.path(), &Limits::default()).unwrap();
        tar.chunks(step).for_each(|piece| conversion.feed(piece).unwrap());
        conversion.finish([0; 16], &mut || unreachable!()).unwrap();
        assert!(content(Driver::Erofs, dir.path(), "s") == want());
    }
}
