//! Framing under every cut and under noise.

use proptest::prelude::*;

use super::*;
use crate::server::problem::Reason;

fn channels() -> impl Strategy<Value = Channel> {
    prop_oneof![Just(Channel::Stdin), Just(Channel::Stdout), Just(Channel::Stderr), Just(Channel::Control)]
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in_however_the_bytes_are_cut(
        frames in prop::collection::vec((channels(), prop::collection::vec(any::<u8>(), 0..600)), 0..12),
        cuts in prop::collection::vec(1_usize..700, 1..40),
    ) {
        let mut wire = BytesMut::new();
        for (channel, payload) in &frames {
            encode(*channel, payload, &mut wire);
        }
        let (mut buffer, mut got, mut cuts) = (BytesMut::new(), Vec::new(), cuts.into_iter().cycle());
        while !wire.is_empty() {
            let n = cuts.next().unwrap().min(wire.len());
            buffer.extend_from_slice(&wire.split_to(n));
            while let Some(frame) = decode(&mut buffer).unwrap() {
                got.push((frame.channel, frame.payload.to_vec()));
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(got, frames);
    }

    #[test]
    fn noise_is_refused_or_waited_for_and_never_more_than_a_frame_is_held(noise in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut buffer = BytesMut::from(&noise[..]);
        while let Ok(Some(_)) = decode(&mut buffer) {}
        prop_assert!(buffer.capacity() <= MAX_PAYLOAD + HEADER + 128);
    }
}

#[test]
fn a_long_payload_is_cut_into_frames_at_the_limit() {
    let payload = vec![7; MAX_PAYLOAD + 1];
    let mut wire = BytesMut::new();
    encode(Channel::Stdout, &payload, &mut wire);
    assert_eq!(decode(&mut wire).unwrap().unwrap().payload.len(), MAX_PAYLOAD);
    assert_eq!(decode(&mut wire).unwrap().unwrap().payload.len(), 1);
    assert!(wire.is_empty());
}

#[test]
fn a_frame_one_past_the_limit_is_refused_before_its_payload_is_read() {
    let mut wire = BytesMut::from(&[1_u8][..]);
    wire.extend_from_slice(&u32::try_from(MAX_PAYLOAD + 1).unwrap().to_be_bytes());
    assert!(matches!(decode(&mut wire), Err(Error::TooLong(n)) if n == MAX_PAYLOAD + 1));
}

#[test]
fn an_unknown_channel_is_refused() {
    assert!(matches!(decode(&mut BytesMut::from(&[9_u8, 0, 0, 0, 0][..])), Err(Error::Channel(9))));
}

#[tokio::test]
async fn a_connection_cut_within_a_frame_is_an_error_and_between_two_an_end() {
    let mut wire = BytesMut::new();
    encode(Channel::Stdout, b"hello", &mut wire);
    let mut whole = Reader::new(&wire[..]);
    assert_eq!(whole.next().await.unwrap().unwrap().payload, "hello");
    assert!(whole.next().await.unwrap().is_none());
    assert!(matches!(Reader::new(&wire[..wire.len() - 1]).next().await, Err(Error::Cut)));
}

#[tokio::test]
async fn control_messages_cross_the_wire() {
    for message in [
        Control::Resize { rows: 24, columns: 80 },
        Control::Signal(15),
        Control::Exit { status: 137, result: None },
        Control::Failed(Problem::new(Reason::NoCommand, "no such file").hint("look at PATH")),
    ] {
        let mut wire = Vec::new();
        Writer::new(&mut wire).control(&message).await.unwrap();
        let frame = Reader::new(&wire[..]).next().await.unwrap().unwrap();
        assert_eq!((frame.channel, frame.control().unwrap()), (Channel::Control, message));
    }
}

#[tokio::test]
async fn an_empty_send_is_not_an_end() {
    let mut wire = Vec::new();
    Writer::new(&mut wire).send(Channel::Stdin, b"").await.unwrap();
    assert!(wire.is_empty());
    Writer::new(&mut wire).end(Channel::Stdin).await.unwrap();
    assert_eq!(wire, [0, 0, 0, 0, 0]);
}
