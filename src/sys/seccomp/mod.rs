//! System call filters: rules by name → classic BPF → `seccomp(2)`.
//!
//! ```text
//! architecture? ──x86_64──▶ binary search over ranges of numbers ──▶ allow · errno · conditions on arguments → …
//!        └────────x86─────▶ …
//!        └────────other───▶ kill
//! ```
//!
//! The programs are our own: one search tree for each architecture that a machine runs (so 32-bit programs work), about
//! ten comparisons deep where a chain of equalities would be 350 long. A number above every one that the rules name gets
//! `ENOSYS` instead of the default's `EPERM`, so that a C library that is newer than the rules falls back as it should.

use std::collections::BTreeMap;
use std::io;

mod assemble;
mod table;
#[cfg(test)]
mod tests;

pub use table::Architecture;

/// What a filter does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Lets it through.
    Allow,
    /// Fails it with this error number.
    Errno(u16),
    /// Kills the thread.
    KillThread,
    /// Kills the process.
    KillProcess,
    /// Sends `SIGSYS`.
    Trap,
    /// Tells a tracer, with this message.
    Trace(u16),
    /// Lets it through and logs it.
    Log,
}

impl Action {
    /// The filter's return value, `SECCOMP_RET_*`.
    const fn value(self) -> u32 {
        match self {
            Self::Allow => 0x7fff_0000,
            Self::Errno(number) => 0x0005_0000 | number as u32,
            Self::KillThread => 0,
            Self::KillProcess => 0x8000_0000,
            Self::Trap => 0x0003_0000,
            Self::Trace(message) => 0x7ff0_0000 | message as u32,
            Self::Log => 0x7ffc_0000,
        }
    }
}

/// How an argument is compared, unsigned and in 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal(u64),
    /// Not equal.
    NotEqual(u64),
    /// Less.
    Less(u64),
    /// Less or equal.
    LessOrEqual(u64),
    /// Greater.
    Greater(u64),
    /// Greater or equal.
    GreaterOrEqual(u64),
    /// Equal to the second value after `&` with the first.
    MaskedEqual(u64, u64),
}

/// One condition on one of a call's six arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// What it must be.
    pub comparison: Comparison,
}

/// An action for some calls, when all conditions hold. The first rule that fits decides, but one with no condition
/// comes after those with conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The calls' names. One that an architecture (or this table) does not have is passed over.
    pub names: Vec<String>,
    /// The conditions, all of which must hold.
    pub conditions: Vec<Condition>,
    /// What is done.
    pub action: Action,
}

/// A filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// What happens to a call that no rule fits.
    pub default: Action,
    /// The rules.
    pub rules: Vec<Rule>,
    /// The architectures it speaks of; calls of any other kill the process.
    pub architectures: Vec<Architecture>,
}

/// Why a filter cannot be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call has only six arguments.
    #[error("system call {name} has no argument {argument}")]
    Argument {
        /// The first name of the rule.
        name: String,
        /// The argument's number.
        argument: u8,
    },
    /// The kernel takes 4096 instructions.
    #[error("the system call filter is {instructions} instructions long, more than the kernel takes")]
    TooLong {
        /// How many it would have.
        instructions: usize,
    },
    /// The kernel refused it.
    #[error("cannot load the system call filter")]
    Load {
        /// What it said.
        source: io::Error,
    },
}

/// `BPF_MAXINSNS`.
const LONGEST: usize = 4096;

/// One instruction of classic BPF, laid out as `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub(super) code: u16,
    pub(super) jump_true: u8,
    pub(super) jump_false: u8,
    pub(super) value: u32,
}

/// A filter ready to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(Vec<Instruction>);

/// What one call leads to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Decision {
    /// In order; each with all its conditions.
    conditional: Vec<(Vec<Condition>, Action)>,
    /// When none of them fits; `None` is the filter's default.
    otherwise: Option<Action>,
}

impl Filter {
    /// Translates the rules.
    ///
    /// # Errors
    /// If a rule names an argument that no call has, or the program is too long for the kernel.
    pub fn compile(&self) -> Result<Program, Error> {
        let mut programs = Vec::new();
        for architecture in &self.architectures {
            programs.push((*architecture, self.decide(*architecture)?));
        }
        let code = assemble::program(&programs, self.default);
        if code.len() > LONGEST {
            return Err(Error::TooLong { instructions: code.len() });
        }
        Ok(Program(code))
    }

    /// The decision for each call of one architecture.
    fn decide(&self, architecture: Architecture) -> Result<BTreeMap<u32, Decision>, Error> {
        let numbers = table::numbers(architecture);
        let mut decisions: BTreeMap<u32, Decision> = BTreeMap::new();
        for rule in &self.rules {
            if let Some(c) = rule.conditions.iter().find(|c| c.argument > 5) {
                let name = rule.names.first().cloned().unwrap_or_default();
                return Err(Error::Argument { name, argument: c.argument });
            }
            for number in rule.names.iter().filter_map(|name| numbers.get(name.as_str())) {
                let decision = decisions.entry(*number).or_default();
                if rule.conditions.is_empty() {
                    decision.otherwise.get_or_insert(rule.action);
                } else {
                    decision.conditional.push((rule.conditions.clone(), rule.action));
                }
            }
        }
        Ok(decisions)
    }
}

impl Program {
    /// How many instructions it has.
    #[expect(clippy::len_without_is_empty, reason = "a program always returns something")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Filters the calling thread, and all it starts, from now on. Needs `CAP_SYS_ADMIN` or `no_new_privs`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn load(&self) -> Result<(), Error> {
        #[repr(C)]
        struct SockFprog {
            len: u16,
            filter: *const Instruction,
        }
        let len = u16::try_from(self.0.len()).map_err(|_| Error::TooLong { instructions: self.0.len() })?;
        let program = SockFprog { len, filter: self.0.as_ptr() };
        // SAFETY: `program` is a `struct sock_fprog` whose pointer and length describe the live vector `self.0`; the
        // kernel copies it before the call returns.
        #[expect(unsafe_code, reason = "a system call without a wrapper")]
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0 as libc::c_ulong, &raw const program)
        };
        if result == 0 { Ok(()) } else { Err(Error::Load { source: io::Error::last_os_error() }) }
    }
}
