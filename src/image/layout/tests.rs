//! Layouts and archives that are well-formed, and those that must be refused.
