//! The spec's system call filter in the words of [`sys::seccomp`](crate::sys::seccomp).

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};

use super::{Error, Stage};
use crate::sys::seccomp::{Action, Architecture, Comparison, Condition, Filter, Program, Rule};

/// Compiles the spec's filter for this machine.
pub(super) fn compile(spec: &LinuxSeccomp) -> Result<Program, Error> {
    let mut rules = Vec::new();
    for syscalls in spec.syscalls().iter().flatten() {
        rules.extend(translate(syscalls)?);
    }
    let default = action(spec.default_action(), spec.default_errno_ret())?;
    let filter = Filter { default, rules, architectures: Architecture::native() };
    filter.compile().map_err(|e| Error::refuse(Stage::Privileges, format!("({e})"), libc::EINVAL))
}

fn action(action: LinuxSeccompAction, number: Option<u32>) -> Result<Action, Error> {
    let number = u16::try_from(number.unwrap_or(libc::EPERM.unsigned_abs()))
        .map_err(|_| Error::refuse(Stage::Privileges, "(system call filter: error number)", libc::ERANGE))?;
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => Action::Allow,
        LinuxSeccompAction::ScmpActErrno => Action::Errno(number),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Action::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => Action::KillProcess,
        LinuxSeccompAction::ScmpActTrap => Action::Trap,
        LinuxSeccompAction::ScmpActTrace => Action::Trace(number),
        LinuxSeccompAction::ScmpActLog => Action::Log,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(Error::refuse(Stage::Privileges, "(system call filter: notify)", libc::EOPNOTSUPP));
        }
    })
}

/// One entry of the spec; several conditions on the same argument mean "one of them", as runc reads them.
fn translate(syscalls: &LinuxSyscall) -> Result<Vec<Rule>, Error> {
    let action = action(syscalls.action(), syscalls.errno_ret())?;
    let names = syscalls.names();
    let mut conditions = Vec::new();
    for argument in syscalls.args().iter().flatten() {
        conditions.push(condition(argument)?);
    }
    let repeated = conditions
        .iter()
        .enumerate()
        .any(|(n, c)| conditions.iter().take(n).any(|earlier| earlier.argument == c.argument));
    let rule = |conditions| Rule { names: names.clone(), conditions, action };
    Ok(if repeated { conditions.into_iter().map(|c| rule(vec![c])).collect() } else { vec![rule(conditions)] })
}

fn condition(argument: &LinuxSeccompArg) -> Result<Condition, Error> {
    let value = argument.value();
    let comparison = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => Comparison::NotEqual(value),
        LinuxSeccompOperator::ScmpCmpLt => Comparison::Less(value),
        LinuxSeccompOperator::ScmpCmpLe => Comparison::LessOrEqual(value),
        LinuxSeccompOperator::ScmpCmpEq => Comparison::Equal(value),
        LinuxSeccompOperator::ScmpCmpGe => Comparison::GreaterOrEqual(value),
        LinuxSeccompOperator::ScmpCmpGt => Comparison::Greater(value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            Comparison::MaskedEqual(value, argument.value_two().unwrap_or_default())
        }
    };
    let number = u8::try_from(argument.index())
        .map_err(|_| Error::refuse(Stage::Privileges, "(system call filter: argument)", libc::EINVAL))?;
    Ok(Condition { argument: number, comparison })
}
