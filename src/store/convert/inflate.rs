//! Decompression with a budget: the only place where compressed bytes of a registry are expanded.
//!
//! Several gzip members or zstd frames in a row are one stream, as RFC 1952 and RFC 8878 have it (pigz, eStargz and
//! zstd:chunked make such blobs); anything else after the last one is refused.

use std::fmt;

use zstd::stream::raw::{DParameter, Operation as _};

use crate::sys::igzip::Gunzip;

/// Why a compressed stream was refused.
#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    /// The stream is not what its media type says, or is cut off.
    #[error("{format} stream is damaged: {what}")]
    Damaged {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// What was found.
        what: String,
    },
    /// The stream expands to more than it may.
    #[error("layer expands to more than {budget} bytes")]
    Budget {
        /// The limit in bytes.
        budget: u64,
    },
    /// Who takes the expanded bytes refused them.
    #[error("cannot take expanded bytes")]
    Out(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames.
    Zstd,
}

impl Compression {
    /// What a layer's media type says; `None` when it says nothing that is known.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        match media_type {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Some(Self::None),
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Some(Self::Gzip),
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// What the first bytes of a blob look like (four are enough).
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Largest zstd window that is accepted: what `zstd` itself accepts unless told otherwise, and what `--long` makes.
/// A frame may ask for 2 GiB, and the decoder would have to hold that.
pub const ZSTD_WINDOW_LOG: u32 = 27;

/// Expanded bytes that [`Inflate::feed`] hands on at once.
const CHUNK: usize = 256 << 10;

/// How much of a blob [`Compression::sniff`] looks at.
const SNIFF: usize = 4;

/// A decompression under way: push compressed bytes in, get expanded ones out.
pub struct Inflate {
    decoder: Decoder,
    left: u64,
    budget: u64,
    chunk: Vec<u8>,
}

impl fmt::Debug for Inflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflate").field("left", &self.left).field("budget", &self.budget).finish_non_exhaustive()
    }
}

enum Decoder {
    /// Known, and made with the first byte.
    Unmade(Compression),
    /// Too few bytes seen to know.
    Sniffing {
        start: [u8; SNIFF],
        have: usize,
    },
    Plain,
    /// `open` is true inside a member, of which `given` bytes were expanded.
    Gzip {
        stream: Gunzip,
        open: bool,
        given: u64,
        members: u64,
    },
    /// `open` is true inside a frame.
    Zstd {
        context: Box<zstd::stream::raw::Decoder<'static>>,
        open: bool,
    },
}

impl Decoder {
    fn new(compression: Compression) -> Result<Self, InflateError> {
        Ok(match compression {
            Compression::None => Self::Plain,
            Compression::Gzip => Self::Gzip { stream: Gunzip::new(), open: false, given: 0, members: 0 },
            Compression::Zstd => {
                let mut context = zstd::stream::raw::Decoder::new().map_err(|e| damaged("zstd", e))?;
                context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG)).map_err(|e| damaged("zstd", e))?;
                Self::Zstd { context: Box::new(context), open: true }
            }
        })
    }

    /// One step: bytes taken from `input`, bytes written to `out`.
    fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<(usize, usize), InflateError> {
        match self {
            // `Inflate::fill` replaces them before it steps.
            Self::Unmade(_) | Self::Sniffing { .. } => Ok((0, 0)),
            Self::Plain => {
                let n = input.len().min(out.len());
                if let (Some(to), Some(from)) = (out.get_mut(..n), input.get(..n)) {
                    to.copy_from_slice(from);
                }
                Ok((n, n))
            }
            Self::Gzip { stream, open, given, members } => {
                if input.is_empty() && !*open {
                    return Ok((0, 0));
                }
                if !*open {
                    if *members > 0 {
                        stream.reset();
                    }
                    (*open, *given) = (true, 0);
                }
                let step = stream.step(input, out).map_err(|what| {
                    let what = if *members > 0 && *given == 0 {
                        "what follows the last member is not another one".to_owned()
                    } else {
                        what.to_owned()
                    };
                    InflateError::Damaged { format: "gzip", what }
                })?;
                *given += step.given as u64;
                if step.ended {
                    *open = false;
                    *members += 1;
                    if (step.taken, step.given) == (0, 0) {
                        // Nothing was done, and yet there may be more to do.
                        return self.step(input, out);
                    }
                }
                Ok((step.taken, step.given))
            }
            Self::Zstd { context, open } => {
                let status = context.run_on_buffers(input, out).map_err(|e| damaged("zstd", e))?;
                // With nothing in and nothing out the call only repeats how much the next frame would need.
                if status.bytes_read > 0 || status.bytes_written > 0 {
                    *open = status.remaining != 0;
                }
                Ok((status.bytes_read, status.bytes_written))
            }
        }
    }
}

