//! Files and what of them is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use axon_api::manifest::{self, Document, Manifest, Refusal};
use axon_model::ObjectKey;

use crate::copy::CopyError;
use crate::keep::{Done, Job, Keep};
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
    /// Why it is not known what should stay in force in the place of that.
    pub(crate) lost: Option<CopyError>,
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
    /// It was closed a moment ago. The time of a later change may be told as the
    /// same: what is read now is looked at again.
    Closed,
    /// It is, or nobody knows and it has changed a moment ago.
    Now,
    /// Somebody holds it open for writing for long.
    Long,
    /// Nobody knows, for not everything was seen lately.
    Unseen,
}

/// What a pass over the files has found.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    /// Something that is in force, or is told of, has changed.
    pub(crate) changed: bool,
    /// Files that are being written: look again soon.
    pub(crate) postponed: BTreeSet<PathBuf>,
    /// What was read may change unnoticed: look again soon.
    pub(crate) again: bool,
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
                Writing::Unseen if self.is_in_force(path) => {
                    pass.postponed.insert(path.to_owned());
                }
                Writing::Long | Writing::Unseen | Writing::No => self.read(path, *stamp, &mut pass),
                Writing::Closed => {
                    self.read(path, *stamp, &mut pass);
                    pass.again = true;
                    if let Some(file) = self.files.get_mut(path) {
                        file.stamp = None;
                    }
                }
            }
        }
        pass
    }

    /// Whether what was in force of some file is lost, and nothing has come in
    /// its place.
    pub(crate) fn miss_something(&self) -> bool {
        self.files.values().any(|file| file.lost.is_some())
    }

    /// Forgets kept contents of files that are not there any more.
    pub(crate) fn tidy(&mut self) {
        self.keep.retain(self.files.keys().map(PathBuf::as_path));
    }

    /// What is to be kept, or kept no longer, for a restart; see [`Keep::job`].
    pub(crate) fn job(&mut self, again: bool) -> Option<Job> {
        self.keep.job(again)
    }

    /// Takes note of what became of that; whether what is told is news.
    pub(crate) fn kept(&mut self, done: Done) -> bool {
        self.keep.done(done)
    }

    /// The files of which that could not be done, and why.
    pub(crate) fn not_kept(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.keep.failed()
    }

    /// Reads a file, unless somebody has begun to write it since the walk.
    fn read(&mut self, path: &Path, stamp: Stamp, pass: &mut Pass) {
        if !stamp.regular {
            let error = FileError::Read("is no regular file".to_owned());
            pass.changed |= self.fail(path, error, Some(stamp));
            return;
        }
        match content(path, stamp) {
            Ok(_) if Stamp::at(path).is_ok_and(|now| now != stamp) => {
                pass.postponed.insert(path.to_owned());
            }
            Ok(content) => pass.changed |= self.take(path, stamp, &content),
            Err(error) => {
                let error = FileError::Read(error.to_string());
                pass.changed |= self.fail(path, error, None);
            }
        }
    }

    /// Puts a file's content in force; whether anything changed.
    fn take(&mut self, path: &Path, stamp: Stamp, content: &[u8]) -> bool {
        let mut hasher = DefaultHasher::new();
        hasher.write(content);
        let hash = Some(hasher.finish());
        if let Some(file) = self.files.get_mut(path) {
            file.stamp = Some(stamp);
            let unread = matches!(file.error, Some(FileError::Read(_) | FileError::Open));
            if file.hash == hash && !unread {
                return false;
            }
            file.hash = hash;
        }
        let parsed = match manifest::parse(content) {
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
            self.keep.put(path, content);
        }
        let (earlier, lost) = if manifest.refused.is_empty() {
            (Vec::new(), None)
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
        let lost = lost.filter(|_| refused.iter().any(|r| !r.earlier_in_force));
        let file = File {
            stamp: Some(stamp),
            hash,
            documents,
            error: None,
            refused,
            lost,
        };
        self.files.insert(path.to_owned(), file);
        true
    }

    /// Whether something of a file is in force, in this life or an earlier one,
    /// as far as is known.
    fn is_in_force(&self, path: &Path) -> bool {
        match self.files.get(path) {
            Some(file) => !file.documents.is_empty() || file.lost.is_some(),
            None => self.keep.get(path).map_or(true, |kept| !kept.is_empty()),
        }
    }

    /// What was in force of a file, in this life or an earlier one, and why that
    /// is not known, or not all of it.
    fn earlier(&mut self, path: &Path) -> (Vec<Document>, Option<CopyError>) {
        match self.files.get_mut(path) {
            Some(file) => (std::mem::take(&mut file.documents), file.lost.take()),
            None => match self.keep.get(path) {
                Ok(documents) => (documents, None),
                Err(lost) => {
                    tracing::error!(path = %path.display(), %lost, "what was in force is lost");
                    (Vec::new(), Some(lost))
                }
            },
        }
    }

    /// Leaves in force what is, and says why; whether that is news.
    fn fail(&mut self, path: &Path, error: FileError, stamp: Option<Stamp>) -> bool {
        if !self.files.contains_key(path) {
            let (documents, lost) = self.earlier(path);
            let file = File {
                documents,
                lost,
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

fn content(path: &Path, stamp: Stamp) -> io::Result<Vec<u8>> {
    // Else it is read in many small pieces.
    let size = usize::try_from(stamp.size.min(READ_BYTES_MAX)).unwrap_or(0);
    let mut content = Vec::with_capacity(size + 1);
    fs::File::open(path)?
        .take(READ_BYTES_MAX)
        .read_to_end(&mut content)?;
    Ok(content)
}

/// Whether there is no document in a manifest, not even one that is refused.
fn is_empty(manifest: &Manifest) -> bool {
    manifest.documents.is_empty() && manifest.refused.is_empty()
}

fn find<'a>(documents: &'a [Document], kind: &str, key: &ObjectKey) -> Option<&'a Document> {
    documents.iter().find(|d| d.kind == kind && d.key == *key)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::{Path, PathBuf};
    use std::time::{Duration, SystemTime};

    use super::{Files, Writing};
    use crate::FileError;
    use crate::keep::Keep;
    use crate::walk::walk;

    const BROKEN: &str = "kind: [\n";

    struct Bench {
        dir: tempfile::TempDir,
        files: Files,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            fs::create_dir(dir.path().join("m")).expect("a folder");
            let files = files(&dir);
            Self { dir, files }
        }

        fn manifest(&self) -> PathBuf {
            self.dir.path().join("m/a.yaml")
        }

        fn write(&self, content: &str) {
            fs::write(self.manifest(), content).expect("written");
        }

        /// What is in force and why it is not what the file says.
        fn follow(&mut self) -> (Vec<String>, Option<FileError>) {
            let found = walk(&[self.dir.path().join("m")]);
            self.files.follow(&found, |_, _| Writing::No);
            if let Some(job) = self.files.job(true) {
                self.files.kept(job.run());
            }
            let files = self.files.iter();
            let names =
                |file: &super::File| file.documents.iter().map(|d| d.key.name.clone()).collect();
            let mut found = files.map(|(_, file)| (names(file), file.error.clone()));
            found.next().unwrap_or_default()
        }

        /// The same by an agent that starts.
        fn restart(&mut self) -> (Vec<String>, Option<FileError>) {
            self.files = files(&self.dir);
            self.follow()
        }

        /// The only file of what is kept.
        fn kept(&self) -> PathBuf {
            let kept = fs::read_dir(self.dir.path().join("kept")).expect("kept");
            let kept: Vec<_> = kept.map(|entry| entry.expect("an entry").path()).collect();
            assert_eq!(kept.len(), 1, "{kept:?}");
            kept[0].clone()
        }
    }

    fn files(dir: &tempfile::TempDir) -> Files {
        Files::new(Keep::new(Some(dir.path().join("kept"))))
    }

    fn policy(name: &str, more: &str) -> String {
        format!(
            "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\n\
             spec: {{endpointSelector: {{}}, ingress: [{{fromEntities: [world]}}]{more}}}\n"
        )
    }

    /// What no agent takes.
    const REFUSED: &str = ", egressDeny: [{toFQDNs: [{matchName: a.example}]}]";

    #[test]
    fn what_should_stay_in_force_and_is_torn_is_missed_until_the_file_is_mended() {
        for (what, spoilt) in [
            ("no manifest", BROKEN.to_owned()),
            ("empty", String::new()),
            ("refused", policy("p", REFUSED)),
        ] {
            let mut bench = Bench::new();
            bench.write(&policy("p", ""));
            assert_eq!(bench.follow(), (vec!["p".to_owned()], None));
            let copy = bench.kept();
            let whole = fs::read(&copy).expect("kept");
            bench.write(&spoilt);
            assert_eq!(bench.restart().0, ["p"], "{what}");
            assert!(!bench.files.miss_something());
            for length in 0..whole.len() {
                fs::write(&copy, &whole[..length]).expect("torn");
                for life in ["first", "second"] {
                    assert!(bench.restart().0.is_empty(), "{what}, {life}");
                    assert!(bench.files.miss_something(), "{what}, {length}, {life}");
                }
                assert!(bench.kept().ends_with(format!("{}.corrupt", name(&copy))));
            }
            // What comes is no more than it says, and what is missed stays so.
            bench.write(&(spoilt + &policy("beside", REFUSED)));
            bench.follow();
            assert!(bench.files.miss_something(), "{what}");
            bench.write(&policy("q", ""));
            assert_eq!(bench.follow(), (vec!["q".to_owned()], None), "{what}");
            assert!(!bench.files.miss_something(), "{what}");
            assert_eq!(bench.kept(), copy, "{what}");
            bench.write(BROKEN);
            assert_eq!(bench.restart().0, ["q"], "{what}");
        }
    }

    #[test]
    fn what_is_missed_goes_with_its_file() {
        let mut bench = Bench::new();
        bench.write(&policy("p", ""));
        bench.follow();
        fs::write(bench.kept(), "").expect("torn");
        bench.write(BROKEN);
        bench.restart();
        assert!(bench.files.miss_something());
        fs::remove_file(bench.manifest()).expect("removed");
        assert_eq!(bench.follow(), (vec![], None));
        assert!(!bench.files.miss_something());
        // One that comes anew is not what it was.
        bench.write(BROKEN);
        assert!(matches!(bench.restart(), (names, Some(_)) if names.is_empty()));
        assert!(!bench.files.miss_something());
    }

    #[test]
    fn a_file_that_is_refused_where_its_earlier_policies_are_known_misses_nothing() {
        let mut bench = Bench::new();
        bench.write(&policy("p", ""));
        bench.follow();
        fs::write(bench.kept(), "").expect("torn");
        // Taken: what was is of no interest.
        assert_eq!(bench.restart(), (vec!["p".to_owned()], None));
        bench.write(&policy("p", REFUSED));
        assert_eq!(bench.follow(), (vec!["p".to_owned()], None));
        assert!(!bench.files.miss_something());
    }

    #[test]
    fn a_changed_file_is_noticed_whatever_its_times_say() {
        let mut bench = Bench::new();
        let now = SystemTime::now();
        let years = Duration::from_secs(20 * 365 * 86400);
        let (past, future) = (now - years, now + years);
        let mut number = 0;
        for (what, before, after) in [
            ("as ever", now, now + Duration::from_secs(1)),
            ("in the future", future, future + Duration::from_secs(1)),
            ("back from the future", future, past),
            ("in the past", past, past + Duration::from_secs(1)),
            ("older than it was", now, past),
            ("by nothing", now, now),
        ] {
            for time in [before, after] {
                // Of one length, in place.
                let name = format!("p-{number:04}");
                // Older kernels' times are no finer than a tick.
                std::thread::sleep(Duration::from_millis(20));
                bench.write(&policy(&name, ""));
                set_modified(&bench.manifest(), time);
                assert_eq!(bench.follow(), (vec![name], None), "{what}");
                number += 1;
            }
        }
    }

    fn set_modified(path: &Path, time: SystemTime) {
        let file = File::options().write(true).open(path).expect("open");
        file.set_modified(time).expect("set");
    }

    fn name(path: &Path) -> String {
        path.file_name().expect("a name").display().to_string()
    }
}
