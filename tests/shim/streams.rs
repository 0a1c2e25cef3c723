//! Outputs, inputs, terminals, execs.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use lamina::runtime::protocol::{Attach, Stdio, Target};

use crate::pod::{Pod, exec, target, until};

fn pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    std::io::pipe().unwrap()
}

/// Reads to the end on a thread of its own.
fn collect(reader: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut reader = reader;
        let mut bytes = Vec::new();
        // A terminal whose last user has gone ends with an error.
        let _ = reader.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

const OUT: Attach = Attach { stdin: false, stdout: true, stderr: true, wait: true };

#[tokio::test]
async fn output_and_errors_are_in_the_log_each_as_what_it_is() {
    let mut pod = Pod::new().await;
    pod.run(pod.sh("a", 0, "echo out; echo err >&2; printf 'no newline'")).await;
    let raw = std::fs::read_to_string(pod.config.container_logs("a").join("0.log")).unwrap();
    assert!(raw.contains(" stdout F out\n"), "{raw}");
    assert!(raw.contains(" stderr F err\n"), "{raw}");
    assert!(raw.contains(" stdout F no newline\n"), "{raw}");
    pod.end().await;
}

#[tokio::test]
async fn a_viewer_from_the_start_gets_every_byte_and_then_the_end() {
    let mut pod = Pod::new().await;
    let ((out, out_writer), (err, err_writer)) = (pipe(), pipe());
    let start = pod.sh("a", 0, "seq 200000; echo err >&2").attach(OUT, vec![out_writer.into(), err_writer.into()]);
    let (out, err) = (collect(out), collect(err));
    assert_eq!(pod.run(start).await.code, 0);
    let out = out.join().unwrap();
    assert_eq!(out.lines().count(), 200_000);
    assert!(out.ends_with("200000\n"));
    assert_eq!(err.join().unwrap(), "err\n");
    assert_eq!(pod.log("a", 0).lines().count(), 200_001);
    pod.end().await;
}

#[tokio::test]
async fn a_viewer_that_waits_holds_the_container_and_one_that_does_not_is_cut_off() {
    let mut pod = Pod::new().await;
    let (slow, slow_writer) = pipe();
    let attach = Attach { stdout: true, wait: true, ..Attach::default() };
    let status = pod.start(pod.sh("a", 0, "seq 300000; echo done >&2").attach(attach, vec![slow_writer.into()])).await;
    // Pipes full, the shim holds one chunk, the container cannot write: it has not come to its last line.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(std::path::Path::new(&format!("/proc/{}", status.pid)).exists());
    assert!(!pod.log("a", 0).contains("done"));
    let slow = collect(slow);
    assert_eq!(pod.exit("a", 0).await.code, 0);
    assert_eq!(slow.join().unwrap().lines().count(), 300_000);

    let (lazy, lazy_writer) = pipe();
    let attach = Attach { stdout: true, ..Attach::default() };
    let exit = pod.run(pod.sh("a", 1, "seq 300000; echo done >&2").attach(attach, vec![lazy_writer.into()])).await;
    assert_eq!(exit.code, 0);
    assert!(collect(lazy).join().unwrap().lines().count() < 300_000);
    assert_eq!(pod.log("a", 1).lines().count(), 300_001);
    pod.end().await;
}

#[tokio::test]
async fn a_viewer_that_goes_away_does_not_hold_the_container() {
    let mut pod = Pod::new().await;
    let (gone, writer) = pipe();
    let attach = Attach { stdout: true, wait: true, ..Attach::default() };
    pod.start(pod.sh("a", 0, "seq 300000").attach(attach, vec![writer.into()])).await;
    drop(gone);
    assert_eq!(pod.exit("a", 0).await.code, 0);
    assert_eq!(pod.log("a", 0).lines().count(), 300_000);
    pod.end().await;
}

#[tokio::test]
async fn input_reaches_the_container_and_ends_when_it_is_closed() {
    let mut pod = Pod::new().await;
    pod.start(pod.command("a", 0, &["/bin/cat"]).stdin(false)).await;
    // Two clients one after another, then the end.
    for text in ["first\n", "second\n"] {
        let (reader, mut writer) = pipe();
        let attach = Attach { stdin: true, ..Attach::default() };
        pod.client.attach(target("a", 0), attach, vec![reader.into()]).await.unwrap();
        writer.write_all(text.as_bytes()).unwrap();
        pod.says("a", 0, text).await;
    }
    pod.client.close_stdin(target("a", 0)).await.unwrap();
    assert_eq!(pod.exit("a", 0).await.code, 0);

    let (reader, mut writer) = pipe();
    let attach = Attach { stdin: true, ..Attach::default() };
    let once = pod.command("a", 1, &["/bin/wc", "-c"]).stdin(true).attach(attach, vec![reader.into()]);
    pod.start(once).await;
    let large = vec![b'x'; 1 << 20];
    std::thread::spawn(move || writer.write_all(&large).unwrap());
    assert_eq!(pod.exit("a", 1).await.code, 0);
    assert_eq!(pod.log("a", 1).trim(), (1 << 20).to_string());
    pod.end().await;
}

#[tokio::test]
async fn a_container_without_input_reads_its_end_at_once() {
    let mut pod = Pod::new().await;
    assert_eq!(pod.run(pod.command("a", 0, &["/bin/cat"])).await.code, 0);
    let attach = Attach { stdin: true, ..Attach::default() };
    pod.start(pod.command("a", 1, &["/bin/sleep", "1000"])).await;
    assert!(pod.client.attach(target("a", 1), attach, vec![pipe().0.into()]).await.is_err());
    pod.end().await;
}

#[tokio::test]
async fn a_terminal_has_the_size_that_it_is_told_and_takes_input() {
    let mut pod = Pod::new().await;
    let ((input, mut writer), (out, out_writer)) = (pipe(), pipe());
    let attach = Attach { stdin: true, stdout: true, stderr: false, wait: true };
    let script = "tty; stty size; read x; stty size; echo got $x; exit 5";
    let start = pod.sh("a", 0, script).tty(80, 24).attach(attach, vec![input.into(), out_writer.into()]);
    let out = collect(out);
    pod.start(start).await;
    pod.says("a", 0, "24 80").await;
    pod.client.resize(target("a", 0), 132, 50).await.unwrap();
    writer.write_all(b"hello\n").unwrap();
    assert_eq!(pod.exit("a", 0).await.code, 5);
    let out = out.join().unwrap();
    assert!(out.contains("/dev/pts/0"), "{out}");
    assert!(out.contains("50 132"), "{out}");
    assert!(out.contains("got hello"), "{out}");
    pod.end().await;
}

#[tokio::test]
async fn an_exec_has_its_own_streams_and_status() {
    let mut pod = Pod::new().await;
    pod.start(pod.command("a", 0, &["/bin/sleep", "1000"])).await;
    let ((input, mut input_writer), (out, out_writer), (err, err_writer)) = (pipe(), pipe(), pipe());
    let all = Stdio { stdin: true, stdout: true, stderr: true };
    let request = exec("a", 0, &["/bin/sh", "-c", "cat; echo $$; hostname; echo err >&2; exit 9"], all);
    let fds: Vec<OwnedFd> = vec![input.into(), out_writer.into(), err_writer.into()];
    let execed = pod.client.exec(request, fds).await.unwrap();
    assert!(execed.master.is_none());
    input_writer.write_all(b"hello\n").unwrap();
    drop(input_writer);
    let out = collect(out).join().unwrap();
    assert!(out.starts_with("hello\n"), "{out}");
    assert!(out.ends_with("in-a-test\n"), "{out}");
    assert_eq!(collect(err).join().unwrap(), "err\n");
    assert_eq!(pod.exec_exit(execed.id).await.code, 9);
    assert!(pod.client.status().await.unwrap().execs.is_empty());
    pod.end().await;
}

#[tokio::test]
async fn an_exec_with_a_terminal_hands_its_master_over() {
    let mut pod = Pod::new().await;
    pod.start(pod.command("a", 0, &["/bin/sleep", "1000"])).await;
    let mut request = exec("a", 0, &["/bin/sh", "-c", "tty; stty size; read x; echo got $x"], Stdio::default());
    request.process.process.set_terminal(Some(true));
    request.size = Some((100, 40));
    let execed = pod.client.exec(request, vec![]).await.unwrap();
    let master = std::fs::File::from(execed.master.unwrap());
    (&master).write_all(b"hello\n").unwrap();
    let out = collect(master).join().unwrap();
    assert!(out.contains("/dev/pts/"), "{out}");
    assert!(out.contains("40 100"), "{out}");
    assert!(out.contains("got hello"), "{out}");
    assert_eq!(pod.exec_exit(execed.id).await.code, 0);
    pod.end().await;
}

#[tokio::test]
async fn an_exec_can_be_signalled_and_ends_with_its_container() {
    let mut pod = Pod::new().await;
    pod.start(pod.command("a", 0, &["/bin/sleep", "1000"])).await;
    let first = pod.client.exec(exec("a", 0, &["/bin/sleep", "1000"], Stdio::default()), vec![]).await.unwrap();
    let second = pod.client.exec(exec("a", 0, &["/bin/sleep", "1000"], Stdio::default()), vec![]).await.unwrap();
    pod.client.signal(Target::Exec { id: first.id }, 15, false).await.unwrap();
    assert_eq!(pod.exec_exit(first.id).await.signal, Some(15));
    pod.client.signal(target("a", 0), 9, false).await.unwrap();
    // Either may be reaped first.
    until("both to end", || !std::path::Path::new(&format!("/proc/{}", second.pid)).exists()).await;
    let late = pod.client.exec(exec("a", 0, &["/bin/true"], Stdio::default()), vec![]).await;
    assert!(late.is_err());
    pod.end().await;
}

#[tokio::test]
async fn an_exec_of_nothing_that_is_there_says_so_and_leaves_nothing() {
    let pod = Pod::new().await;
    pod.start(pod.command("a", 0, &["/bin/sleep", "1000"])).await;
    let failed = pod.client.exec(exec("a", 0, &["/bin/nowhere"], Stdio::default()), vec![]).await;
    match failed {
        Err(lamina::runtime::client::Error::Refused(failure)) => assert_eq!(failure.kind.exit_code(), 127),
        other => panic!("{other:?}"),
    }
    assert!(pod.client.status().await.unwrap().execs.is_empty());
    pod.end().await;
}

#[tokio::test]
async fn a_flood_is_rotated_and_costs_the_shim_no_memory() {
    let mut pod = Pod::new().await;
    let memory = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let shim = pod.client.hello().pid;
    let before = memory(shim);
    // 100 MB in lines, then one line of 20 MB.
    let script =
        "yes 0123456789012345678901234567890123456789 | head -c 100000000; head -c 20000000 /dev/zero; echo; echo end";
    assert_eq!(pod.run(pod.sh("a", 0, script)).await.code, 0);
    let sizes: Vec<u64> = std::fs::read_dir(pod.config.container_logs("a"))
        .unwrap()
        .map(|e| e.unwrap().metadata().unwrap().len())
        .collect();
    assert_eq!(sizes.len(), 5, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 10 << 20), "{sizes:?}");
    assert!(pod.log("a", 0).ends_with("\nend\n"));
    assert!(memory(shim) < before + 512, "{before} KiB became {} KiB", memory(shim));
    pod.end().await;
}
