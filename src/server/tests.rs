//! The API over a real socket, as a client sees it.
