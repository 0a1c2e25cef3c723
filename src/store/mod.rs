//! The content-addressed store on disk.

pub mod convert;
pub mod driver;
pub mod tree;
