//! System calls by name and architecture, as data (`syscalls.txt`, from the kernel's own tables).

use std::collections::HashMap;

/// An architecture as the kernel names it to a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    X86,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM.
    Arm,
}

impl Architecture {
    /// What this machine runs: its own and the 32-bit one beside it.
    pub fn native() -> Vec<Self> {
        if cfg!(target_arch = "aarch64") { vec![Self::Aarch64, Self::Arm] } else { vec![Self::X86_64, Self::X86] }
    }

    /// `AUDIT_ARCH_*` of `linux/audit.h`.
    pub(super) const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// The column of the table, counted from the name.
    const fn column(self) -> usize {
        match self {
            Self::X86_64 => 1,
            Self::X86 => 2,
            Self::Aarch64 => 3,
            Self::Arm => 4,
        }
    }
}

const TABLE: &str = include_str!("syscalls.txt");

/// The numbers of all calls that an architecture has.
pub(super) fn numbers(architecture: Architecture) -> HashMap<&'static str, u32> {
    let mut numbers = HashMap::with_capacity(512);
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        if let (Some(name), Some(Ok(number))) =
            (words.next(), words.nth(architecture.column() - 1).map(str::parse::<u32>))
        {
            numbers.insert(name, number);
        }
    }
    numbers
}
