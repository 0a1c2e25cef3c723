//! Which devices a cgroup's processes may open or make: as lines for v1, as an eBPF program for v2.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// Character or block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Either.
    Any,
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// What may be done with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Open for reading.
    pub read: bool,
    /// Open for writing.
    pub write: bool,
    /// `mknod`.
    pub make: bool,
}

impl Access {
    /// Everything.
    pub const ALL: Self = Self { read: true, write: true, make: true };
    /// `mknod` alone.
    pub const MAKE: Self = Self { read: false, write: false, make: true };

    /// From letters out of `rwm`.
    pub fn parse(letters: &str) -> Option<Self> {
        let known = !letters.is_empty() && letters.bytes().all(|b| b"rwm".contains(&b));
        let has = |letter| letters.contains(letter);
        known.then(|| Self { read: has('r'), write: has('w'), make: has('m') })
    }

    /// `BPF_DEVCG_ACC_*`.
    const fn bits(self) -> i32 {
        (if self.make { 1 } else { 0 }) | (if self.read { 2 } else { 0 }) | (if self.write { 4 } else { 0 })
    }
}

/// One thing that is allowed; what no rule allows is forbidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Which sort of device.
    pub kind: Kind,
    /// Its major number; `None` is any.
    pub major: Option<u32>,
    /// Its minor number; `None` is any.
    pub minor: Option<u32>,
    /// What is allowed.
    pub access: Access,
}

impl Rule {
    /// A character device, for everything.
    pub const fn char(major: u32, minor: u32) -> Self {
        Self { kind: Kind::Char, major: Some(major), minor: Some(minor), access: Access::ALL }
    }

    /// The lines that allow it on v1 (`c 1:3 rwm`): two for [`Kind::Any`], since v1's `a` ignores the numbers.
    pub fn lines(&self) -> Vec<String> {
        let kinds: &[char] = match self.kind {
            Kind::Any => &['c', 'b'],
            Kind::Char => &['c'],
            Kind::Block => &['b'],
        };
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let access: String = [(self.access.read, 'r'), (self.access.write, 'w'), (self.access.make, 'm')]
            .iter()
            .filter_map(|(has, letter)| has.then_some(*letter))
            .collect();
        kinds.iter().map(|k| format!("{k} {}:{} {access}", number(self.major), number(self.minor))).collect()
    }
}

/// One eBPF instruction, `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high four.
    registers: u8,
    offset: i16,
    value: i32,
}

/// `BPF_LDX | BPF_MEM | BPF_W`.
const LOAD: u8 = 0x61;
/// `BPF_ALU64 | BPF_MOV | BPF_X` and its like.
const MOVE: u8 = 0xbf;
const MOVE_VALUE: u8 = 0xb7;
const AND_VALUE: u8 = 0x57;
const SHIFT_RIGHT_VALUE: u8 = 0x77;
/// `BPF_JMP | BPF_JNE`, with a value and with a register.
const UNLESS_VALUE: u8 = 0x55;
const UNLESS: u8 = 0x5d;
const EXIT: u8 = 0x95;

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, value }
}

/// The program: for each rule, jump on to the next unless all of it fits; at the end, forbid.
///
/// Registers: 2 kind, 3 access asked for, 4 major, 5 minor; 1 (the context at first) is scratch.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut code = vec![
        // struct bpf_cgroup_dev_ctx { u32 access_type /* access << 16 | kind */, major, minor }
        instruction(LOAD, 2, 1, 0, 0),
        instruction(LOAD, 4, 1, 4, 0),
        instruction(LOAD, 5, 1, 8, 0),
        instruction(MOVE, 3, 2, 0, 0),
        instruction(SHIFT_RIGHT_VALUE, 3, 0, 0, 16),
        instruction(AND_VALUE, 2, 0, 0, 0xffff),
    ];
    for rule in rules {
        let mut body = Vec::new();
        match rule.kind {
            Kind::Any => {}
            Kind::Block => body.push(instruction(UNLESS_VALUE, 2, 0, 0, 1)),
            Kind::Char => body.push(instruction(UNLESS_VALUE, 2, 0, 0, 2)),
        }
        if rule.access != Access::ALL {
            body.push(instruction(MOVE, 1, 3, 0, 0));
            body.push(instruction(AND_VALUE, 1, 0, 0, rule.access.bits()));
            body.push(instruction(UNLESS, 1, 3, 0, 0));
        }
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number {
                body.push(instruction(UNLESS_VALUE, register, 0, 0, number.cast_signed()));
            }
        }
        body.push(instruction(MOVE_VALUE, 0, 0, 0, 1));
        body.push(instruction(EXIT, 0, 0, 0, 0));
        let end = body.len();
        for (position, instruction) in body.iter_mut().enumerate() {
            if matches!(instruction.code, UNLESS | UNLESS_VALUE) {
                instruction.offset = i16::try_from(end - position - 1).unwrap_or_default();
            }
        }
        code.extend(body);
    }
    code.push(instruction(MOVE_VALUE, 0, 0, 0, 0));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

