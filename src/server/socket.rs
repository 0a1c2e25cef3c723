//! The socket of the local API: made so that no other user can ever reach it, and never taken from a live agent.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use crate::sys::process;

/// Its name in the run directory.
pub const FILE_NAME: &str = "agent.sock";

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another agent answers on it.
    #[error("an agent is already listening on {}", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// The run directory belongs to somebody else.
    #[error("{} belongs to uid {owner}, and its owner could replace the socket", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// What is at the socket's path is not a socket.
    #[error("{} is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A step failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The step.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

/// The listening socket; its file is removed with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens on `run/agent.sock`, mode 0600, in a directory that is made 0700.
    ///
    /// A socket that nobody listens on (an agent that was killed) is replaced.
    ///
    /// # Errors
    /// If an agent listens there, the directory is somebody else's, or the kernel refuses.
    pub async fn bind(run: &Path) -> Result<Self, Error> {
        close_directory(run)?;
        let path = run.join(FILE_NAME);
        match std::fs::symlink_metadata(&path) {
            Ok(found) if !found.file_type().is_socket() => return Err(Error::NotASocket { path }),
            Ok(_) if is_listening(&path).await => return Err(Error::Taken { path }),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(at("look at", &path)(e)),
        }
        // Bound under another name and moved: at its own name it is never without its mode, and never missing.
        let fresh = run.join(format!(".{FILE_NAME}-{}", std::process::id()));
        match std::fs::remove_file(&fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at("remove", &fresh)(e)),
            _ => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(at("listen on", &fresh))?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))
            .map_err(at("set the mode of", &fresh))?;
        std::fs::rename(&fresh, &path).map_err(at("rename to", &path))?;
        Ok(Self { listener, path })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether a live process listens at `path`. A child of one that was killed has its socket too, until it becomes another
/// program.
async fn is_listening(path: &Path) -> bool {
    let Ok(stream) = UnixStream::connect(path).await else { return false };
    let listener = stream.peer_cred().ok().and_then(|listener| listener.pid());
    // Without a number it is in another namespace, where nothing is known of it.
    listener.is_none_or(|pid| pid <= 0 || !process::is_gone(pid))
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A socket file that stays is replaced by the next agent.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Makes `run` with mode 0700, also when somebody made it before with another.
fn close_directory(run: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(run).map_err(at("create", run))?;
    let found = std::fs::metadata(run).map_err(at("look at", run))?;
    let us = rustix::process::geteuid().as_raw();
    if found.uid() != us {
        return Err(Error::Foreign { path: run.to_owned(), owner: found.uid() });
    }
    if found.permissions().mode() & 0o777 != 0o700 {
        std::fs::set_permissions(run, std::fs::Permissions::from_mode(0o700)).map_err(at("set the mode of", run))?;
    }
    Ok(())
}

impl axum::serve::Listener for Socket {
    type Io = UnixStream;
    type Addr = ();

    /// The next client. One that is neither root nor our own user is refused: the mode of the socket says so already,
    /// but a descriptor of it may have been handed on.
    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) if peer.uid() == 0 || peer.uid() == rustix::process::geteuid().as_raw() => {
                        return (stream, ());
                    }
                    Ok(peer) => tracing::warn!(uid = peer.uid(), "refused a client of another user"),
                    Err(error) => tracing::warn!(%error, "cannot tell who a client is"),
                },
                Err(error) => {
                    // Out of descriptors or memory: wait until some are free instead of spinning.
                    tracing::warn!(%error, "cannot accept a client");
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn an_open_directory_is_closed_and_the_socket_is_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        std::fs::create_dir(&run).unwrap();
        std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o777)).unwrap();
        let socket = Socket::bind(&run).await.unwrap();
        assert_eq!((mode(&run), mode(socket.path())), (0o700, 0o600));
        let path = socket.path().to_owned();
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_live_agent_keeps_its_socket_and_a_dead_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let first = Socket::bind(dir.path()).await.unwrap();
        assert!(matches!(Socket::bind(dir.path()).await, Err(Error::Taken { .. })));
        assert!(UnixStream::connect(first.path()).await.is_ok());
        drop(first);
        drop(std::os::unix::net::UnixListener::bind(dir.path().join(FILE_NAME)).unwrap());
        Socket::bind(dir.path()).await.unwrap();
    }

    /// Where the inner run of the test below listens.
    const PLACE: &str = "LAMINA_TEST_SOCKET";

    #[tokio::test]
    async fn what_a_killed_agent_was_about_to_start_does_not_keep_its_socket() {
        if let Some(place) = std::env::var_os(PLACE) {
            let listener = std::os::unix::net::UnixListener::bind(place).unwrap();
            rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).unwrap();
            let child = std::process::Command::new("sh").args(["-c", "sleep 5 >&- 2>&- &"]).status();
            assert!(child.unwrap().success());
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let inner = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server::socket::tests::what_a_killed_agent_was_about_to_start_does_not_keep_its_socket"])
            .env(PLACE, &path)
            .stdout(std::process::Stdio::null())
            .status();
        assert!(inner.unwrap().success());
        assert!(UnixStream::connect(&path).await.is_ok(), "somebody has it");
        Socket::bind(dir.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_in_its_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), "precious").unwrap();
        assert!(matches!(Socket::bind(dir.path()).await, Err(Error::NotASocket { .. })));
        assert_eq!(std::fs::read(dir.path().join(FILE_NAME)).unwrap(), b"precious");
    }
}
