//! What a container, or someone in its directory, may do to a log, and what a reader must see all the same.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

struct Logs {
    dir: TempDir,
}

impl Logs {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn writer(&self) -> Writer {
        self.rotated(10 << 20, 5)
    }

    fn rotated(&self, size: u64, files: u32) -> Writer {
        Writer::open(self.dir.path(), Path::new("pod/app"), 0, Rotation { size, files }).unwrap()
    }

    fn container(&self) -> PathBuf {
        self.dir.path().join("pod/app")
    }

    fn raw(&self) -> String {
        fs::read_to_string(self.container().join("0.log")).unwrap()
    }

    fn lines(&self, query: &Query) -> Vec<Line> {
        let mut lines = Vec::new();
        read(&self.container(), 0, query, &mut |line| {
            lines.push(line);
            ControlFlow::Continue(())
        })
        .unwrap();
        lines
    }

    fn text(&self, query: &Query) -> String {
        print(&self.lines(query))
    }
}

fn print(lines: &[Line]) -> String {
    let mut out = Vec::new();
    for line in lines {
        line.print(&mut out, false).unwrap();
    }
    String::from_utf8(out).unwrap()
}

fn now() -> Timestamp {
    Timestamp::now()
}

#[test]
fn records_have_the_form_that_collectors_read() {
    let logs = Logs::new();
    let time: Timestamp = "2026-11-23T15:02:06.5Z".parse().unwrap();
    logs.writer().write(Stream::Stderr, b"hello world\n\n", time);
    let stamp = "2026-11-23T15:02:06.500000000Z";
    assert_eq!(logs.raw(), format!("{stamp} stderr F hello world\n{stamp} stderr F \n"));
}

#[test]
fn a_line_may_come_in_pieces_and_end_without_a_newline() {
    let logs = Logs::new();
    let mut writer = logs.writer();
    writer.write(Stream::Stdout, b"one ", now());
    writer.write(Stream::Stderr, b"between\n", now());
    writer.write(Stream::Stdout, b"line\nlast", now());
    assert_eq!(logs.text(&Query::default()), "between\none line\n");
    writer.end(Stream::Stdout, now());
    writer.end(Stream::Stdout, now());
    assert_eq!(logs.text(&Query::default()), "between\none line\nlast\n");
}

#[test]
fn a_long_line_is_cut_at_the_limit_and_put_together_again() {
    let logs = Logs::new();
    let mut writer = logs.writer();
    let at = "x".repeat(MAX_LINE);
    let line = "y".repeat(3 * MAX_LINE + 5);
    writer.write(Stream::Stdout, format!("{at}\n{line}\n").as_bytes(), now());
    let lines = logs.lines(&Query::default());
    assert_eq!(lines.iter().map(|l| l.partial).collect::<Vec<_>>(), [true, false, true, true, true, false]);
    assert!(lines.iter().all(|l| l.text.len() <= MAX_LINE));
    assert_eq!(print(&lines), format!("{at}\n{line}\n"));
    assert_eq!(logs.text(&Query { tail: Some(1), ..Query::default() }), format!("{line}\n"));
}

#[test]
fn files_are_rotated_by_size_and_the_oldest_goes() {
    let logs = Logs::new();
    let mut writer = logs.rotated(4096, 3);
    for n in 0..1000 {
        writer.write(Stream::Stdout, format!("line {n}\n").as_bytes(), now());
    }
    let mut names: Vec<_> =
        fs::read_dir(logs.container()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["0.log", "0.log.1", "0.log.2"]);
    assert!(names.iter().all(|n| fs::metadata(logs.container().join(n)).unwrap().len() <= 4096));
    let text = logs.text(&Query::default());
    assert!(text.ends_with("line 998\nline 999\n"));
    let first: u32 = text.lines().next().unwrap().trim_start_matches("line ").parse().unwrap();
    let numbers: Vec<_> = text.lines().map(|l| l.trim_start_matches("line ").parse::<u32>().unwrap()).collect();
    assert_eq!(numbers, (first..1000).collect::<Vec<_>>(), "no gap between files");
    assert_eq!(writer.dropped(), 0);
}

#[test]
fn an_only_file_starts_over_when_it_is_full() {
    let logs = Logs::new();
    let mut writer = logs.rotated(1000, 1);
    for n in 0..100 {
        writer.write(Stream::Stdout, format!("line {n}\n").as_bytes(), now());
    }
    assert_eq!(fs::read_dir(logs.container()).unwrap().count(), 1);
    assert!(logs.raw().len() <= 1000);
    assert!(logs.text(&Query::default()).ends_with("line 99\n"));
}

