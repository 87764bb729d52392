//! Manifests: YAML or JSON text with any number of objects.
//!
//! ```text
//! bytes ── parse ──> Document (line, kind, name) ── decode ──> Object, or Refusal (line, field)
//! ```
//!
//! Invariants: the text is bounded in size, depth and what its aliases expand
//! to; a key twice in one map is refused; `null` is as good as absent; a kind
//! nobody here knows is ignored, not an error.

mod error;
mod object;

pub use error::{FieldError, ManifestError};
pub use object::{Document, Manifest, Object, Refusal, parse, to_yaml};
