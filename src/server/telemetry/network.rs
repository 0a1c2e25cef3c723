//! A pod's network counters, from the `net/dev` of a process in its network namespace.

use super::families::{Families, Family, counter, real};
use crate::api::PodView;

/// One interface's counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    /// Bytes, packets, errors, drops.
    pub(super) receive: [u64; 4],
    /// Bytes, packets, errors, drops.
    pub(super) transmit: [u64; 4],
}

const RECEIVE: [Family; 4] = [
    counter("container_network_receive_bytes_total", "Bytes received."),
    counter("container_network_receive_packets_total", "Packets received."),
    counter("container_network_receive_errors_total", "Packets received with errors."),
    counter("container_network_receive_packets_dropped_total", "Received packets that were dropped."),
];

const TRANSMIT: [Family; 4] = [
    counter("container_network_transmit_bytes_total", "Bytes sent."),
    counter("container_network_transmit_packets_total", "Packets sent."),
    counter("container_network_transmit_errors_total", "Packets whose sending failed."),
    counter("container_network_transmit_packets_dropped_total", "Packets that were dropped before they were sent."),
];

/// The families of this module.
pub(super) fn families() -> Vec<Family> {
    RECEIVE.into_iter().chain(TRANSMIT).map(|family| family.by(&["pod", "namespace", "interface"])).collect()
}

/// A process in a pod's own network namespace; a pod on the host's network has no counters of its own.
pub(super) fn pid_of(pod: &PodView) -> Option<u32> {
    let host = pod.pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    if host { None } else { pod.lamina.containers.iter().find_map(|container| container.pid) }
}

/// All interfaces but loopback.
pub(super) fn read(pid: u32) -> Vec<Interface> {
    std::fs::read_to_string(format!("/proc/{pid}/net/dev")).map(|text| parse(&text)).unwrap_or_default()
}

fn parse(text: &str) -> Vec<Interface> {
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            let n: Vec<u64> = rest.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
            let [rb, rp, re, rd, _, _, _, _, tb, tp, te, td, ..] = n[..] else { return None };
            let name = name.trim().to_owned();
            (name != "lo").then_some(Interface { name, receive: [rb, rp, re, rd], transmit: [tb, tp, te, td] })
        })
        .collect()
}

pub(super) fn collect(out: &mut Families, pod: &[(&str, &str)], pid: u32) {
    for interface in read(pid) {
        let labels: Vec<_> = pod.iter().copied().chain([("interface", interface.name.as_str())]).collect();
        for (families, values) in [(&RECEIVE, interface.receive), (&TRANSMIT, interface.transmit)] {
            for (family, value) in families.iter().zip(values) {
                out.add(family, &labels, Some(real(value)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_and_loopback_is_left_out() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
             lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  \
             eth0: 2000 20 1 2 0 0 0 0 3000 30 3 4 0 0 0 0\n";
        let interface = Interface { name: "eth0".into(), receive: [2000, 20, 1, 2], transmit: [3000, 30, 3, 4] };
        assert_eq!(parse(text), [interface]);
    }
}