#[test]
fn tail_and_since_work_over_rotations() {
    let logs = Logs::new();
    let mut writer = logs.rotated(2000, 5);
    let begin: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    for n in 0..100_i64 {
        writer.write(Stream::Stdout, format!("{n}\n").as_bytes(), begin + SignedDuration::from_secs(n));
    }
    let query = |tail, since: Option<i64>| Query { tail, since: since.map(|s| begin + SignedDuration::from_secs(s)) };
    assert_eq!(logs.text(&query(Some(3), None)), "97\n98\n99\n");
    assert_eq!(logs.text(&query(Some(0), None)), "");
    assert_eq!(logs.text(&query(Some(90), None)).lines().count(), 90);
    assert_eq!(logs.text(&query(Some(100_000), None)).lines().count(), 100);
    assert_eq!(logs.text(&query(None, Some(98))), "98\n99\n");
    assert_eq!(logs.text(&query(Some(5), Some(98))), "98\n99\n");
    assert_eq!(logs.text(&query(None, Some(1000))), "");
}

#[test]
fn nothing_is_written_through_what_was_planted() {
    let logs = Logs::new();
    let canary = logs.dir.path().join("canary");
    let elsewhere = logs.dir.path().join("elsewhere");
    fs::write(&canary, "untouched").unwrap();
    fs::create_dir(&elsewhere).unwrap();

    // The directories.
    symlink(&elsewhere, logs.dir.path().join("pod")).unwrap();
    drop(logs.writer());
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    assert!(!fs::symlink_metadata(logs.dir.path().join("pod")).unwrap().is_symlink());

    // The file: a link, another name of some file, a FIFO, a directory.
    let log = logs.container().join("0.log");
    let plant: [&dyn Fn(); 4] = [
        &|| symlink(&canary, &log).unwrap(),
        &|| fs::hard_link(&canary, &log).unwrap(),
        &|| rustix::fs::mknodat(rustix::fs::CWD, &log, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap(),
        &|| fs::create_dir(&log).unwrap(),
    ];
    for plant in plant {
        fs::remove_file(&log).unwrap();
        plant();
        logs.writer().write(Stream::Stdout, b"line\n", now());
        assert_eq!(logs.text(&Query::default()), "line\n");
        assert_eq!(fs::read_to_string(&canary).unwrap(), "untouched");
    }
}

#[test]
fn nothing_is_written_through_what_was_planted_while_it_is_written() {
    let logs = Logs::new();
    let canary = logs.dir.path().join("canary");
    fs::write(&canary, "untouched").unwrap();
    let mut writer = logs.rotated(4096, 3);
    for n in 0..600 {
        if n % 50 == 0 {
            for name in ["0.log", "0.log.1", "0.log.2", "0.log.3"] {
                let path = logs.container().join(name);
                let _ = fs::remove_file(&path);
                symlink(&canary, path).unwrap();
            }
        }
        writer.write(Stream::Stdout, format!("line {n}\n").as_bytes(), now());
    }
    assert_eq!(fs::read_to_string(&canary).unwrap(), "untouched");
    let text = logs.text(&Query::default());
    assert!(!text.contains("untouched"));
}

#[test]
fn a_reader_does_not_follow_links_nor_wait_for_a_fifo() {
    let logs = Logs::new();
    let secret = logs.dir.path().join("secret");
    fs::write(&secret, "2026-01-01T00:00:00Z stdout F secret\n").unwrap();
    logs.writer().write(Stream::Stdout, b"line\n", now());
    symlink(&secret, logs.container().join("0.log.1")).unwrap();
    assert_eq!(logs.text(&Query::default()), "line\n");
    fs::rename(logs.dir.path().join("pod"), logs.dir.path().join("real")).unwrap();
    symlink(logs.dir.path().join("real"), logs.dir.path().join("pod")).unwrap();
    assert!(read(&logs.container(), 0, &Query::default(), &mut |_| ControlFlow::Continue(())).is_err());
    fs::remove_file(logs.dir.path().join("pod")).unwrap();
    assert_eq!(logs.text(&Query::default()), "", "no log is no error");
}

#[test]
fn what_is_no_record_is_passed_over() {
    let logs = Logs::new();
    let mut writer = logs.writer();
    writer.write(Stream::Stdout, b"before\n", now());
    let torn = "2026-01-01T00:00:00Z stdout F torn";
    let junk = format!("junk\n\n{}\n2026 stdout F x\n2026-01-01T00:00:00Z stdin F x\n", "z".repeat(100_000));
    let mut file = fs::OpenOptions::new().append(true).open(logs.container().join("0.log")).unwrap();
    std::io::Write::write_all(&mut file, junk.as_bytes()).unwrap();
    writer.write(Stream::Stdout, b"after\n", now());
    std::io::Write::write_all(&mut file, torn.as_bytes()).unwrap();
    assert_eq!(logs.text(&Query::default()), "before\nafter\n");
}

#[test]
fn logs_of_old_attempts_go_and_the_directory_with_the_last() {
    let logs = Logs::new();
    for attempt in 0..4 {
        let mut writer = Writer::open(logs.dir.path(), Path::new("pod/app"), attempt, Rotation { size: 100, files: 3 });
        let writer = writer.as_mut().unwrap();
        for _ in 0..5 {
            writer.write(Stream::Stdout, b"a line of some length\n", now());
        }
    }
    remove(&logs.container(), |attempt| attempt >= 2).unwrap();
    let names: Vec<_> =
        fs::read_dir(logs.container()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    assert!(names.iter().all(|n| n.starts_with('2') || n.starts_with('3')), "{names:?}");
    remove(&logs.container(), |_| false).unwrap();
    assert!(!logs.dir.path().join("pod").exists());
    remove(&logs.container(), |_| false).unwrap();
}

#[tokio::test]
async fn a_follower_sees_every_line_once_over_rotations() {
    let logs = Logs::new();
    let mut follow = Follow::new(&logs.container(), 0, Query::default());
    let writing = {
        let (dir, rotation) = (logs.dir.path().to_owned(), Rotation { size: 200_000, files: 5 });
        tokio::task::spawn_blocking(move || {
            let mut writer = Writer::open(&dir, Path::new("pod/app"), 0, rotation).unwrap();
            for n in 0..8000 {
                writer.write(Stream::Stdout, format!("{n}\n").as_bytes(), now());
            }
        })
    };
    let mut seen = Vec::new();
    while seen.len() < 8000 {
        let lines = tokio::time::timeout(std::time::Duration::from_secs(20), follow.next()).await;
        seen.extend(print(&lines.unwrap().unwrap()).lines().map(|l| l.parse::<u32>().unwrap()));
    }
    writing.await.unwrap();
    assert_eq!(seen, (0..8000).collect::<Vec<_>>());
    assert!(follow.rest().unwrap().is_empty());
}

#[tokio::test]
async fn a_follower_begins_with_the_tail_and_goes_on() {
    let logs = Logs::new();
    let mut writer = logs.writer();
    writer.write(Stream::Stdout, b"1\n2\n3\n", now());
    let mut follow = Follow::new(&logs.container(), 0, Query { tail: Some(1), ..Query::default() });
    assert_eq!(print(&follow.next().await.unwrap()), "3\n");
    writer.write(Stream::Stdout, b"4\n", now());
    assert_eq!(print(&follow.next().await.unwrap()), "4\n");
}

#[tokio::test]
async fn a_follower_that_wants_no_old_line_still_sees_the_new() {
    let logs = Logs::new();
    let mut writer = logs.writer();
    writer.write(Stream::Stdout, b"1\n2\n3\n", now());
    let mut follow = Follow::new(&logs.container(), 0, Query { tail: Some(0), ..Query::default() });
    assert!(follow.rest().unwrap().is_empty());
    writer.write(Stream::Stdout, b"4\n", now());
    assert_eq!(print(&follow.next().await.unwrap()), "4\n");
}

/// Short text with newlines, or much of it without.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z\n]{0,20}", 1 => (MAX_LINE - 2..MAX_LINE + 2).prop_map(|n| "x".repeat(n))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_written_is_read_whatever_the_pieces(
        pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(piece(), 1..4)), 1..12),
    ) {
        let logs = Logs::new();
        let mut writer = logs.writer();
        let (mut out, mut err) = (String::new(), String::new());
        for (is_out, text) in pieces {
            let text = text.concat();
            let (stream, all) = if is_out { (Stream::Stdout, &mut out) } else { (Stream::Stderr, &mut err) };
            all.push_str(&text);
            writer.write(stream, text.as_bytes(), now());
        }
        for (stream, mut all) in [(Stream::Stdout, out), (Stream::Stderr, err)] {
            writer.end(stream, now());
            let lines: Vec<_> = logs.lines(&Query::default()).into_iter().filter(|l| l.stream == stream).collect();
            // A line that ends exactly at the limit and then the stream: its end is not known to be one.
            let printed = print(&lines);
            if !all.is_empty() && !all.ends_with('\n') && printed.ends_with('\n') {
                all.push('\n');
            }
            prop_assert_eq!(printed, all);
        }
    }
}

#[test]
fn the_end_of_a_log_is_found_from_its_end_whatever_came_before() {
    let logs = Logs::new();
    let end = |lines, bytes| String::from_utf8(last(&logs.container(), 0, lines, bytes).unwrap()).unwrap();
    assert_eq!(end(80, 2048), "");
    let mut writer = logs.rotated(20_000, 5);
    for n in 0..1000 {
        writer.write(Stream::Stdout, format!("line {n}\n").as_bytes(), now());
    }
    writer.write(Stream::Stderr, b"no newline", now());
    writer.end(Stream::Stderr, now());
    assert!(logs.container().join("0.log.1").exists());
    assert_eq!(end(3, 2048), "line 998\nline 999\nno newline\n");
    assert_eq!(end(80, 2048).lines().count(), 80);
    assert_eq!(end(1000, 100).len(), 100);
    assert_eq!(end(0, 100), "");
    assert_eq!(end(2000, 1 << 20), logs.text(&Query::default()));
    writer.write(Stream::Stdout, "x".repeat(3 * MAX_LINE + 5).as_bytes(), now());
    writer.end(Stream::Stdout, now());
    assert_eq!(end(80, 2048), format!("{}\n", "x".repeat(2047)));
}
