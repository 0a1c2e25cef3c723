//! Where credentials come from, in which order.