/// Calls `bpf(2)` with attributes that begin as `attributes` says; the rest is zero.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<i32> {
    // SAFETY: each caller passes a `repr(C)` beginning of `union bpf_attr` for its command, with its size, and what it
    // points to outlives the call.
    #[expect(unsafe_code, reason = "a system call without a wrapper")]
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result >= 0 { Ok(i32::try_from(result).unwrap_or_default()) } else { Err(io::Error::last_os_error()) }
}

/// Loads the program for these rules.
fn load(rules: &[Rule]) -> io::Result<OwnedFd> {
    /// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`.
    #[repr(C)]
    struct Load {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
    }
    const PROG_LOAD: libc::c_int = 5;
    const CGROUP_DEVICE: u32 = 15;
    let code = program(rules);
    let license = c"Apache-2.0";
    let attributes = Load {
        kind: CGROUP_DEVICE,
        instruction_count: u32::try_from(code.len()).unwrap_or(u32::MAX),
        instructions: code.as_ptr().addr() as u64,
        license: license.as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"lamina_devices\0\0",
    };
    let fd = bpf(PROG_LOAD, &attributes)?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec) for us.
    #[expect(unsafe_code, reason = "takes over a new descriptor")]
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Restricts the v2 cgroup behind `directory` to these rules, in addition to what its parents restrict.
///
/// # Errors
/// If the kernel has no eBPF for cgroups or refuses.
pub fn restrict(directory: BorrowedFd<'_>, rules: &[Rule]) -> io::Result<()> {
    /// The beginning of `union bpf_attr` for `BPF_PROG_ATTACH`.
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    const PROG_ATTACH: libc::c_int = 8;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    let program = load(rules)?;
    let attributes = Attach {
        target: directory.as_raw_fd().unsigned_abs(),
        program: program.as_raw_fd().unsigned_abs(),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &attributes).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn allowed(rules: &[Rule], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let code = program(rules);
        let context = [access << 16 | kind, major, minor];
        let (mut register, mut position) = ([0_u64; 11], 0_usize);
        loop {
            let Instruction { code, registers, offset, value } = code[position];
            let (to, from) = (usize::from(registers & 15), usize::from(registers >> 4));
            position += 1;
            let wide = i64::from(value).cast_unsigned();
            let jump = match code {
                0x61 => {
                    register[to] = u64::from(context[usize::try_from(offset).unwrap() / 4]);
                    false
                }
                0xbf => {
                    register[to] = register[from];
                    false
                }
                0xb7 => {
                    register[to] = wide;
                    false
                }
                0x57 => {
                    register[to] &= wide;
                    false
                }
                0x77 => {
                    register[to] >>= value;
                    false
                }
                0x55 => register[to] != wide,
                0x5d => register[to] != register[from],
                0x95 => return register[0] == 1,
                other => panic!("instruction {other:#x}"),
            };
            if jump {
                position += usize::try_from(offset).unwrap();
            }
        }
    }

    const BLOCK: u32 = 1;
    const CHAR: u32 = 2;
    const MAKE: u32 = 1;
    const READ: u32 = 2;
    const WRITE: u32 = 4;

    #[test]
    fn only_what_a_rule_allows_is_allowed() {
        let any_make = Rule { kind: Kind::Block, major: None, minor: None, access: Access::MAKE };
        let pts = Rule { kind: Kind::Char, major: Some(136), minor: None, access: Access::ALL };
        let rules = [Rule::char(1, 3), any_make, pts];
        assert!(allowed(&rules, CHAR, READ | WRITE, 1, 3));
        assert!(!allowed(&rules, BLOCK, READ, 1, 3));
        assert!(!allowed(&rules, CHAR, READ, 1, 4));
        assert!(!allowed(&rules, CHAR, READ, 2, 3));
        assert!(allowed(&rules, BLOCK, MAKE, 254, 0));
        assert!(!allowed(&rules, BLOCK, MAKE | READ, 254, 0));
        assert!(!allowed(&rules, BLOCK, READ, 254, 0));
        assert!(allowed(&rules, CHAR, READ | WRITE | MAKE, 136, 77));
        assert!(!allowed(&[], CHAR, READ, 1, 3));
    }

    #[test]
    fn v1_lines_name_what_is_allowed() {
        assert_eq!(Rule::char(1, 3).lines(), ["c 1:3 rwm"]);
        let any = Rule { kind: Kind::Any, major: None, minor: Some(1), access: Access::MAKE };
        assert_eq!(any.lines(), ["c *:1 m", "b *:1 m"]);
    }

    #[test]
    fn access_letters_are_checked() {
        assert_eq!(Access::parse("rwm"), Some(Access::ALL));
        assert_eq!(Access::parse("m"), Some(Access::MAKE));
        assert_eq!(Access::parse(""), None);
        assert_eq!(Access::parse("rx"), None);
    }

    /// Needs root and a v2 tree, as every privileged test.
    #[test]
    fn the_kernel_takes_the_program() {
        load(&[Rule::char(1, 3), Rule { kind: Kind::Block, major: None, minor: None, access: Access::MAKE }]).unwrap();
        load(&[]).unwrap();
    }
}
