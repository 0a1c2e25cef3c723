//! The store as its users see it: what is kept, what goes, what a crash leaves, who may open it.

mod full_disk;
mod images;
mod model;
mod opening;
mod roots;
mod support;
mod sweeping;
