//! The state in an archive of `axon sysdump`. Nothing is written anywhere, and
//! what is read is bounded, whatever the archive says of itself.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Seek as _};
use std::path::Path;

use axon_api::state::NodeState;
use axon_hubble::Uuid;
use flate2::read::GzDecoder;

use crate::failure::Failure;

/// Bytes of a state, at most.
const STATE_MAX: u64 = 512 << 20;
/// Bytes that an archive may hold before its state.
const ARCHIVE_MAX: u64 = 4 << 30;
/// Files that it may hold before that.
const FILES_MAX: usize = 10_000;
/// The end of the state's name in an archive.
const STATE_FILE: &str = "api/state.json";
/// The end of the name of its flows.
const FLOWS_FILE: &str = "flows.jsonl";

/// Reads the state of an archive, or of a file that is one itself.
pub(super) fn state(path: &Path) -> Result<NodeState, Failure> {
    let wrong = |what: &str| {
        Failure::usage(format!("{}: {what}", path.display()))
            .remedy("name an archive of axon sysdump, or the api/state.json of one")
    };
    let mut file = File::open(path).map_err(|error| wrong(&error.to_string()))?;
    let mut magic = [0; 2];
    let read = file
        .read(&mut magic)
        .map_err(|error| wrong(&error.to_string()))?;
    file.rewind().map_err(|error| wrong(&error.to_string()))?;
    let file = BufReader::new(file);
    if magic.get(..read) == Some(&[0x1f, 0x8b]) {
        from_archive(GzDecoder::new(file)).map_err(|what| wrong(&what))
    } else {
        parse(file).map_err(|what| wrong(&what))
    }
}

/// The line of a flow in an archive; none if it is not there.
pub(super) fn flow(path: &Path, uuid: Uuid) -> Result<Option<String>, Failure> {
    let wrong = |what: String| {
        Failure::usage(format!("{}: {what}", path.display()))
            .remedy("name an archive of axon sysdump")
    };
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let unpacked = GzDecoder::new(BufReader::new(file));
    let name = uuid.to_string();
    let search = |flows: &mut dyn Read| {
        let lines = BufReader::new(flows.take(STATE_MAX)).lines();
        let mut lines = lines.map_while(Result::ok);
        Ok(lines.find(|line| line.contains(&name)))
    };
    within(unpacked, FLOWS_FILE, search).map_err(wrong)
}

fn from_archive(unpacked: impl Read) -> Result<NodeState, String> {
    within(unpacked, STATE_FILE, |state| parse(state))
}

/// Reads a file of an archive, by the end of its name.
fn within<T>(
    unpacked: impl Read,
    file: &str,
    read: impl FnOnce(&mut dyn Read) -> Result<T, String>,
) -> Result<T, String> {
    let mut archive = tar::Archive::new(unpacked.take(ARCHIVE_MAX));
    let broken = |error: std::io::Error| format!("is no archive: {error}");
    for entry in archive.entries().map_err(broken)?.take(FILES_MAX) {
        let mut entry = entry.map_err(broken)?;
        let is_meant = entry.path_bytes().ends_with(file.as_bytes());
        if is_meant && entry.header().entry_type().is_file() {
            return read(&mut entry);
        }
    }
    Err(format!("holds no {file}"))
}

/// Nothing is kept of what comes after [`STATE_MAX`]: then it is cut short, and
/// no JSON.
fn parse(text: impl Read) -> Result<NodeState, String> {
    let text = BufReader::new(text.take(STATE_MAX));
    serde_json::from_reader(text).map_err(|error| format!("{STATE_FILE} is no state: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use axon_api::state::NodeState;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::state;

    fn archive(name: &str, content: &[u8]) -> Vec<u8> {
        let packed = GzEncoder::new(Vec::new(), Compression::fast());
        let mut archive = tar::Builder::new(packed);
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, name, content)
            .expect("added");
        archive.into_inner().expect("ends").finish().expect("ends")
    }

    fn read(bytes: &[u8]) -> Result<NodeState, String> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(bytes).expect("written");
        state(file.path()).map_err(|failure| failure.text())
    }

    #[test]
    fn a_state_is_found_packed_and_bare() {
        let node = NodeState {
            node: "one".into(),
            ..NodeState::default()
        };
        let text = serde_json::to_vec(&node).expect("json");
        let packed = archive("axon-sysdump-one/api/state.json", &text);
        assert_eq!(read(&packed), Ok(node.clone()));
        assert_eq!(read(&text), Ok(node));
    }

    #[test]
    fn what_is_none_is_refused_in_words() {
        let short = archive("a/api/state.json", b"{\"version\":1}");
        let mut cut = short.clone();
        cut.truncate(short.len() / 2);
        let mut forged = short.clone();
        for byte in forged.iter_mut().skip(40) {
            *byte ^= 0x55;
        }
        for (name, bytes, expected) in [
            ("nothing", Vec::new(), "no state"),
            ("text", b"hello".to_vec(), "no state"),
            (
                "a file that is another",
                archive("a/b.json", b"{}"),
                "holds no api/state.json",
            ),
            ("less than a state", short, "missing field"),
            ("half of one", cut, ""),
            ("forged", forged, ""),
            ("no archive", [0x1f, 0x8b].to_vec(), "no archive"),
        ] {
            let error = read(&bytes).expect_err(name);
            assert!(error.contains(expected), "{name}: {error}");
        }
    }
}
