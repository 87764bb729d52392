//! What is wrong with a question.

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct Problem {
    /// The field, from the root; `.` for the whole.
    pub path: String,
    /// What it is, and what was expected.
    pub message: String,
}

impl Problem {
    /// A problem with a field.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

impl From<serde_path_to_error::Error<serde_json::Error>> for Problem {
    fn from(error: serde_path_to_error::Error<serde_json::Error>) -> Self {
        Self::new(error.path().to_string(), error.inner().to_string())
    }
}
