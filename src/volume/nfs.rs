//! `nfs`: an export of a server, mounted by the kernel's own client (NFS 4) without any helper of the host.
//!
//! The server is asked for a connection first: one that cannot be reached is told of at once, while the kernel would try
//! for minutes.

use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use k8s_openapi::api::core::v1::NFSVolumeSource;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::{Error, Source};
use crate::sys::mount::{self, Context, Mount};

/// Where servers listen.
const PORT: u16 = 2049;
/// How long a server has to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The newest first.
const VERSIONS: [&str; 3] = ["4.2", "4.1", "4.0"];
const KIND: &str = "nfs4";

pub(super) fn prepare(volume: &str, source: &NFSVolumeSource) -> Result<Source, Error> {
    let failed = |reason: String| Error::Nfs {
        volume: volume.to_owned(),
        server: source.server.clone(),
        path: source.path.clone(),
        reason,
    };
    // Before anything is asked of the network: a kernel without a client is a reason of its own.
    Context::open(KIND).map_err(|e| failed(lacking(&e)))?;
    let (server, local) = reach(&source.server).map_err(&failed)?;
    let mut refused = String::new();
    for version in VERSIONS {
        match mount(source, server, local, version) {
            Ok(mount) => return Ok(Source::Mount(mount)),
            Err(error) => {
                let other = error.source.raw_os_error() == Some(Errno::PROTONOSUPPORT.raw_os_error());
                refused = crate::api::problem::chain(&error);
                if !other {
                    break;
                }
            }
        }
    }
    Err(failed(refused))
}

/// Why there can be no mount at all.
fn lacking(error: &mount::Error) -> String {
    if error.source.raw_os_error() == Some(Errno::NODEV.raw_os_error()) {
        "this kernel has no NFS client (CONFIG_NFS_V4, module nfsv4)".to_owned()
    } else {
        crate::api::problem::chain(error)
    }
}

/// The server's address, and ours as it sees us.
fn reach(server: &str) -> Result<(SocketAddr, IpAddr), String> {
    let host = server.trim_start_matches('[').trim_end_matches(']');
    let addresses = (host, PORT).to_socket_addrs().map_err(|e| format!("the server is not known: {e}"))?;
    let mut reason = "the server has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE).and_then(|stream| stream.local_addr()) {
            Ok(local) => return Ok((address, local.ip())),
            Err(error) => reason = format!("the server cannot be reached at {address}: {error}"),
        }
    }
    Err(reason)
}

fn mount(source: &NFSVolumeSource, server: SocketAddr, local: IpAddr, version: &str) -> Result<Mount, mount::Error> {
    let mut fs = Context::open(KIND)?;
    for (key, value) in options(source, server, local, version) {
        fs.string(key, value)?;
    }
    let read_only = source.read_only == Some(true);
    if read_only {
        fs.flag("ro")?;
    }
    fs.mount(if read_only { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() })
}

/// What the kernel is told, where `mount.nfs` would.
fn options(source: &NFSVolumeSource, server: SocketAddr, local: IpAddr, version: &str) -> Vec<(&'static str, String)> {
    let host = source.server.trim_start_matches('[').trim_end_matches(']');
    // A colon ends the server's name.
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    vec![
        ("source", format!("{host}:{}", source.path)),
        ("vers", version.to_owned()),
        ("proto", if server.is_ipv6() { "tcp6" } else { "tcp" }.to_owned()),
        ("addr", server.ip().to_string()),
        // Where a server of 4.0 calls back.
        ("clientaddr", local.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn source(server: &str) -> NFSVolumeSource {
        NFSVolumeSource { server: server.to_owned(), path: "/exports/data".to_owned(), read_only: None }
    }

    #[test]
    fn the_kernel_is_told_what_it_would_be_by_a_helper() {
        let of = |server: &str, address: &str, local: &str| {
            options(&source(server), address.parse().unwrap(), local.parse().unwrap(), "4.2")
                .into_iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join(",")
        };
        assert_eq!(
            of("files.example", "192.0.2.1:2049", "192.0.2.7"),
            "source=files.example:/exports/data,vers=4.2,proto=tcp,addr=192.0.2.1,clientaddr=192.0.2.7"
        );
        assert_eq!(
            of("2001:db8::1", "[2001:db8::1]:2049", "2001:db8::7"),
            "source=[2001:db8::1]:/exports/data,vers=4.2,proto=tcp6,addr=2001:db8::1,clientaddr=2001:db8::7"
        );
    }

    #[test]
    fn a_server_that_is_not_there_is_told_of_at_once() {
        // Whoever has the port on this address would be an NFS server.
        if TcpListener::bind(("127.0.0.9", PORT)).is_ok() {
            let reason = reach("127.0.0.9").unwrap_err();
            assert!(reason.contains("cannot be reached at 127.0.0.9:2049"), "{reason}");
        }
        let reason = reach("name.invalid").unwrap_err();
        assert!(reason.contains("not known"), "{reason}");
    }
}
