//! The wire form of requests and pushes.

use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::frame::{Error, MAX_BODY, MAX_FDS, MAX_QUEUED, Received, Receiver, Sender};
use super::*;

fn file(content: &str) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file.rewind().unwrap();
    file.into()
}

fn text(fd: OwnedFd) -> String {
    let mut text = String::new();
    std::fs::File::from(fd).read_to_string(&mut text).unwrap();
    text
}

fn next(receiver: &mut Receiver, socket: &UnixStream) -> frame::Frame {
    loop {
        if let Some(frame) = receiver.take().unwrap() {
            return frame;
        }
        assert_eq!(receiver.receive(socket).unwrap(), Received::Some);
    }
}

#[test]
fn descriptors_arrive_with_their_own_message_though_all_lie_in_the_socket_at_once() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut sender = Sender::default();
    sender.push(&"none", vec![]).unwrap();
    sender.push(&"one", vec![file("a")]).unwrap();
    sender.push(&"none again", vec![]).unwrap();
    sender.push(&"two", vec![file("b"), file("c")]).unwrap();
    assert!(sender.flush(&ours).unwrap());

    let mut receiver = Receiver::default();
    let expected: [(&str, &[&str]); 4] = [("none", &[]), ("one", &["a"]), ("none again", &[]), ("two", &["b", "c"])];
    for (body, fds) in expected {
        let frame = next(&mut receiver, &theirs);
        assert_eq!(frame.message::<String>().unwrap(), body);
        assert_eq!(frame.fds.into_iter().map(text).collect::<Vec<_>>(), fds);
    }
}

#[test]
fn a_closed_socket_ends_between_frames_and_is_an_error_inside_one() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut receiver = Receiver::default();
    ours.write_all(&[200, 0, 0, 0, 0, 0, 0, 0, b'"']).unwrap();
    drop(ours);
    receiver.receive(&theirs).unwrap();
    assert!(receiver.take().unwrap().is_none());
    assert!(matches!(receiver.receive(&theirs), Err(Error::Cut)));

    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(ours);
    assert_eq!(Receiver::default().receive(&theirs).unwrap(), Received::End);
}

#[test]
fn headers_are_refused_one_past_the_limits_and_taken_at_them() {
    let header = |length: usize, fds: u8, zero: u8| {
        let l = u32::try_from(length).unwrap().to_le_bytes();
        [l[0], l[1], l[2], l[3], fds, zero, 0, 0]
    };
    let after = |bytes: &[u8]| {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(bytes).unwrap();
        let mut receiver = Receiver::default();
        receiver.receive(&theirs).unwrap();
        receiver.take().map(|_| ())
    };
    assert!(after(&header(MAX_BODY, 0, 0)).is_ok());
    assert!(matches!(after(&header(MAX_BODY + 1, 0, 0)), Err(Error::Header { .. })));
    let too_many = u8::try_from(MAX_FDS + 1).unwrap();
    assert!(matches!(after(&header(1, too_many, 0)), Err(Error::Header { .. })));
    assert!(matches!(after(&header(1, 0, 1)), Err(Error::Header { .. })));
    assert!(matches!(after(&header(1, 1, 0)), Err(Error::Descriptors { have: 0, announced: 1 })));
}

#[test]
fn a_peer_that_does_not_read_costs_bounded_memory() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut sender = Sender::default();
    let message = "x".repeat(1 << 20);
    let mut pushed = 0;
    let stalled = loop {
        match sender.push(&message, vec![]) {
            Ok(()) => pushed += 1,
            Err(e) => break e,
        }
        sender.flush(&ours).unwrap();
    };
    assert!(matches!(stalled, Error::Stalled(_)));
    assert!(pushed <= MAX_QUEUED >> 20);
}

#[test]
fn versions_meet_at_the_newest_that_both_speak() {
    let v = |oldest, newest| Versions { oldest, newest };
    assert_eq!(v(1, 2).common(v(2, 3)), Some(2));
    assert_eq!(v(1, 1).common(v(1, 4)), Some(1));
    assert_eq!(v(1, 1).common(v(2, 3)), None);
}

#[test]
fn the_hello_of_version_one_is_what_it_always_was() {
    let text = r#"{"hello":{"versions":{"oldest":1,"newest":1},"build":"b","boot":"o","pod":"p","pid":7}}"#;
    let hello = Hello { versions: VERSIONS, build: "b".into(), boot: "o".into(), pod: "p".into(), pid: 7 };
    assert_eq!(serde_json::to_string(&ToShim::Hello(hello)).unwrap(), text);
    let newer = text.replace(r#""pid":7"#, r#""pid":7,"later":{}"#);
    assert!(matches!(serde_json::from_str(&newer).unwrap(), FromShim::Hello(Hello { pid: 7, .. })));
}

proptest! {
    #[test]
    fn frames_survive_any_cut_of_the_stream(
        bodies in prop::collection::vec("[a-z]{0,4000}", 1..8),
        cuts in prop::collection::vec(1_usize..9000, 0..20),
    ) {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut stream = Vec::new();
        for body in &bodies {
            let json = serde_json::to_vec(body).unwrap();
            stream.extend_from_slice(&u32::try_from(json.len()).unwrap().to_le_bytes());
            stream.extend_from_slice(&[0; 4]);
            stream.extend_from_slice(&json);
        }
        let mut receiver = Receiver::default();
        let mut seen = Vec::new();
        let mut cuts = cuts.into_iter();
        while !stream.is_empty() {
            let cut = cuts.next().unwrap_or(usize::MAX).min(stream.len());
            ours.write_all(&stream.drain(..cut).collect::<Vec<_>>()).unwrap();
            ours.shutdown_if(stream.is_empty());
            theirs.set_nonblocking(true).unwrap();
            while let Ok(Received::Some) = receiver.receive(&theirs) {
                while let Some(frame) = receiver.take().unwrap() {
                    seen.push(frame.message::<String>().unwrap());
                }
            }
        }
        prop_assert_eq!(seen, bodies);
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 1..3000)) {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&noise).unwrap();
        drop(ours);
        let mut receiver = Receiver::default();
        while let Ok(Received::Some) = receiver.receive(&theirs) {
            while let Ok(Some(frame)) = receiver.take() {
                let _ = frame.message::<ToShim>();
            }
        }
    }
}

trait ShutdownIf {
    fn shutdown_if(&self, now: bool);
}

impl ShutdownIf for UnixStream {
    fn shutdown_if(&self, now: bool) {
        if now {
            self.shutdown(std::net::Shutdown::Write).unwrap();
        }
    }
}