fn damaged(format: &'static str, e: std::io::Error) -> InflateError {
    InflateError::Damaged { format, what: e.to_string() }
}

impl Inflate {
    /// Expands at most `budget` bytes. With no `compression` given the first bytes decide.
    pub fn new(compression: Option<Compression>, budget: u64) -> Self {
        let decoder = compression.map_or(Decoder::Sniffing { start: [0; SNIFF], have: 0 }, Decoder::Unmade);
        Self { decoder, left: budget, budget, chunk: Vec::new() }
    }

    /// Takes the next compressed bytes and hands expanded ones to `out`, in pieces of at most 256 KiB.
    ///
    /// # Errors
    /// If the stream is damaged, expands beyond the budget, or `out` refuses.
    pub fn feed(
        &mut self,
        mut input: &[u8],
        out: &mut dyn FnMut(&[u8]) -> Result<(), InflateError>,
    ) -> Result<(), InflateError> {
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.resize(CHUNK, 0);
        loop {
            let n = self.fill(&mut input, &mut chunk)?;
            if n > 0 {
                out(chunk.get(..n).unwrap_or_default())?;
            }
            if n < chunk.len() {
                self.chunk = chunk;
                return Ok(());
            }
        }
    }

    /// Expands into `out` and advances `input`; gives the number of bytes written. Fewer than `out` holds means that
    /// all input was used. This is [`Inflate::feed`] for callers that own their buffers.
    ///
    /// # Errors
    /// If the stream is damaged or expands beyond the budget.
    pub fn fill(&mut self, input: &mut &[u8], out: &mut [u8]) -> Result<usize, InflateError> {
        let mut done = 0;
        if let Decoder::Unmade(compression) = &self.decoder {
            self.decoder = Decoder::new(*compression)?;
        }
        if let Decoder::Sniffing { start, have } = &mut self.decoder {
            while *have < SNIFF
                && let Some((first, rest)) = input.split_first()
                && let Some(place) = start.get_mut(*have)
            {
                *place = *first;
                *have += 1;
                *input = rest;
            }
            if *have < SNIFF {
                return Ok(0);
            }
            let start = *start;
            done = self.start(&start, out)?;
        }
        while done < out.len() {
            let room = out.get_mut(done..).unwrap_or_default();
            let (taken, given) = self.decoder.step(input, room)?;
            *input = input.get(taken..).unwrap_or_default();
            self.spend(given)?;
            done += given;
            if taken == 0 && given == 0 {
                break;
            }
        }
        Ok(done)
    }

    /// Chooses the decoder by what the blob starts with, and gives it those bytes. They are too few to fill a buffer.
    fn start(&mut self, start: &[u8], out: &mut [u8]) -> Result<usize, InflateError> {
        self.decoder = Decoder::new(Compression::sniff(start))?;
        let (mut input, mut done) = (start, 0);
        while !input.is_empty() {
            let (taken, given) = self.decoder.step(input, out.get_mut(done..).unwrap_or_default())?;
            self.spend(given)?;
            done += given;
            input = input.get(taken..).unwrap_or_default();
            if taken == 0 && given == 0 {
                return Err(InflateError::Damaged { format: "blob", what: "no room for its first bytes".to_owned() });
            }
        }
        Ok(done)
    }

    fn spend(&mut self, n: usize) -> Result<(), InflateError> {
        self.left = u64::try_from(n)
            .ok()
            .and_then(|n| self.left.checked_sub(n))
            .ok_or(InflateError::Budget { budget: self.budget })?;
        Ok(())
    }

    /// Bytes expanded so far.
    pub fn expanded(&self) -> u64 {
        self.budget - self.left
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// If the stream is cut off.
    pub fn finish(self) -> Result<(), InflateError> {
        let cut = |format| Err(InflateError::Damaged { format, what: "it ends too early".to_owned() });
        match self.decoder {
            Decoder::Plain
            | Decoder::Unmade(Compression::None)
            | Decoder::Sniffing { have: 0, .. }
            | Decoder::Gzip { open: false, members: 1.., .. }
            | Decoder::Zstd { open: false, .. } => Ok(()),
            Decoder::Unmade(_) | Decoder::Sniffing { .. } => cut("blob"),
            Decoder::Gzip { .. } => cut("gzip"),
            Decoder::Zstd { .. } => cut("zstd"),
        }
    }
}

#[cfg(test)]
mod tests;
