//! Tests of the capped decompressor.

use std::io::Write as _;

use flate2::write::GzEncoder;

use super::*;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn expand(c: Option<Compression>, budget: u64, step: usize, data: &[u8]) -> Result<Vec<u8>, InflateError> {
    let mut inflate = Inflate::new(c, budget);
    let mut all = Vec::new();
    for piece in data.chunks(step) {
        inflate.feed(piece, &mut |bytes| {
            all.extend_from_slice(bytes);
            Ok(())
        })?;
    }
    inflate.finish()?;
    Ok(all)
}

fn sample() -> Vec<u8> {
    (0..700_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
}

#[test]
fn every_format_expands_in_any_split() {
    let data = sample();
    for (c, blob) in
        [(Compression::None, data.clone()), (Compression::Gzip, gzip(&data)), (Compression::Zstd, zstd(&data))]
    {
        for step in [1, 3, 511, 1 << 20] {
            if step == 1 && c == Compression::None {
                continue;
            }
            for given in [Some(c), None] {
                assert!(expand(given, 1 << 30, step, &blob).unwrap() == data, "{c:?} {step}");
            }
        }
    }
}

#[test]
fn several_members_are_one_stream() {
    for make in [gzip, zstd] {
        let blob = [make(b"one "), make(b""), make(b"two")].concat();
        for step in [1, 2, 1000] {
            assert_eq!(expand(None, 100, step, &blob).unwrap(), b"one two");
        }
    }
}

#[test]
fn what_follows_the_last_member_is_refused() {
    for make in [gzip, zstd] {
        for junk in [&b"\0"[..], b"junk that is no member", &[0; 4096]] {
            let blob = [make(b"one"), junk.to_vec()].concat();
            for step in [1, 5000] {
                assert!(matches!(expand(None, 100, step, &blob), Err(InflateError::Damaged { .. })), "{junk:?}");
            }
        }
    }
}

#[test]
fn a_stream_that_is_cut_off_is_refused() {
    let data = sample();
    for make in [gzip, zstd] {
        let blob = make(&data);
        for keep in [0, 1, 4, 10, blob.len() / 2, blob.len() - 1] {
            let c = Some(Compression::sniff(&blob));
            assert!(matches!(expand(c, 1 << 30, 4096, &blob[..keep]), Err(InflateError::Damaged { .. })), "{keep}");
        }
    }
    assert!(matches!(expand(None, 10, 1, &[0x1f, 0x8b, 0]), Err(InflateError::Damaged { .. })));
}

#[test]
fn a_bomb_stops_at_the_budget() {
    let data = vec![0; 10 << 20];
    for blob in [data.clone(), gzip(&data), zstd(&data)] {
        assert_eq!(expand(None, 10 << 20, 4096, &blob).unwrap().len(), 10 << 20);
        assert!(matches!(expand(None, (10 << 20) - 1, 4096, &blob), Err(InflateError::Budget { .. })));
    }
}

#[test]
fn a_zstd_window_beyond_the_limit_is_refused() {
    // A frame header without a content size; the window descriptor's exponent is the window's log less 10.
    for (log, fine) in [(ZSTD_WINDOW_LOG, true), (ZSTD_WINDOW_LOG + 1, false), (31, false)] {
        let descriptor = u8::try_from(log - 10).unwrap() << 3;
        // One empty last raw block.
        let blob = [0x28, 0xb5, 0x2f, 0xfd, 0, descriptor, 1, 0, 0];
        assert_eq!(expand(Some(Compression::Zstd), 10, 100, &blob).is_ok(), fine, "{log}");
    }
}

#[test]
fn a_flipped_bit_is_found() {
    let mut blob = gzip(&sample());
    let middle = blob.len() / 2;
    blob[middle] ^= 1;
    assert!(expand(Some(Compression::Gzip), 1 << 30, 4096, &blob).is_err());
}
