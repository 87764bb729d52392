//! Manifests: YAML or JSON text with any number of objects.
//!
//! ```text
//! bytes ── split ──> documents ── read ──> trees ── decode ──> objects, refusals
//!                                             └── locate ──> line of an error
//! ```
//!
//! Invariants: the text is bounded in size, depth and what its aliases expand
//! to; a key twice in one map is refused; `null` is as good as absent (but not
//! the value of a label); a kind nobody here knows is ignored, not an error, but
//! for one that is most likely a policy's misspelt.

mod decode;
mod error;
mod kinds;
mod leaves;
mod locate;
mod near;
mod object;
mod split;
mod value;

pub use error::{FieldError, ManifestError};
pub use leaves::{Leaf, PolicyDocument, line_of, policy_documents, policy_leaves};
pub use object::{Document, Manifest, Object, Refusal, to_yaml};

use value::Bounds;
pub use value::TEXT_BYTES_MAX;

/// Reads a text. Objects of namespaced kinds without a namespace are in
/// `default`; a `List` stands for its items.
///
/// # Errors
/// The first thing that is wrong with the text or with an object's form. A
/// policy whose form is right but which cannot be put in force is among
/// [`Manifest::refused`] instead.
pub fn parse(text: &[u8]) -> Result<Manifest, ManifestError> {
    let (manifest, malformed) = judge(text)?;
    match malformed.into_iter().next() {
        Some(first) => Err(first),
        None => Ok(manifest),
    }
}

/// What becomes of fields that nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// The object is refused: a rule that lacks what its author wrote may allow
    /// more than he meant.
    #[default]
    Refuse,
    /// They are left out and told, as by an API server that warns.
    Warn,
}

/// Reads a text to its end, whatever is wrong with some of its objects: what
/// is in it, and every object whose form is wrong, in their order.
///
/// # Errors
/// There is no telling the documents of the text apart.
pub fn judge(text: &[u8]) -> Result<(Manifest, Vec<ManifestError>), ManifestError> {
    judge_with(text, UnknownFields::Refuse)
}

/// As [`judge`], for who wants to know what would be left of objects without the
/// fields that nobody knows.
///
/// # Errors
/// There is no telling the documents of the text apart.
pub fn judge_with(
    text: &[u8],
    unknown: UnknownFields,
) -> Result<(Manifest, Vec<ManifestError>), ManifestError> {
    if text.len() > value::TEXT_BYTES_MAX {
        return Err(ManifestError::of_text(format!(
            "has {} bytes; expected at most {}",
            text.len(),
            value::TEXT_BYTES_MAX
        )));
    }
    let text = str::from_utf8(text).map_err(|error| {
        let good = text.get(..error.valid_up_to()).unwrap_or_default();
        ManifestError {
            line: 1 + good.iter().filter(|byte| **byte == b'\n').count(),
            ..ManifestError::of_text("is no UTF-8 text")
        }
    })?;
    let bounds = Bounds::default();
    let mut manifest = Manifest::default();
    let mut malformed = Vec::new();
    for (first_line, chunk) in split::documents(text) {
        match value::read(chunk, first_line, &bounds) {
            Ok(None) => {}
            Ok(Some(tree)) => {
                let place = decode::Place {
                    chunk,
                    first_line,
                    unknown,
                };
                decode::document(tree, place, &mut manifest, &mut malformed);
            }
            Err(error) => malformed.push(error),
        }
    }
    Ok((manifest, malformed))
}
