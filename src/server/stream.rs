//! The framing of streams: what both sides speak after an HTTP upgrade (`Upgrade: lamina-stream/1`).
//!
//! ```text
//! frame   := channel(1 byte) length(4 bytes, big endian, ≤ MAX_PAYLOAD) payload(length bytes)
//! channel := 0 stdin │ 1 stdout │ 2 stderr │ 3 control
//! ```
//!
//! - A frame of length 0 on 0, 1 or 2 is the end of that channel (half-close); nothing follows on it.
//! - The payload of channel 3 is one JSON object, a [`Control`]: `{"resize":{…}}`, `{"signal":…}` and `"detach"` go to the agent,
//!   `started`, `progress`, `note`, `exit` and `failed` come from it. `exit` or `failed` is always the last frame.
//! - A connection that ends without either means that the agent (or the client) went away; a container that was
//!   started with `--rm` is then removed, an exec's process keeps running as under Kubernetes.
//! - With a terminal only channel 1 carries output. Unknown channels and longer frames are a protocol error.

use bytes::{Buf as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::problem::Problem;

/// The protocol's name in the `Upgrade` header.
pub const PROTOCOL: &str = "lamina-stream/1";

/// The longest payload of one frame. Bounds what a peer can make us hold; four times what a pipe gives in one read.
pub const MAX_PAYLOAD: usize = 256 * 1024;

/// Channel and length.
const HEADER: usize = 5;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// To the command.
    Stdin = 0,
    /// From the command, or the one stream of data where there is no command.
    Stdout = 1,
    /// From the command.
    Stderr = 2,
    /// A [`Control`] message.
    Control = 3,
}

impl Channel {
    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Stdin),
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            3 => Some(Self::Control),
            _ => None,
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::Control => 3,
        }
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where it belongs.
    pub channel: Channel,
    /// What it carries; empty: the channel's end.
    pub payload: Bytes,
}

/// A message beside the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Control {
    /// The client's terminal has a new size.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// The client was sent this signal, and hands it on.
    Signal(i32),
    /// The client leaves; the command keeps its terminal, and what it writes there is for nobody.
    Detach,
    /// The command runs; the pod it runs in.
    Started {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Work goes on; the shape belongs to the route (a pull: `image::Progress` as JSON).
    Progress(serde_json::Value),
    /// A line for a person.
    Note(String),
    /// The last frame: the command's exit status (128 + signal when a signal ended it), and the result where the
    /// route has one.
    Exit {
        /// 0 to 255.
        status: u8,
        /// What the route returns.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<serde_json::Value>,
    },
    /// The last frame: it did not come that far.
    Failed(Problem),
}

/// Why a stream cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A channel that this version does not know.
    #[error("the stream has a frame on the unknown channel {0}")]
    Channel(u8),
    /// A frame past [`MAX_PAYLOAD`].
    #[error("the stream has a frame of {0} bytes, more than {MAX_PAYLOAD}")]
    TooLong(usize),
    /// The peer went away within a frame.
    #[error("the stream ended within a frame")]
    Cut,
    /// A control message that is not one.
    #[error("the stream has a control message that cannot be read")]
    Control(#[source] serde_json::Error),
    /// The connection failed.
    #[error("the stream failed")]
    Io(#[from] std::io::Error),
}

/// Takes the first frame out of `buffer`; `None` when it is not whole yet.
///
/// # Errors
/// If the header is not one of this protocol.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, Error> {
    let Some((&[byte, a, b, c, d], _)) = buffer.split_first_chunk::<HEADER>() else { return Ok(None) };
    let channel = Channel::from_byte(byte).ok_or(Error::Channel(byte))?;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > MAX_PAYLOAD {
        return Err(Error::TooLong(length));
    }
    if buffer.len() < HEADER + length {
        buffer.reserve(HEADER + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEADER);
    Ok(Some(Frame { channel, payload: buffer.split_to(length).freeze() }))
}

/// Appends `payload` to `out` as frames, as many as it needs; an empty payload is one empty frame, the channel's end.
pub fn encode(channel: Channel, payload: &[u8], out: &mut BytesMut) {
    let mut push = |part: &[u8]| {
        // A part is at most MAX_PAYLOAD long, which fits.
        let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
        out.reserve(HEADER + part.len());
        out.extend_from_slice(&[channel.byte()]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(part);
    };
    if payload.is_empty() {
        push(&[]);
    }
    payload.chunks(MAX_PAYLOAD).for_each(push);
}

/// Reads frames from one half of a connection.
#[derive(Debug)]
pub struct Reader<R> {
    io: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads from `io`.
    pub fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::with_capacity(16 * 1024) }
    }

    /// The next frame; `None` when the peer closed the connection between two.
    ///
    /// Cancel-safe: what was read stays in the reader.
    ///
    /// # Errors
    /// If the connection fails, or what it carries is not this protocol.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            if let Some(frame) = decode(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(Error::Cut) };
            }
        }
    }
}

/// Writes frames to one half of a connection.
#[derive(Debug)]
pub struct Writer<W> {
    io: W,
    buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes to `io`.
    pub fn new(io: W) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// Sends `payload` on `channel`; an empty one is not sent (see [`Writer::end`]).
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn send(&mut self, channel: Channel, payload: &[u8]) -> Result<(), Error> {
        if payload.is_empty() {
            return Ok(());
        }
        self.put(channel, payload).await
    }

    /// Ends `channel`.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn end(&mut self, channel: Channel) -> Result<(), Error> {
        self.put(channel, &[]).await
    }

    /// Sends a control message.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn control(&mut self, message: &Control) -> Result<(), Error> {
        let json = serde_json::to_vec(message).map_err(Error::Control)?;
        if json.len() > MAX_PAYLOAD {
            return Err(Error::TooLong(json.len()));
        }
        self.put(Channel::Control, &json).await
    }

    async fn put(&mut self, channel: Channel, payload: &[u8]) -> Result<(), Error> {
        self.buffer.clear();
        encode(channel, payload, &mut self.buffer);
        self.io.write_all(&self.buffer).await?;
        self.io.flush().await?;
        Ok(())
    }
}

impl Frame {
    /// The control message of a frame on the control channel.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn control(&self) -> Result<Control, Error> {
        serde_json::from_slice(&self.payload).map_err(Error::Control)
    }
}

pub mod bridge;
#[cfg(test)]
mod tests;
