//! What can be wrong with a manifest, and where.

use std::fmt;

/// A field that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct FieldError {
    /// Path of the field from the object's root, as `spec.ingress[0].toPorts`.
    pub path: String,
    /// The value and what was expected of it.
    pub message: String,
}

impl FieldError {
    /// An error at a path.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

/// Why a text, or an object in it, was not taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestError {
    /// Line in the text, from 1; 0 if it is about the text as a whole.
    pub line: usize,
    /// Column in the line, from 1; 0 if not known.
    pub column: usize,
    /// Path of the field; empty if it is about the text.
    pub path: String,
    /// What is wrong, with the value and what was expected.
    pub message: String,
}

impl ManifestError {
    /// An error of the text as a whole.
    pub fn of_text(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..Self::default()
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}", self.line)?;
            if self.column > 0 {
                write!(f, ", column {}", self.column)?;
            }
            f.write_str(": ")?;
        }
        if !self.path.is_empty() {
            write_plain(f, &self.path.replace('\n', "\\n"))?;
            f.write_str(": ")?;
        }
        write_plain(f, &self.message)
    }
}

/// Writes what quotes a text of anybody's without what a terminal would obey.
fn write_plain(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let obeyed = |c: char| {
        let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        turns || c.is_control() && c != '\n'
    };
    for part in text.split_inclusive(obeyed) {
        match part.chars().next_back() {
            Some(last) if obeyed(last) => {
                f.write_str(part.strip_suffix(last).unwrap_or(part))?;
                write!(f, "{}", last.escape_default())?;
            }
            _ => f.write_str(part)?,
        }
    }
    Ok(())
}

impl std::error::Error for ManifestError {}
