//! The agent on the node's address, for others than root of the node: metrics, and in a cluster as much of the API as
//! `kubectl lamina` uses, over TLS and to whoever the API server says may (`access`).
//!
//! ```text
//! prometheus, kubectl lamina ──TLS, bearer token──▶ node address:9640 ──▶ access ──▶ health, routes
//! ```

mod access;
mod identity;
mod listener;

use std::sync::Arc;

use axum::Router;

use self::access::Gate;
use self::listener::Secure;
use super::{Open, Server, State, health, routes};
use crate::source::kubernetes::access::Access;

pub use identity::{Error, Identity};

impl Server {
    /// Serves metrics and health over TLS; with `access`, only to whoever may see them, and the API too.
    pub fn secure(&self, open: Open, identity: &Identity, access: Option<Access>) {
        let secure = Secure::new(open.listener, open.address, identity);
        let serve = axum::serve(secure, router(Arc::clone(&self.0), access));
        let serve = serve.with_graceful_shutdown(self.0.stop.clone().cancelled_owned());
        self.0.tasks.spawn(async move {
            if let Err(error) = serve.await {
                tracing::error!(%error, "the agent no longer answers on the node's address");
            }
        });
    }
}

fn router(state: Arc<State>, access: Option<Access>) -> Router {
    let open = health::router(Arc::clone(&state));
    match access {
        None => open,
        Some(access) => {
            let gate = Arc::new(Gate::new(access, state.node.machine().node.clone()));
            let all = open.merge(routes::router(state));
            all.layer(axum::middleware::from_fn_with_state(gate, access::check))
        }
    }
}
