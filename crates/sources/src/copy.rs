//! A manifest's last good content as a file, which a power cut, a full disk or
//! a failing one may have left torn.
//!
//! ```text
//! # axon-copy 1 BYTES CRC32           of all that follows
//! # /etc/axon/manifests/policy.yaml   the manifest, so that a clash of names is seen
//! apiVersion: ...                     its content
//! ```
//!
//! Copies of agents before have no first line, and are taken at their word. A
//! torn one of ours cannot be taken for one of those: it does not begin with
//! the second line.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use axon_api::manifest::{ManifestError, TEXT_BYTES_MAX};

/// What a copy's first line begins with; what has another number is not understood.
const MAGIC: &str = "# axon-copy 1 ";
/// Bytes that are read of a copy: more than any has.
const READ_BYTES_MAX: u64 = TEXT_BYTES_MAX as u64 + (1 << 16);

/// Why a kept copy of a manifest's last good content is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// It is not what was written.
    #[error("{} is torn: expected {expected}, found {found}", .copy.display())]
    Torn {
        /// The copy.
        copy: PathBuf,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// It cannot be read.
    #[error("{} cannot be read: {reason}", .copy.display())]
    Read {
        /// The copy.
        copy: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is what was written, and no manifest for this agent.
    #[error("{} does not parse: {error}", .copy.display())]
    Parse {
        /// The copy.
        copy: PathBuf,
        /// Why.
        error: ManifestError,
    },
}

/// A copy of a manifest's content.
pub(crate) fn encode(manifest: &Path, content: &[u8]) -> Vec<u8> {
    let mut body = path_line(manifest);
    body.extend_from_slice(content);
    let mut copy = first_line(Sum::of(&body)).into_bytes();
    copy.append(&mut body);
    copy
}

/// Reads a copy; `None` if there is none.
pub(crate) fn read(copy: &Path) -> Result<Option<Vec<u8>>, CopyError> {
    let unreadable = |error: io::Error| CopyError::Read {
        copy: copy.to_owned(),
        reason: error.to_string(),
    };
    // Opening a pipe would wait for its writer.
    match fs::metadata(copy) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(metadata) => {
            let found = if metadata.is_dir() {
                "a directory"
            } else {
                "no regular file"
            };
            return Err(torn(copy, "a file".to_owned(), found.to_owned()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    }
    let mut bytes = Vec::new();
    File::open(copy)
        .and_then(|file| file.take(READ_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    Ok(Some(bytes))
}

/// The content in a copy's bytes; `None` if it is another manifest's.
pub(crate) fn decode<'a>(
    copy: &Path,
    manifest: &Path,
    bytes: &'a [u8],
) -> Result<Option<&'a [u8]>, CopyError> {
    let path_line = path_line(manifest);
    if let Some(content) = bytes.strip_prefix(path_line.as_slice()) {
        return Ok(Some(content));
    }
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (first, body) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
    let sum = Sum::of(body);
    // Written anew and compared, so that no byte of it is anything else.
    if first == first_line(sum).as_bytes() {
        return Ok(body.strip_prefix(path_line.as_slice()));
    }
    let claim = std::str::from_utf8(first).unwrap_or_default();
    Err(match claim.strip_prefix(MAGIC).and_then(Sum::parse) {
        Some(claimed) => torn(copy, claimed.to_string(), sum.to_string()),
        None => {
            let expected = format!("a first line \"{MAGIC}BYTES CRC32\"");
            torn(copy, expected, format!("{} bytes without", bytes.len()))
        }
    })
}

fn torn(copy: &Path, expected: String, found: String) -> CopyError {
    CopyError::Torn {
        copy: copy.to_owned(),
        expected,
        found,
    }
}

/// What bytes are known by: against mistakes, not against people, who may write
/// what they like here.
#[derive(Clone, Copy)]
struct Sum {
    bytes: usize,
    crc: u32,
}

impl Sum {
    fn of(body: &[u8]) -> Self {
        Self {
            bytes: body.len(),
            crc: crc32fast::hash(body),
        }
    }

    /// As a torn copy says it: only for words.
    fn parse(claim: &str) -> Option<Self> {
        let (bytes, crc) = claim.trim_end().split_once(' ')?;
        Some(Self {
            bytes: bytes.parse().ok()?,
            crc: u32::from_str_radix(crc, 16).ok()?,
        })
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bytes, crc } = self;
        write!(out, "{bytes} bytes of CRC {crc:08x}")
    }
}

fn first_line(Sum { bytes, crc }: Sum) -> String {
    format!("{MAGIC}{bytes} {crc:08x}\n")
}

fn path_line(manifest: &Path) -> Vec<u8> {
    let path = manifest.as_os_str().as_encoded_bytes().escape_ascii();
    format!("# {path}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{CopyError, decode, encode, read};

    const COPY: &str = "/lib/sources/1.yaml";

    fn content<'a>(manifest: &str, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, CopyError> {
        decode(Path::new(COPY), Path::new(manifest), bytes)
    }

    #[test]
    fn a_copy_is_read_as_it_was_written_and_not_otherwise() {
        for text in ["", "a: 1\n", "# axon-copy 1 2 00000000\n", "no end of line"] {
            let copy = encode(Path::new("/m/a.yaml"), text.as_bytes());
            assert_eq!(content("/m/a.yaml", &copy), Ok(Some(text.as_bytes())));
            assert_eq!(content("/m/b.yaml", &copy), Ok(None), "another manifest's");
            for length in 0..copy.len() {
                let cut = content("/m/a.yaml", &copy[..length]);
                assert!(matches!(cut, Err(CopyError::Torn { .. })), "{length}");
            }
            for flipped in 0..copy.len() * 8 {
                let mut copy = copy.clone();
                copy[flipped / 8] ^= 1 << (flipped % 8);
                let read = content("/m/a.yaml", &copy);
                assert!(matches!(read, Err(CopyError::Torn { .. })), "{flipped}");
            }
            for more in [&b"\0"[..], b"\n", b"a: 2\n", &[0; 4096]] {
                let read = [copy.as_slice(), more].concat();
                let read = content("/m/a.yaml", &read);
                assert!(matches!(read, Err(CopyError::Torn { .. })), "{more:?}");
            }
            // Blocks that never came to the disk.
            let mut zeroed = copy;
            let half = zeroed.len() / 2;
            zeroed[half..].fill(0);
            let read = content("/m/a.yaml", &zeroed);
            assert!(matches!(read, Err(CopyError::Torn { .. })));
        }
    }

    #[test]
    fn a_copy_of_an_agent_before_is_taken_at_its_word() {
        let copy = b"# /m/a\\n.yaml\na: 1\n";
        assert_eq!(content("/m/a\n.yaml", copy), Ok(Some(&b"a: 1\n"[..])));
        assert_eq!(content("/m/a\n.yaml", &copy[..14]), Ok(Some(&b""[..])));
        for (what, bytes) in [
            ("cut", &copy[..13]),
            ("nothing", &b""[..]),
            ("zeroes", &[0; 19][..]),
        ] {
            let read = content("/m/a\n.yaml", bytes);
            assert!(matches!(read, Err(CopyError::Torn { .. })), "{what}");
        }
    }

    #[test]
    fn what_is_wrong_names_file_and_what_was_expected() {
        let copy = encode(Path::new("/m/a.yaml"), b"a: 1\n");
        for (bytes, told) in [
            (
                &copy[..copy.len() - 1],
                "expected 17 bytes of CRC 75b69ee5, found 16 bytes of CRC",
            ),
            (
                &b"?"[..],
                "expected a first line \"# axon-copy 1 BYTES CRC32\", found 1 bytes without",
            ),
        ] {
            let error = content("/m/a.yaml", bytes).expect_err(told).to_string();
            assert!(
                error.starts_with(&format!("{COPY} is torn: {told}")),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(read(&dir.path().join("absent")), Ok(None));
        let error = read(dir.path()).expect_err("a folder").to_string();
        assert!(
            error.ends_with("expected a file, found a directory"),
            "{error}"
        );
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo").success());
        let error = read(&pipe).expect_err("a pipe").to_string();
        assert!(error.ends_with("found no regular file"), "{error}");
    }
}
