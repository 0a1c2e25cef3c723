//! Programs run, with their streams, terminals and exit codes.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use lamina::runtime::launch::{self, Error, ExecLaunch, Stage, Stdio};
use lamina::sys::cgroup::Limits;

use crate::Test;
use crate::host::{Host, bind, built, container, end, kill, pipe, said};

pub(crate) const TESTS: &[Test] = &[
    ("a_program_runs_and_its_code_comes_back", a_program_runs_and_its_code_comes_back),
    ("a_program_that_is_not_there_is_127_and_one_that_cannot_run_126", not_there_and_not_executable),
    ("a_terminal_is_the_containers_own", a_terminal_is_the_containers_own),
    ("standard_input_reaches_the_program", standard_input_reaches_the_program),
    ("a_process_joins_a_running_container", a_process_joins_a_running_container),
    ("a_joined_process_may_have_a_terminal", a_joined_process_may_have_a_terminal),
    ("volumes_are_where_they_should_be", volumes_are_where_they_should_be),
    ("running_out_of_memory_is_counted", running_out_of_memory_is_counted),
    ("what_is_written_goes_to_the_upper_directory_alone", what_is_written_goes_to_the_upper_directory_alone),
    ("a_caller_with_threads_is_refused", a_caller_with_threads_is_refused),
    ("starts_are_quick", starts_are_quick),
];

fn a_program_runs_and_its_code_comes_back() {
    let host = Host::new();
    let (code, said) = host.script("echo out; echo err >&2; echo $$ $HOME $HOSTNAME; pwd; exit 7");
    assert_eq!((code, said.as_str()), (7, "out\nerr\n1 /root p\n/\n"));
    let (code, _) = Host::new().script("kill -9 $$; sleep 1; kill -TERM $$; exit 3");
    assert_eq!(code, 3, "the first process of a pid namespace is not killed by its own signals");
}

