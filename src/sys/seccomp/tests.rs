//! The programs are run by an interpreter of classic BPF; the privileged tests load them for real.

use proptest::prelude::*;

use super::*;

/// Runs a program as the kernel would.
fn run(program: &Program, architecture: Architecture, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(architecture.audit().to_le_bytes());
    data.extend(0_u64.to_le_bytes());
    for argument in arguments {
        data.extend(argument.to_le_bytes());
    }
    let (mut accumulator, mut position) = (0_u32, 0);
    loop {
        let Instruction { code, jump_true, jump_false, value } = program.0[position];
        position += 1;
        let condition = match code {
            0x20 => {
                let at = value as usize;
                accumulator = u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
                continue;
            }
            0x54 => {
                accumulator &= value;
                continue;
            }
            0x05 => {
                position += value as usize;
                continue;
            }
            0x06 => return value,
            0x15 => accumulator == value,
            0x25 => accumulator > value,
            0x35 => accumulator >= value,
            other => panic!("instruction {other:#x}"),
        };
        position += usize::from(if condition { jump_true } else { jump_false });
    }
}

fn rule(names: &[&str], conditions: &[(u8, Comparison)], action: Action) -> Rule {
    Rule {
        names: names.iter().map(ToString::to_string).collect(),
        conditions: conditions.iter().map(|(argument, c)| Condition { argument: *argument, comparison: *c }).collect(),
        action,
    }
}

fn filter(default: Action, rules: Vec<Rule>) -> Filter {
    Filter { default, rules, architectures: vec![Architecture::X86_64, Architecture::X86] }
}

const NONE: [u64; 6] = [0; 6];

#[test]
fn names_are_numbers_of_their_architecture() {
    let program =
        filter(Action::Errno(1), vec![rule(&["read", "write", "statx"], &[], Action::Allow)]).compile().unwrap();
    assert_eq!(run(&program, Architecture::X86_64, 0, NONE), Action::Allow.value());
    assert_eq!(run(&program, Architecture::X86_64, 1, NONE), Action::Allow.value());
    assert_eq!(run(&program, Architecture::X86_64, 2, NONE), Action::Errno(1).value());
    assert_eq!(run(&program, Architecture::X86, 3, NONE), Action::Allow.value());
    assert_eq!(run(&program, Architecture::X86, 0, NONE), Action::Errno(1).value());
}

#[test]
fn another_architecture_is_killed() {
    let program = filter(Action::Allow, vec![]).compile().unwrap();
    assert_eq!(run(&program, Architecture::Aarch64, 0, NONE), Action::KillProcess.value());
}

#[test]
fn calls_newer_than_the_rules_do_not_exist_instead_of_being_forbidden() {
    let program = filter(Action::Errno(1), vec![rule(&["read", "statx"], &[], Action::Allow)]).compile().unwrap();
    assert_eq!(run(&program, Architecture::X86_64, 331, NONE), Action::Errno(1).value());
    assert_eq!(run(&program, Architecture::X86_64, 332, NONE), Action::Allow.value());
    assert_eq!(run(&program, Architecture::X86_64, 333, NONE), Action::Errno(38).value());
    assert_eq!(run(&program, Architecture::X86_64, 0x4000_0000, NONE), Action::Errno(38).value());
    assert_eq!(run(&program, Architecture::X86_64, u32::MAX, NONE), Action::Errno(38).value());
}

#[test]
fn all_conditions_of_one_rule_must_hold_and_one_rule_is_enough() {
    let rules = vec![
        rule(&["read"], &[(0, Comparison::Equal(7)), (1, Comparison::Greater(1 << 33))], Action::Allow),
        rule(&["read"], &[(2, Comparison::MaskedEqual(0xff00, 0x1200))], Action::Log),
    ];
    let program = filter(Action::Errno(1), rules).compile().unwrap();
    let of = |arguments| run(&program, Architecture::X86_64, 0, arguments);
    assert_eq!(of([7, (1 << 33) + 1, 0, 0, 0, 0]), Action::Allow.value());
    assert_eq!(of([7, 1 << 33, 0, 0, 0, 0]), Action::Errno(1).value());
    assert_eq!(of([6, 1 << 34, 0, 0, 0, 0]), Action::Errno(1).value());
    assert_eq!(of([6, 0, 0xf_12ff, 0, 0, 0]), Action::Log.value());
}

#[test]
fn a_call_has_no_seventh_argument() {
    let bad = filter(Action::Allow, vec![rule(&["read"], &[(6, Comparison::Equal(0))], Action::Allow)]);
    assert!(matches!(bad.compile(), Err(Error::Argument { argument: 6, .. })));
}

#[test]
fn a_name_that_nobody_knows_is_passed_over() {
    assert!(filter(Action::Allow, vec![rule(&["swapcontext"], &[], Action::Allow)]).compile().is_ok());
}

proptest! {
    #[test]
    fn each_comparison_is_right_for_all_numbers(value: u64, argument: u64, mask: u64, near in -2_i64..3) {
        for argument in [argument, value.wrapping_add_signed(near), value ^ (1 << 32)] {
            let cases = [
                (Comparison::Equal(value), argument == value),
                (Comparison::NotEqual(value), argument != value),
                (Comparison::Less(value), argument < value),
                (Comparison::LessOrEqual(value), argument <= value),
                (Comparison::Greater(value), argument > value),
                (Comparison::GreaterOrEqual(value), argument >= value),
                (Comparison::MaskedEqual(mask, value & mask), argument & mask == value & mask),
            ];
            for (comparison, holds) in cases {
                let program =
                    filter(Action::Errno(1), vec![rule(&["read"], &[(3, comparison)], Action::Allow)]).compile().unwrap();
                let expected = if holds { Action::Allow } else { Action::Errno(1) };
                prop_assert_eq!(
                    run(&program, Architecture::X86_64, 0, [0, 0, 0, argument, 0, 0]),
                    expected.value(), "{:?} {:#x}", comparison, argument
                );
            }
        }
    }

    #[test]
    fn any_set_of_calls_is_allowed_and_no_other(chosen in proptest::collection::btree_set(0_usize..440, 1..200)) {
        let numbers = table::numbers(Architecture::X86_64);
        let mut names: Vec<_> = numbers.iter().collect();
        names.sort();
        let picked: Vec<&str> = chosen.iter().filter_map(|n| names.get(*n).map(|(name, _)| **name)).collect();
        prop_assume!(!picked.is_empty());
        let program = filter(Action::Trap, vec![rule(&picked, &[], Action::Allow)]).compile().unwrap();
        for (name, number) in &numbers {
            let expected = if picked.contains(name) { Action::Allow } else { Action::Trap };
            prop_assert_eq!(run(&program, Architecture::X86_64, *number, NONE), expected.value());
        }
    }
}
