//! Real containers through `runtime::launch`, as root, on the machine's own kernel.
//!
//! A launch forks, and only a process of one thread may do that, so this has no test harness: the tests run one after
//! another in the main thread. `--list` and a name to filter by work as usual. At the end nothing may be left over, and
//! a canary tree beside every root must be as it was.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test says what is wrong by panicking and printing")]

mod confinement;
mod host;
mod running;
mod traps;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A test by name.
type Test = (&'static str, fn());

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let tests: Vec<Test> = [running::TESTS, confinement::TESTS, traps::TESTS].concat();
    let names = arguments.iter().filter(|a| !a.starts_with('-')).collect::<Vec<_>>();
    let exact = arguments.iter().any(|a| a == "--exact");
    let chosen = tests.into_iter().filter(|(name, _)| {
        names.is_empty() || names.iter().any(|n| if exact { *n == name } else { name.contains(n.as_str()) })
    });
    if arguments.iter().any(|a| a == "--list") {
        if !arguments.iter().any(|a| a == "--ignored") {
            chosen.for_each(|(name, _)| println!("{name}: test"));
        }
        return;
    }
    host::become_shim();
    let mut failed = Vec::new();
    for (name, test) in chosen {
        let before = host::Leftovers::look();
        let result = catch_unwind(AssertUnwindSafe(test)).and_then(|()| {
            catch_unwind(AssertUnwindSafe(|| {
                let after = host::Leftovers::look();
                assert_eq!(before, after, "something is left over");
            }))
        });
        println!("test {name} ... {}", if result.is_ok() { "ok" } else { "FAILED" });
        if result.is_err() {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
        std::process::exit(1);
    }
}
