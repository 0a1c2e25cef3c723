//! The plan in a simulated world.
