//! Logs: what a container may do to them, and what a reader must see.
