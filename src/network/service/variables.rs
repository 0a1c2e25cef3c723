//! The variables by which a container finds services, as a kubelet makes them: `<NAME>_SERVICE_HOST` and
//! `<NAME>_SERVICE_PORT`, one more for each named port, and those that linked containers once had.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;

use crate::network::Protocol;

/// A name as part of a variable's.
fn part(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// The variables of a service that has `address`; none without a port.
pub(in crate::network) fn variables(service: &Service, address: IpAddr) -> Vec<(String, String)> {
    let name = part(service.metadata.name.as_deref().unwrap_or_default());
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    let mut made = Vec::new();
    let host = match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    for (i, port) in ports.enumerate() {
        let number = port.port;
        let protocol = Protocol::of(port.protocol.as_deref()).to_string();
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{host}:{number}");
        if i == 0 {
            made.push((format!("{name}_SERVICE_HOST"), address.to_string()));
            made.push((format!("{name}_SERVICE_PORT"), number.to_string()));
            made.push((format!("{name}_PORT"), url.clone()));
        }
        if let Some(called) = port.name.as_deref().filter(|n| !n.is_empty()) {
            made.push((format!("{name}_SERVICE_PORT_{}", part(called)), number.to_string()));
        }
        let link = format!("{name}_PORT_{number}_{protocol}");
        made.push((link.clone(), url));
        made.push((format!("{link}_PROTO"), lower));
        made.push((format!("{link}_PORT"), number.to_string()));
        made.push((format!("{link}_ADDR"), address.to_string()));
    }
    made
}
