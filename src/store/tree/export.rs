//! A tree as one tar in pax format, sorted by path, hard links kept.

use std::collections::{HashMap, hash_map};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::merged::Found;
use super::{Device, Error, Kind, Merged, Time, Xattr};

/// How much is copied at once.
const CHUNK: usize = 256 << 10;

/// Largest value of a header's octal field of that many digits.
const fn octal_max(digits: u32) -> u64 {
    (1 << (3 * digits)) - 1
}

/// Writes everything in `tree` as one pax tar, the root directory as `./`. Sockets are left out: no tar holds them.
///
/// # Errors
/// If a layer cannot be read or `out` refuses bytes.
pub fn write_tar(tree: &Merged, out: &mut dyn Write) -> Result<(), Error> {
    let mut export = Export { tree, out, links: HashMap::new(), chunk: vec![0; CHUNK] };
    let root = tree.root_found()?;
    export.entry(Path::new(""), &root)?;
    let mut pending = vec![(PathBuf::new(), tree.children(Path::new(""), &root.layers)?.into_iter())];
    while let Some((path, children)) = pending.last_mut() {
        let Some((name, found)) = children.next() else {
            pending.pop();
            continue;
        };
        let child = path.join(OsStr::from_bytes(&name));
        export.entry(&child, &found)?;
        if !found.layers.is_empty() {
            let below = tree.children(&child, &found.layers)?.into_iter();
            pending.push((child, below));
        }
    }
    out.write_all(&[0; 1024]).map_err(Error::Out)
}

struct Export<'a> {
    tree: &'a Merged,
    out: &'a mut dyn Write,
    /// The first name of each inode that has several, by layer and number.
    links: HashMap<(usize, u64), PathBuf>,
    chunk: Vec<u8>,
}

/// What goes into one header.
struct Head<'a> {
    path: Vec<u8>,
    link: &'a [u8],
    kind: u8,
    size: u64,
    device: Device,
    xattrs: Vec<Xattr>,
}

