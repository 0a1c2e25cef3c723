//! Signals by number, real-time ones included (`SIGRTMIN+3` is how some containers want to be stopped), which the
//! wrappers of the crates leave out.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// The lowest signal number; 0 would only ask whether the process is there.
const FIRST: i32 = 1;
/// The highest that Linux has.
const LAST: i32 = 64;

fn checked(signal: i32) -> io::Result<i32> {
    if (FIRST..=LAST).contains(&signal) { Ok(signal) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Sends a signal to the process behind a pidfd.
///
/// # Errors
/// `ESRCH` if it has ended; `InvalidInput` if there is no such signal.
pub fn send(process: impl AsFd, signal: i32) -> io::Result<()> {
    let signal = checked(signal)?;
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open for the duration of the call, and a null siginfo asks the kernel to fill in its own.
    #[expect(unsafe_code, reason = "the crates' wrappers take no real-time signals")]
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_fd().as_raw_fd(), signal, none, 0_u32) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal to a process by number: only for one that is known to be there, as a member of a cgroup is.
///
/// # Errors
/// `ESRCH` if it has ended; `InvalidInput` if the number cannot be a single process or there is no such signal.
pub fn send_to_pid(pid: i32, signal: i32) -> io::Result<()> {
    let signal = checked(signal)?;
    if pid <= 1 {
        // Zero and below mean groups and everyone.
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: no memory is passed; the number is that of one process.
    #[expect(unsafe_code, reason = "the crates' wrappers take no real-time signals")]
    let result = unsafe { libc::kill(pid, signal) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_everyone_and_impossible_signals_are_refused() {
        for pid in [1, 0, -1, i32::MIN] {
            assert_eq!(send_to_pid(pid, libc::SIGCONT).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        for signal in [0, 65, -9] {
            assert_eq!(send_to_pid(i32::MAX, signal).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_real_time_signal_ends_a_process_by_its_pidfd() {
        use std::os::unix::process::ExitStatusExt as _;
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        send(&pidfd, 37).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(37));
        assert_eq!(send(&pidfd, 37).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
