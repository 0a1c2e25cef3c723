//! How Lamina is deployed: the chart, the manifests that it gives with its default values, what watches over them, and the
//! image. Needs what `tests/run deployment` builds and installs (helm, promtool); nothing here talks to a network.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by panicking")]

mod chart;
mod manifests;
mod monitoring;
mod render;
