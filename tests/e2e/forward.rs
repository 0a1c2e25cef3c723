//! `port-forward`: into a pod's own network, to its loopback, through services, over restarts.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};

use crate::support::node::Node;
use crate::support::wait;

/// A running `port-forward`.
struct Forward {
    child: Child,
    /// By the port that they lead to, in the order asked.
    ports: Vec<u16>,
    err: BufReader<ChildStderr>,
}

impl Forward {
    fn start(node: &Node, target: &str, pairs: &[&str]) -> Self {
        let mut line = vec!["port-forward", target, "--address", "127.0.0.1"];
        line.extend(pairs);
        let mut child = node.command(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        let err = BufReader::new(child.stderr.take().unwrap());
        let mut port = || {
            let line = out.next().map(Result::unwrap).unwrap_or_default();
            let at = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|l| l.split(' ').next());
            at.unwrap_or_else(|| panic!("{line}")).parse().unwrap()
        };
        let ports = pairs.iter().map(|_| port()).collect();
        Self { child, ports, err }
    }

    fn ask(port: u16, question: &[u8]) -> std::io::Result<Vec<u8>> {
        Self::exchange(TcpStream::connect(("127.0.0.1", port))?, question)
    }

    fn exchange(mut stream: TcpStream, question: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut writer = stream.try_clone()?;
        let question = question.to_vec();
        let asking = std::thread::spawn(move || {
            writer.write_all(&question)?;
            // The other way stays open: what comes back comes after this.
            writer.shutdown(Shutdown::Write)
        });
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        asking.join().unwrap()?;
        Ok(answer)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: echo, labels: { app: echo } }
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - { name: app, image: "IMAGE", imagePullPolicy: IfNotPresent, command: [busybox, nc, -ll, -p, "7000", -e, cat] }
  # It listens on the loopback alone: nobody outside the pod reaches it.
  - { name: web, image: "IMAGE", imagePullPolicy: IfNotPresent, command: [sh, -c, "echo page > /data/index.html; exec httpd -f -p 127.0.0.1:8080 -h /data"],
      ports: [{ name: http, containerPort: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { name: web }
spec: { selector: { app: echo }, ports: [{ name: web, port: 80, targetPort: http }] }
"#;

#[test]
fn ports_lead_into_the_pod_and_each_way_ends_by_itself() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("pods.yaml", &PODS.replace("IMAGE", &image));
    node.running("echo");
    let forward = Forward::start(&node, "echo", &[":7000", ":http"]);
    let (echo, web) = (forward.ports[0], forward.ports[1]);
    let long: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let answer = wait("the echo answers", || Forward::ask(echo, &long).ok().filter(|a| !a.is_empty()));
    assert!(answer == long, "{} of {} bytes came back", answer.len(), long.len());
    let page = |port| Forward::ask(port, b"GET / HTTP/1.0\r\n\r\n").ok().filter(|a| a.ends_with(b"page\n"));
    wait("the page comes", || page(web));
    // Many at once do not meet. They come one after another: the echo's queue is short.
    let streams: Vec<TcpStream> = (0..8_u8)
        .map(|n| {
            let mut stream = TcpStream::connect(("127.0.0.1", echo)).unwrap();
            stream.write_all(&[n]).unwrap();
            let mut first = [0];
            stream.read_exact(&mut first).unwrap();
            assert_eq!(first, [n]);
            stream
        })
        .collect();
    let asked: Vec<_> = (0..8_u8)
        .zip(streams)
        .map(|(n, stream)| std::thread::spawn(move || Forward::exchange(stream, &vec![n; 100_000]).unwrap()))
        .collect();
    for (n, one) in asked.into_iter().enumerate() {
        let answer = one.join().unwrap();
        assert!(answer.len() == 100_000 && answer.iter().all(|b| usize::from(*b) == n), "{n}: {}", answer.len());
    }
    // A service's port leads to the pod's.
    let service = Forward::start(&node, "service/web", &[":80"]);
    wait("the page comes through the service", || page(service.ports[0]));

    // The container comes back, and so does the way to it.
    let pid = node.pid("echo", "web").to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    node.until("echo", "restarted", |p| {
        let all = p["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        all.iter().any(|c| c["name"] == "web" && c["restartCount"] == 1 && c["state"]["running"].is_object())
    });
    wait("the page comes again", || page(web));
    node.finish();
}

#[test]
fn what_cannot_be_reached_is_said_and_harms_nothing() {
    let node = Node::start();
    let (_, image) = node.busybox();
    node.manifest("pods.yaml", &PODS.replace("IMAGE", &image));
    node.running("echo");
    for (target, port, status, what) in [
        ("nobody", "80", 4, "nobody"),
        ("echo", "nothing", 4, "nothing"),
        ("service/web", "81", 4, "81"),
        ("configmap/web", "80", 1, "has no pods"),
        ("echo", "0:80", 2, "LOCAL:REMOTE"),
    ] {
        let said = node.lamina(&["port-forward", target, port]);
        assert!(said.status == status && said.err.contains(what), "{target} {port}: {} {}", said.status, said.err);
    }
    // Nothing listens there: whoever connects is told by a reset, the user by a line.
    let mut forward = Forward::start(&node, "pod/echo", &[":9"]);
    let error = Forward::ask(forward.ports[0], b"x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    let mut line = String::new();
    forward.err.read_line(&mut line).unwrap();
    assert!(line.contains("port 9 of pod default/echo") && line.contains("refused"), "{line}");
    drop(forward);
    node.finish();
}
