//! Services with the addresses and ports that they were given, and what is behind them.

use serde_json::{Value, json};

use crate::api::Object;
use crate::server::State;

/// Every desired service.
pub(super) fn list(state: &State) -> Vec<Value> {
    let set = state.node.desired().borrow().clone();
    let network = &state.node.machine().network;
    let mut all = Vec::new();
    for sourced in &set.objects {
        let Object::Service(service) = sourced.object.as_ref() else { continue };
        let key = sourced.object.key();
        let mut object = serde_json::to_value(service).unwrap_or_default();
        object["metadata"]["namespace"] = json!(key.namespace);
        let granted = network.service(&key.namespace, &key.name);
        if let Some(granted) = &granted {
            if let Some(address) = granted.addresses.first() {
                object["spec"]["clusterIP"] = json!(address.to_string());
                object["spec"]["clusterIPs"] = json!(granted.addresses);
            }
            for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
                let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
                let outside =
                    granted.node_ports.iter().find(|(number, p, _)| port["port"] == *number && *p == protocol);
                if let Some((.., outside)) = outside {
                    port["nodePort"] = json!(outside);
                }
            }
        }
        object["lamina"] = json!({
            "source": sourced.source.as_str(),
            "file": sourced.file,
            "ignored": sourced.ignored,
            "endpoints": granted.map(|g| g.endpoints).unwrap_or_default(),
        });
        all.push(object);
    }
    all
}
