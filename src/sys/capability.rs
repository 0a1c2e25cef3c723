//! Capabilities by name, and dropping them.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets};

/// All names, each at its number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// None.
    pub const EMPTY: Self = Self(0);

    /// Every one that this code knows by name.
    pub const fn all() -> Self {
        Self((1 << NAMES.len()) - 1)
    }

    /// The one with this name (`CAP_NET_RAW`, `NET_RAW`, any case).
    pub fn named(name: &str) -> Option<Self> {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        NAMES.iter().position(|known| *known == short).map(|n| Self(1 << n))
    }

    /// The names of all in the set, with `CAP_` before each.
    pub fn names(self) -> impl Iterator<Item = String> {
        let known = NAMES.iter().enumerate();
        known.filter(move |(n, _)| self.0 & (1 << n) != 0).map(|(_, name)| format!("CAP_{name}"))
    }

    /// Whether every one of `other` is in the set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those in either.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those in both.
    #[must_use]
    pub const fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    const fn to_set(self) -> CapabilitySet {
        CapabilitySet::from_bits_retain(self.0)
    }
}

/// The calling thread's permitted capabilities.
///
/// # Errors
/// If the kernel refuses.
pub fn permitted() -> io::Result<Capabilities> {
    Ok(Capabilities(rustix::thread::capabilities(None)?.permitted.bits()))
}

/// Sets the calling thread's permitted and effective sets; none is inheritable.
///
/// # Errors
/// If a capability that is not permitted is asked for.
pub fn set(permitted: Capabilities, effective: Capabilities) -> io::Result<()> {
    let sets = CapabilitySets {
        effective: effective.to_set(),
        permitted: permitted.to_set(),
        inheritable: CapabilitySet::empty(),
    };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Takes every capability but `keep` out of the bounding set, those that this code has no name for included, and all
/// out of the ambient set.
///
/// # Errors
/// If `CAP_SETPCAP` is missing.
pub fn bound(keep: Capabilities) -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    for n in 0..u64::BITS {
        if keep.0 & (1 << n) != 0 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << n)) {
            Ok(()) => {}
            // One past the kernel's last.
            Err(rustix::io::Errno::INVAL) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Keeps the permitted set when the user changes from root, until a program is executed.
///
/// # Errors
/// If the kernel refuses.
pub fn keep_across_user_change() -> io::Result<()> {
    Ok(rustix::thread::set_keep_capabilities(true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_numbers() {
        for (name, number) in [("CAP_CHOWN", 0), ("cap_sys_admin", 21), ("MKNOD", 27), ("CHECKPOINT_RESTORE", 40)] {
            assert_eq!(Capabilities::named(name), Some(Capabilities(1 << number)), "{name}");
        }
        assert_eq!(Capabilities::named("CAP_CAP_CHOWN"), None);
        assert_eq!(Capabilities::named(""), None);
    }

    #[test]
    fn a_set_lists_what_was_put_in() {
        let set = Capabilities::named("KILL").unwrap().with(Capabilities::named("BPF").unwrap());
        assert_eq!(set.names().collect::<Vec<_>>(), ["CAP_KILL", "CAP_BPF"]);
        assert!(Capabilities::all().contains(set) && !set.contains(Capabilities::all()));
        assert_eq!(set.without(set), Capabilities::EMPTY);
    }
}
