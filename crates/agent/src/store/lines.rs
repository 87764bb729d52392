//! Lines that follow a file: what has changed since it was written.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, io_error};

/// What a file that was written whole is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    /// Its length.
    pub(crate) bytes: u64,
    /// What tells it from another.
    sum: u64,
}

impl Whole {
    /// FNV-1a: against mistakes, not against people, who may write what they
    /// like here.
    pub(super) fn of(text: &[u8]) -> Self {
        let sum = text.iter().fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self {
            bytes: text.len() as u64,
            sum,
        }
    }
}

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// The sum of the whole that the lines follow.
    follows: u64,
}

/// What was read of a file of lines.
#[derive(Debug)]
pub(crate) struct Lines<T> {
    /// Those that can be understood, up to the first that cannot.
    pub(crate) lines: Vec<T>,
    /// The sum of the whole that they follow; `None` if they do not say.
    follows: Option<u64>,
    /// The bytes from the first on that cannot be understood.
    rest: Vec<u8>,
}

impl<T> Lines<T> {
    /// Whether they may be carried out upon a whole.
    pub(crate) fn follow(&self, whole: Whole) -> bool {
        self.follows.is_none_or(|sum| sum == whole.sum)
    }

    /// How many lines cannot be understood, beside a last one that was cut off
    /// and that nobody has relied on.
    pub(crate) fn lost(&self) -> usize {
        self.rest.iter().filter(|byte| **byte == b'\n').count()
    }
}

/// What of a file's lines is not used is kept there.
fn aside(path: &Path) -> PathBuf {
    path.with_extension("changes.corrupt")
}

impl Store {
    /// Adds a line to a file, after one that tells what the lines follow; hands
    /// back the bytes of all.
    pub(crate) fn append(
        &self,
        name: &str,
        follows: Whole,
        value: &impl Serialize,
    ) -> Result<u64, StoreError> {
        let path = self.path(name);
        let append = || -> io::Result<u64> {
            let mut file = File::options().create(true).append(true).open(&path)?;
            let mut text = Vec::new();
            if file.metadata()?.len() == 0 {
                let follows = follows.sum;
                serde_json::to_writer(&mut text, &Header { follows })?;
                text.push(b'\n');
            }
            serde_json::to_writer(&mut text, value)?;
            text.push(b'\n');
            file.write_all(&text)?;
            Ok(file.metadata()?.len())
        };
        append().map_err(io_error("adding to", &path))
    }

    /// Reads the lines of a file, none if there is none, as far as they can be
    /// understood.
    pub(crate) fn read_lines<T: DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Lines<T>, StoreError> {
        let path = self.path(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io_error("reading", &path)(error)),
        };
        let mut found = Lines {
            lines: Vec::new(),
            follows: None,
            rest: Vec::new(),
        };
        for (n, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            // Without its end it is not whole, whatever it says.
            let whole = line.strip_suffix(b"\n").filter(|_| found.rest.is_empty());
            let header = whole.filter(|_| n == 0);
            if let Some(Ok(Header { follows })) = header.map(serde_json::from_slice) {
                found.follows = Some(follows);
                continue;
            }
            match whole.and_then(|line| serde_json::from_slice(line).ok()) {
                Some(value) => found.lines.push(value),
                None => found.rest.extend_from_slice(line),
            }
        }
        Ok(found)
    }

    /// Moves a file of lines that follow another whole aside; says where to.
    pub(crate) fn set_aside(&self, name: &str) -> Result<String, StoreError> {
        let path = self.path(name);
        let aside = aside(&path);
        fs::rename(&path, &aside).map_err(io_error("moving aside", &path))?;
        Ok(aside.display().to_string())
    }

    /// Keeps what cannot be understood of a file's lines beside it, where the
    /// file may be written anew; says where.
    pub(crate) fn keep_rest<T>(&self, name: &str, lines: &Lines<T>) -> Result<String, StoreError> {
        let aside = aside(&self.path(name));
        fs::write(&aside, &lines.rest).map_err(io_error("writing", &aside))?;
        Ok(aside.display().to_string())
    }
}
