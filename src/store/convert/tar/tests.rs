//! Tests of the tar parser.
