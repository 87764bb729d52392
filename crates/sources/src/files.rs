//! Files and what of them is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};

use axon_api::manifest::{self, Document, Manifest, Refusal};
use axon_model::ObjectKey;

use crate::keep::Keep;
use crate::walk::{Stamp, Walk};
use crate::{FileError, PolicyRefusal};

/// Bytes that are read of a file: one more than a manifest may have.
const READ_BYTES_MAX: u64 = manifest::TEXT_BYTES_MAX as u64 + 1;

/// One file.
#[derive(Debug, Default)]
pub(crate) struct File {
    /// Its state when it was last read; none: read it again.
    stamp: Option<Stamp>,
    /// Hash of what was last read.
    hash: Option<u64>,
    /// What is in force of it.
    pub(crate) documents: Vec<Document>,
    /// Why its present content is not in force.
    pub(crate) error: Option<FileError>,
    /// Policies of its present content that are not in force.
    pub(crate) refused: Vec<Refused>,
}

/// A refused policy.
#[derive(Debug)]
pub(crate) struct Refused {
    refusal: Refusal,
    earlier_in_force: bool,
}

impl Refused {
    pub(crate) fn status(&self, path: &Path) -> PolicyRefusal {
        PolicyRefusal {
            path: path.to_owned(),
            kind: self.refusal.kind.clone(),
            object: self.refusal.key.to_string(),
            error: self.refusal.error.clone(),
            earlier_in_force: self.earlier_in_force,
        }
    }
}

/// Every file of a source.
#[derive(Debug)]
pub(crate) struct Files {
    keep: Keep,
    files: BTreeMap<PathBuf, File>,
}

/// Whether a file may be in the middle of being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    /// It is as its writer wants it.
    No,
    /// It is, or was a moment ago.
    Now,
    /// Somebody holds it open for writing for long.
    Long,
}

/// What a pass over the files has found.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    /// Something that is in force, or is told of, has changed.
    pub(crate) changed: bool,
    /// Files that are being written: look again soon.
    pub(crate) postponed: BTreeSet<PathBuf>,
}

