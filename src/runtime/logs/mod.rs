//! Container logs in CRI format: one line of text a line or a part of one, rotated by size, never written through a
//! link that someone planted.