fn not_there_and_not_executable() {
    for (command, code) in [("nothing", 127), ("/bin/nothing", 127), ("/not-executable", 126), ("/etc", 126)] {
        let host = Host::new();
        let error = host.run(&built(&format!(r#""command":["{command}"]"#), "{}", ""), &[]).unwrap_err();
        assert_eq!(error.exit_code(), code, "{command}: {error}");
        assert!(error.to_string().contains(command), "{error}");
    }
    let (code, said) = Host::new().run(&built(r#""command":["sh","-c","echo found"]"#, "{}", ""), &[]).unwrap();
    assert_eq!((code, said.as_str()), (0, "found\n"));
}

fn a_terminal_is_the_containers_own() {
    let host = Host::new();
    let container = container("tty; stty size; ls -1 /dev/pts; echo >/dev/console console", r#","tty":true"#, "{}");
    let child = host.start(&container, &[], Stdio::Terminal { size: Some((33, 99)) }).unwrap();
    let said = said(child.terminal.as_ref().unwrap().try_clone().unwrap());
    assert_eq!(end(&child), 0);
    assert_eq!(said, "/dev/pts/0\r\n33 99\r\n0\r\nptmx\r\nconsole\r\n");
}

fn standard_input_reaches_the_program() {
    let host = Host::new();
    let ((in_read, in_write), (out_read, out_write)) = (pipe(), pipe());
    let stdio = Stdio::Fds { stdin: Some(in_read.as_fd()), stdout: Some(out_write.as_fd()), stderr: None };
    let child = host.start(&container("cat", "", "{}"), &[], stdio).unwrap();
    drop((in_read, out_write));
    std::fs::File::from(in_write).write_all(b"through").unwrap();
    assert_eq!((said(out_read).as_str(), end(&child)), ("through", 0));
}

fn a_process_joins_a_running_container() {
    let host = Host::new();
    let container = container("echo kept >/tmp/x; sleep 60", "", r#"{"runAsUser":0}"#);
    let init = host.start(&container, &[], Stdio::Fds { stdin: None, stdout: None, stderr: None }).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !host.path("upper/tmp/x").exists() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    let script =
        "cat /tmp/x; cat /proc/1/comm; ls /proc/self/fd; cat /proc/self/cgroup | sed 's/.*://' | sort -u; exit 9";
    let script = script.replace("sed", "/bin/busybox sed").replace("sort", "/bin/busybox sort");
    let (code, said) = host.exec(&init, &container, &script).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((code, lines.get(..2).unwrap()), (9, ["kept", "sleep"].as_slice()), "{said}");
    assert_eq!(lines.get(2..6).unwrap(), ["0", "1", "2", "3"], "only what ls opens itself: {said}");
    assert_eq!(lines.get(6).unwrap(), &"/", "the group is the root of its namespace: {said}");
    let error = host.exec(&init, &container, "\0").unwrap_err();
    assert!(matches!(error, Error::Step { stage: Stage::Exec, .. }), "{error}");
    // The caller's own children are where they were.
    let status = std::process::Command::new("true").status().unwrap();
    assert!(status.success());
    kill(&init);
    assert!(host.exec(&init, &container, "true").is_err());
}

fn a_joined_process_may_have_a_terminal() {
    let host = Host::new();
    let container = container("sleep 60", "", "{}");
    let init = host.start(&container, &[], Stdio::Fds { stdin: None, stdout: None, stderr: None }).unwrap();
    let process = container.process(["sh", "-c", "tty; stty size"].map(str::to_owned).to_vec(), true);
    let child = launch::exec(&ExecLaunch {
        init: init.pidfd.as_fd(),
        process: &process,
        cgroup: &host.cgroup,
        stdio: Stdio::Terminal { size: Some((5, 6)) },
        users: None,
    })
    .unwrap();
    assert_eq!(said(child.terminal.as_ref().unwrap().try_clone().unwrap()), "/dev/pts/0\r\n5 6\r\n");
    assert_eq!(end(&child), 0);
    kill(&init);
}

fn volumes_are_where_they_should_be() {
    let host = Host::new();
    for (dir, file) in [("data", "one"), ("data/sub", "two"), ("other", "three")] {
        fs::create_dir_all(host.path(dir)).unwrap();
        fs::write(host.path(dir).join(file), file).unwrap();
    }
    let (data, other, hosts) = (host.path("data"), host.path("other"), host.path("other/three"));
    let mut read_only = bind(&other, "/ro");
    read_only.read_only = true;
    let mut part = bind(&data, "/part");
    part.sub_path = Some("sub");
    let binds = [bind(&other, "/data/deep/er"), bind(&data, "/data/deep"), bind(&hosts, "/etc/hosts"), read_only, part];
    let script = "cat /data/deep/one /data/deep/er/three /etc/hosts /part/two; touch /data/deep/new; touch /ro/no";
    let (code, said) = host.run(&container(script, "", "{}"), &binds).unwrap();
    assert_eq!(said, "onethreethreetwotouch: /ro/no: Read-only file system\n");
    assert_eq!(code, 1);
    assert!(host.path("data/new").exists());
}

fn running_out_of_memory_is_counted() {
    let host = Host::with(&Limits { memory_max: Some(24 << 20), swap_max: Some(0), ..Limits::default() }, |_, _| {});
    let (code, _) = host.script("tail /dev/zero");
    assert_eq!((code, host.cgroup.oom_kills()), (137, 1));
}

fn what_is_written_goes_to_the_upper_directory_alone() {
    let host = Host::new();
    assert_eq!(host.script("echo new >/etc/passwd; echo x >/file").0, 0);
    assert_eq!(fs::read_to_string(host.path("upper/file")).unwrap(), "x\n");
    assert!(fs::read_to_string(host.path("layer/etc/passwd")).unwrap().starts_with("root"));
    assert!(!host.path("layer/file").exists());
}

fn a_caller_with_threads_is_refused() {
    let host = Host::new();
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv());
    let result = host.run(&container("true", "", "{}"), &[]);
    assert!(matches!(result, Err(Error::Fork { .. })));
    drop(stop);
    assert!(thread.join().unwrap().is_err());
}

/// Tells how quick; a busy machine fails no test.
fn starts_are_quick() {
    let mut times = Vec::new();
    for _ in 0..20 {
        let host = Host::new();
        let container = built(r#""command":["/bin/true"]"#, "{}", "");
        let begin = Instant::now();
        let child = host.start(&container, &[], Stdio::Fds { stdin: None, stdout: None, stderr: None }).unwrap();
        let started = begin.elapsed();
        assert_eq!(end(&child), 0);
        times.push((started, begin.elapsed()));
    }
    times.sort();
    let (started, ended) = times[times.len() / 2];
    println!("start: median {started:?}, to exit {ended:?}");
}
