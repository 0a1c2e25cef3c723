//! Collection: what nothing needs any more goes, at once or after its grace.

mod plan;

pub(super) use plan::{Graph, ImageNode, LayerNode};
