//! What is wrong with a question.

/// Bytes of a text that quotes what was read, without the mark that it goes on.
const TEXT_MAX: usize = 300;

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
        let path = match error.path().to_string() {
            // In a field whose name is empty.
            path if path.is_empty() => ".".to_owned(),
            path => short(&path),
        };
        Self::new(path, short(&error.inner().to_string()))
    }
}

/// The beginning of a text that may be as long as what was read.
pub(crate) fn short(text: &str) -> String {
    let end = text.floor_char_boundary(TEXT_MAX);
    match text.split_at_checked(end) {
        Some((start, rest)) if !rest.is_empty() => format!("{start}..."),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{TEXT_MAX, short};

    #[test]
    fn long_texts_end_between_letters() {
        let fits = "x".repeat(TEXT_MAX);
        assert_eq!(short(&fits), fits);
        assert_eq!(short(&(fits.clone() + "y")), fits.clone() + "...");
        let letters = "\u{1f600}".repeat(TEXT_MAX);
        assert_eq!(short(&letters), "\u{1f600}".repeat(TEXT_MAX / 4) + "...");
        let odd = format!("x{letters}");
        assert_eq!(short(&odd).len(), 1 + (TEXT_MAX - 1) / 4 * 4 + 3);
    }
}
