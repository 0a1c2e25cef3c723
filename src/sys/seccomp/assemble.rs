//! From decisions to instructions.

use std::collections::BTreeMap;

use super::table::Architecture;
use super::{Action, Comparison, Condition, Decision, Instruction};

/// `BPF_LD | BPF_W | BPF_ABS`: loads a word of `struct seccomp_data`.
const LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`.
const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JA`: jumps ahead by the value.
const JUMP: u16 = 0x05;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const IF_EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JGT | BPF_K`.
const IF_GREATER: u16 = 0x25;
/// `BPF_JMP | BPF_JGE | BPF_K`.
const IF_GREATER_OR_EQUAL: u16 = 0x35;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Private calls of 32-bit ARM begin here; they say nothing about how new the rules are.
const ARM_PRIVATE: u32 = 0x000f_0000;

/// A condition is at most six instructions, and the longest jump within one rule spans five conditions; jumps are one
/// byte.
const FAIL: u8 = u8::MAX;
const PASS: u8 = u8::MAX - 1;

const fn plain(code: u16, value: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, value }
}

const fn branch(code: u16, value: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, value }
}

/// The whole program.
pub(super) fn program(programs: &[(Architecture, BTreeMap<u32, Decision>)], default: Action) -> Vec<Instruction> {
    let mut code = vec![plain(LOAD, ARCHITECTURE)];
    for (architecture, decisions) in programs {
        let body = architecture_body(decisions, default);
        // The body may be longer than a conditional jump reaches.
        code.push(branch(IF_EQUAL, architecture.audit(), 1, 0));
        code.push(plain(JUMP, length(&body)));
        code.extend(body);
    }
    code.push(plain(RETURN, Action::KillProcess.value()));
    code
}

fn length(code: &[Instruction]) -> u32 {
    // Longer ones than the kernel takes are refused by the caller, before they are ever run.
    u32::try_from(code.len()).unwrap_or(u32::MAX)
}

/// Decisions as ranges of numbers that share one, with the gaps filled by the default.
fn architecture_body(decisions: &BTreeMap<u32, Decision>, default: Action) -> Vec<Instruction> {
    let nothing = Decision::default();
    let mut ranges: Vec<(u32, &Decision)> = vec![(0, &nothing)];
    let mut push = |start: u32, decision| match ranges.last_mut() {
        Some((last, same)) if *last == start => *same = decision,
        Some((_, same)) if *same == decision => {}
        _ => ranges.push((start, decision)),
    };
    for (number, decision) in decisions {
        push(*number, decision);
        push(number + 1, decisions.get(&(number + 1)).unwrap_or(&nothing));
    }
    let newer = Decision { conditional: Vec::new(), otherwise: Some(Action::Errno(ENOSYS)) };
    if matches!(default, Action::Errno(_))
        && let Some((newest, _)) = decisions.range(..ARM_PRIVATE).next_back()
    {
        let position = ranges.partition_point(|(start, _)| *start <= *newest);
        match ranges.get_mut(position) {
            Some(range) if range.0 == newest + 1 => range.1 = &newer,
            _ => ranges.insert(position, (newest + 1, &newer)),
        }
    }
    let mut code = vec![plain(LOAD, NUMBER)];
    code.extend(search(&ranges, default));
    code
}

/// `ENOSYS`, the same on every architecture of the table.
const ENOSYS: u16 = 38;

/// A binary search; the accumulator holds the call's number.
fn search(ranges: &[(u32, &Decision)], default: Action) -> Vec<Instruction> {
    let (left, right) = ranges.split_at(ranges.len() / 2);
    let (Some(_), Some((pivot, _))) = (left.first(), right.first()) else {
        return right.first().map_or_else(|| vec![plain(RETURN, default.value())], |(_, d)| leaf(d, default));
    };
    let below = search(left, default);
    let mut code = match u8::try_from(below.len()) {
        Ok(skip) => vec![branch(IF_GREATER_OR_EQUAL, *pivot, skip, 0)],
        Err(_) => vec![branch(IF_GREATER_OR_EQUAL, *pivot, 0, 1), plain(JUMP, length(&below))],
    };
    code.extend(below);
    code.extend(search(right, default));
    code
}

fn leaf(decision: &Decision, default: Action) -> Vec<Instruction> {
    let mut code = Vec::new();
    for (conditions, action) in &decision.conditional {
        let mut rule = Vec::new();
        for condition in conditions {
            rule.extend(test(*condition));
        }
        rule.push(plain(RETURN, action.value()));
        // A failed condition goes on behind the rule's return.
        let end = rule.len();
        for (position, instruction) in rule.iter_mut().enumerate() {
            let rest = u8::try_from(end - position - 1).unwrap_or(FAIL);
            for jump in [&mut instruction.jump_true, &mut instruction.jump_false] {
                if *jump == FAIL {
                    *jump = rest;
                }
            }
        }
        code.extend(rule);
    }
    code.push(plain(RETURN, decision.otherwise.unwrap_or(default).value()));
    code
}

/// One condition; falls through when it holds, and jumps to [`FAIL`] when it does not.
fn test(condition: Condition) -> Vec<Instruction> {
    let low = plain(LOAD, ARGUMENTS + 8 * u32::from(condition.argument));
    let high = plain(LOAD, ARGUMENTS + 8 * u32::from(condition.argument) + 4);
    let mut code = match condition.comparison {
        Comparison::Equal(value) => {
            let (h, l) = halves(value);
            vec![high, branch(IF_EQUAL, h, 0, FAIL), low, branch(IF_EQUAL, l, 0, FAIL)]
        }
        Comparison::NotEqual(value) => {
            let (h, l) = halves(value);
            vec![high, branch(IF_EQUAL, h, 0, PASS), low, branch(IF_EQUAL, l, FAIL, 0)]
        }
        Comparison::MaskedEqual(mask, value) => {
            let ((mask_h, mask_l), (h, l)) = (halves(mask), halves(value));
            let (test_h, test_l) = (branch(IF_EQUAL, h, 0, FAIL), branch(IF_EQUAL, l, 0, FAIL));
            vec![high, plain(AND, mask_h), test_h, low, plain(AND, mask_l), test_l]
        }
        Comparison::Less(value) => ordered(high, low, value, IF_GREATER_OR_EQUAL, false),
        Comparison::LessOrEqual(value) => ordered(high, low, value, IF_GREATER, false),
        Comparison::Greater(value) => ordered(high, low, value, IF_GREATER, true),
        Comparison::GreaterOrEqual(value) => ordered(high, low, value, IF_GREATER_OR_EQUAL, true),
    };
    let end = code.len();
    for (position, instruction) in code.iter_mut().enumerate() {
        let rest = u8::try_from(end - position - 1).unwrap_or_default();
        for jump in [&mut instruction.jump_true, &mut instruction.jump_false] {
            if *jump == PASS {
                *jump = rest;
            }
        }
    }
    code
}

/// The high half decides unless it is equal; then the low half does. `wanted` says which outcome of `last` holds.
fn ordered(high: Instruction, low: Instruction, value: u64, last: u16, wanted: bool) -> Vec<Instruction> {
    let (h, l) = halves(value);
    let (above, below) = if wanted { (PASS, FAIL) } else { (FAIL, PASS) };
    let decide = if wanted { branch(last, l, 0, FAIL) } else { branch(last, l, FAIL, 0) };
    // Greater: decided. Otherwise equal: look at the low half. Otherwise less: decided.
    vec![high, branch(IF_GREATER, h, above, 0), branch(IF_EQUAL, h, 0, below), low, decide]
}

#[expect(clippy::cast_possible_truncation, reason = "takes a number apart; each half fits")]
const fn halves(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}