impl Files {
    pub(crate) fn new(keep: Keep) -> Self {
        Self {
            keep,
            files: BTreeMap::new(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Path, &File)> {
        self.files.iter().map(|(path, file)| (path.as_path(), file))
    }

    /// Follows what a walk has found. `writing` tells whether a file may still
    /// be in the middle of being written.
    pub(crate) fn follow(
        &mut self,
        walk: &Walk,
        writing: impl Fn(&Path, &Stamp) -> Writing,
    ) -> Pass {
        let mut pass = Pass::default();
        let found: BTreeMap<&Path, _> = walk
            .files
            .iter()
            .map(|(path, stamp)| (path.as_path(), stamp))
            .collect();
        let gone: Vec<PathBuf> = self
            .files
            .keys()
            .filter(|path| !found.contains_key(path.as_path()) && !walk.is_unknown(path))
            .cloned()
            .collect();
        for path in gone {
            self.files.remove(&path);
            self.keep.remove(&path);
            pass.changed = true;
        }
        for (path, stamp) in found {
            let stamp = match stamp {
                Ok(stamp) => stamp,
                Err(error) => {
                    let error = FileError::Read(error.to_string());
                    pass.changed |= self.fail(path, error, None);
                    continue;
                }
            };
            let known = self.files.get(path).and_then(|file| file.stamp);
            if known == Some(*stamp) {
                continue;
            }
            match writing(path, stamp) {
                Writing::Now => {
                    pass.postponed.insert(path.to_owned());
                }
                // What is half written may parse, and allow what the whole does not.
                Writing::Long if self.is_in_force(path) => {
                    pass.changed |= self.fail(path, FileError::Open, None);
                }
                Writing::Long | Writing::No => pass.changed |= self.read(path, *stamp),
            }
        }
        pass
    }

    /// Forgets kept contents of files that are not there any more.
    pub(crate) fn tidy(&self) {
        self.keep.retain(self.files.keys().map(PathBuf::as_path));
    }

    /// Reads a file; whether anything changed.
    fn read(&mut self, path: &Path, stamp: Stamp) -> bool {
        if !stamp.regular {
            let error = FileError::Read("is no regular file".to_owned());
            return self.fail(path, error, Some(stamp));
        }
        // Else it is read in many small pieces.
        let size = usize::try_from(stamp.size.min(READ_BYTES_MAX)).unwrap_or(0);
        let mut content = Vec::with_capacity(size + 1);
        let read = fs::File::open(path)
            .and_then(|file| file.take(READ_BYTES_MAX).read_to_end(&mut content));
        if let Err(error) = read {
            return self.fail(path, FileError::Read(error.to_string()), None);
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(&content);
        let hash = Some(hasher.finish());
        if let Some(file) = self.files.get_mut(path) {
            file.stamp = Some(stamp);
            let unread = matches!(file.error, Some(FileError::Read(_) | FileError::Open));
            if file.hash == hash && !unread {
                return false;
            }
            file.hash = hash;
        }
        let parsed = match manifest::parse(&content) {
            // A writer that ended after truncating it has not asked for that.
            Ok(manifest) if is_empty(&manifest) && self.is_in_force(path) => Err(FileError::Empty),
            Ok(manifest) => Ok(manifest),
            Err(error) => Err(FileError::Parse(error)),
        };
        let manifest = match parsed {
            Ok(manifest) => manifest,
            Err(error) => {
                let changed = self.fail(path, error, Some(stamp));
                if let Some(file) = self.files.get_mut(path) {
                    file.hash = hash;
                }
                return changed;
            }
        };
        if manifest.refused.is_empty() {
            self.keep.put(path, &content);
        }
        let earlier = if manifest.refused.is_empty() {
            Vec::new()
        } else {
            self.earlier(path)
        };
        let mut documents = manifest.documents;
        let mut refused = Vec::new();
        for refusal in manifest.refused {
            let earlier = find(&earlier, &refusal.kind, &refusal.key);
            refused.push(Refused {
                earlier_in_force: earlier.is_some(),
                refusal,
            });
            documents.extend(earlier.cloned());
        }
        let file = File {
            stamp: Some(stamp),
            hash,
            documents,
            error: None,
            refused,
        };
        self.files.insert(path.to_owned(), file);
        true
    }

    /// Whether something of a file is in force, in this life or an earlier one.
    fn is_in_force(&self, path: &Path) -> bool {
        match self.files.get(path) {
            Some(file) => !file.documents.is_empty(),
            None => self.keep.get(path).is_some_and(|kept| !kept.is_empty()),
        }
    }

    /// What was in force of a file: in this life or an earlier one.
    fn earlier(&mut self, path: &Path) -> Vec<Document> {
        match self.files.get_mut(path) {
            Some(file) => std::mem::take(&mut file.documents),
            None => self.keep.get(path).unwrap_or_default(),
        }
    }

    /// Leaves in force what is, and says why; whether that is news.
    fn fail(&mut self, path: &Path, error: FileError, stamp: Option<Stamp>) -> bool {
        if !self.files.contains_key(path) {
            let file = File {
                documents: self.keep.get(path).unwrap_or_default(),
                ..File::default()
            };
            self.files.insert(path.to_owned(), file);
        }
        let Some(file) = self.files.get_mut(path) else {
            return false;
        };
        file.stamp = stamp;
        let news = file.error.as_ref() != Some(&error);
        if news {
            tracing::warn!(path = %path.display(), %error, "manifest not taken; its last good content stays");
        }
        file.error = Some(error);
        news
    }
}

/// Whether there is no document in a manifest, not even one that is refused.
fn is_empty(manifest: &Manifest) -> bool {
    manifest.documents.is_empty() && manifest.refused.is_empty()
}

fn find<'a>(documents: &'a [Document], kind: &str, key: &ObjectKey) -> Option<&'a Document> {
    documents.iter().find(|d| d.kind == kind && d.key == *key)
}
