//! What a person writes and reads: manifests, workloads, conditions, events, and what each field does. No I/O.
//!
//! ```text
//!  bytes ──document──▶ objects, every problem by file and path ──canonical──▶ one form of one meaning
//!          (yaml, decode, fields, validate)                          │
//!                                            workload: Deployment, Job, … ──▶ pods by name
//!                                            change:   old pod, new pod ──▶ nothing · in place · containers · replace
//! ```

pub mod canonical;
pub mod change;
pub mod claim;
pub mod cluster;
pub mod condition;
mod decode;
pub mod document;
pub mod duration;
pub mod env;
pub mod event;
pub mod fields;
pub mod ids;
pub mod immutable;
pub mod problem;
pub mod quantity;
pub mod sysctl;
pub mod text;
mod validate;
pub mod view;
pub mod workload;

pub use change::{PodChange, change};
pub use condition::Condition;
pub use document::{Document, Kind, Object, ObjectKey, Parsed, parse};
pub use event::{Event, EventType, Reason};
pub use ids::{ContainerName, PodKey, PodUid};
pub use problem::Problem;
pub use view::{PodView, WorkloadView};
