//! Tables against the kernel, in network namespaces of their own.

use super::*;
use crate::sys::namespace::{Namespace, unshare};

fn apart(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let inside = || {
            unshare(&[Namespace::Net]).unwrap();
            work();
        };
        scope.spawn(inside).join().unwrap();
    });
}

fn rule(matches: Vec<Match>, verdict: Verdict) -> Rule {
    Rule { matches, verdict, comment: "default/web".into() }
}

/// Every match and every verdict, where the kernel allows it.
fn everything() -> Table {
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let (four, six): (IpAddr, IpAddr) = ("10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap());
    let port = |protocol| vec![Match::Protocol(protocol), Match::ToPort(8080)];
    let with = |mut matches: Vec<Match>, more: Match| {
        matches.push(more);
        matches
    };
    let redirects = vec![
        rule(with(port(Protocol::Tcp), Match::ToThisHost), Verdict::Redirect(four, 80)),
        rule(with(port(Protocol::Udp), Match::FamilyOf(six)), Verdict::Redirect(six, 80)),
        rule(with(port(Protocol::Sctp), Match::To(net("10.0.0.1/32"))), Verdict::Redirect(four, 80)),
        rule(with(port(Protocol::Tcp), Match::OneIn(3)), Verdict::Redirect(four, 80)),
        rule(with(port(Protocol::Tcp), Match::Share { of: 2, is: 1, v6: false }), Verdict::Redirect(four, 80)),
        rule(with(port(Protocol::Tcp), Match::Share { of: 2, is: 0, v6: true }), Verdict::Redirect(six, 80)),
    ];
    let chain = |name: &str, hook, rules| Chain { name: name.to_owned(), hook, rules };
    let jump = || vec![rule(vec![], Verdict::Jump("ports".into()))];
    let reject = || vec![rule(vec![Match::To(net("fd01::/64"))], Verdict::Reject)];
    Table {
        name: "lamina-test".into(),
        chains: vec![
            chain("ports", None, redirects),
            chain("raw", Some(Hook::Raw), vec![rule(vec![Match::In("b0".into())], Verdict::Drop)]),
            chain("in", Some(Hook::Incoming), jump()),
            chain("out", Some(Hook::Outgoing), jump()),
            chain("to", Some(Hook::ToHost), reject()),
            chain("through", Some(Hook::Through), reject()),
            chain("from", Some(Hook::FromHost), reject()),
            chain(
                "leave",
                Some(Hook::Leaving),
                vec![
                    rule(vec![Match::From(net("10.0.0.0/9")), Match::NotOut("b0".into())], Verdict::Masquerade),
                    rule(vec![Match::Redirected, Match::Out("b0".into())], Verdict::Masquerade),
                ],
            ),
        ],
    }
}

#[test]
fn the_kernel_takes_every_match_and_verdict_again_and_again() {
    apart(|| {
        let (table, mut tables) = (everything(), Tables::default());
        tables.replace(&table).unwrap();
        tables.replace(&table).unwrap();
        tables.remove(&table.name).unwrap();
        tables.remove(&table.name).unwrap();
    });
}

#[test]
fn a_table_of_thousands_of_rules_is_replaced_at_once() {
    apart(|| {
        let (mut table, mut tables) = (everything(), Tables::default());
        let rules = table.chains[0].rules.clone();
        for _ in 0..500 {
            table.chains[0].rules.extend(rules.iter().cloned());
        }
        tables.replace(&table).unwrap();
        tables.remove(&table.name).unwrap();
    });
}

#[test]
fn a_wrong_rule_changes_nothing() {
    apart(|| {
        let (mut table, mut tables) = (everything(), Tables::default());
        table.chains[1].rules[0].verdict = Verdict::Jump("nowhere".into());
        let error = tables.replace(&table).unwrap_err();
        assert!(error.is(libc::ENOENT), "{error}");
        tables.replace(&everything()).unwrap();
    });
}