impl Export<'_> {
    fn entry(&mut self, path: &Path, found: &Found) -> Result<(), Error> {
        let node = &found.node;
        let mut head = Head {
            path: path.as_os_str().as_bytes().to_vec(),
            link: &[],
            kind: b'0',
            size: 0,
            device: Device::default(),
            // Asked of the layer itself: the merged tree would look for the path again.
            xattrs: self.tree.layer(found.origin).map_or(Ok(Vec::new()), |layer| layer.xattrs(path))?,
        };
        let directory = matches!(node.kind, Kind::Directory { .. });
        let first = match self.links.entry((found.origin, node.inode)) {
            _ if directory || node.links < 2 => None,
            hash_map::Entry::Occupied(first) => Some(first.get().clone()),
            hash_map::Entry::Vacant(none) => {
                none.insert(path.to_owned());
                None
            }
        };
        if let Some(first) = &first {
            (head.kind, head.link) = (b'1', first.as_os_str().as_bytes());
            head.xattrs.clear();
            return self.header(&head, found);
        }
        match &node.kind {
            Kind::File { size } => head.size = *size,
            Kind::Directory { .. } => {
                head.kind = b'5';
                head.path.extend_from_slice(if path.as_os_str().is_empty() { b"./" } else { b"/" });
            }
            Kind::Symlink { target } => (head.kind, head.link) = (b'2', target),
            Kind::Char { device } => (head.kind, head.device) = (b'3', *device),
            Kind::Block { device } => (head.kind, head.device) = (b'4', *device),
            Kind::Fifo => head.kind = b'6',
            Kind::Socket | Kind::Whiteout => return Ok(()),
        }
        self.header(&head, found)?;
        if head.size > 0 { self.data(path, found, head.size) } else { Ok(()) }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(Error::Out)
    }

    fn pad(&mut self, size: u64) -> Result<(), Error> {
        const ZEROS: [u8; 512] = [0; 512];
        let over = usize::try_from(size % 512).unwrap_or_default();
        self.put(ZEROS.get(..(512 - over) % 512).unwrap_or_default())
    }

    /// Exactly `size` bytes, whatever a file that is being written holds by now.
    fn data(&mut self, path: &Path, found: &Found, size: u64) -> Result<(), Error> {
        let Some(layer) = self.tree.layer(found.origin) else { return Ok(()) };
        let mut from = layer.open(path)?.take(size);
        let mut left = size;
        let mut chunk = std::mem::take(&mut self.chunk);
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            let room = chunk.get_mut(..want).unwrap_or_default();
            let n = from.read(room).map_err(Error::io("read", path))?;
            if n == 0 {
                room.fill(0);
            }
            let n = if n == 0 { want } else { n };
            self.put(chunk.get(..n).unwrap_or_default())?;
            left -= n as u64;
        }
        self.chunk = chunk;
        self.pad(size)
    }

    fn header(&mut self, head: &Head<'_>, found: &Found) -> Result<(), Error> {
        let node = &found.node;
        let mut pax = Vec::new();
        if head.path.len() > 100 {
            record(&mut pax, b"path", &head.path);
        }
        if head.link.len() > 100 {
            record(&mut pax, b"linkpath", head.link);
        }
        for (name, value, digits) in
            [("size", head.size, 11), ("uid", u64::from(node.uid), 7), ("gid", u64::from(node.gid), 7)]
        {
            if value > octal_max(digits) {
                record(&mut pax, name.as_bytes(), value.to_string().as_bytes());
            }
        }
        let seconds = u64::try_from(node.mtime.seconds).ok().filter(|s| *s <= octal_max(11));
        if seconds.is_none() || node.mtime.nanoseconds != 0 {
            record(&mut pax, b"mtime", time(node.mtime).as_bytes());
        }
        for (name, value) in &head.xattrs {
            record(&mut pax, &[b"SCHILY.xattr.", &**name].concat(), value);
        }
        if !pax.is_empty() {
            let size = pax.len() as u64;
            let extended =
                Head { path: b"pax".to_vec(), link: &[], kind: b'x', size, device: Device::default(), xattrs: vec![] };
            self.put(&block(&extended, 0o644, (0, 0), 0))?;
            self.put(&pax)?;
            self.pad(size)?;
        }
        let owner = (fits(u64::from(node.uid), 7), fits(u64::from(node.gid), 7));
        self.put(&block(head, node.mode, owner, seconds.unwrap_or_default()))
    }
}

fn fits(value: u64, digits: u32) -> u64 {
    if value > octal_max(digits) { 0 } else { value }
}

fn time(time: Time) -> String {
    match (time.seconds, time.nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (seconds @ 0.., nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
        (seconds, nanoseconds) => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
    }
}

/// `length key=value\n`, the length counting itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn block(head: &Head<'_>, mode: u16, (uid, gid): (u64, u64), mtime: u64) -> [u8; 512] {
    let mut b = [0_u8; 512];
    let mut put = |at: usize, text: &[u8]| {
        if let Some(place) = b.get_mut(at..at + text.len()) {
            place.copy_from_slice(text);
        }
    };
    put(0, head.path.get(..100).unwrap_or(&head.path));
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, format!("{uid:07o}\0").as_bytes());
    put(116, format!("{gid:07o}\0").as_bytes());
    put(124, format!("{:011o}\0", fits(head.size, 11)).as_bytes());
    put(136, format!("{mtime:011o}\0").as_bytes());
    put(148, b"        ");
    put(156, &[head.kind]);
    put(157, head.link.get(..100).unwrap_or(head.link));
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}\0", head.device.major).as_bytes());
    put(337, format!("{:07o}\0", head.device.minor).as_bytes());
    let sum: u32 = b.iter().map(|b| u32::from(*b)).sum();
    if let Some(place) = b.get_mut(148..156) {
        place.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    b
}
