//! Last good contents on disk, so that a restart forgets none of them.
//!
//! ```text
//! put, remove ──> what the disk does not hold yet ──> Job, beside the scans ──> done
//!                       └────────── get ──────────── copies
//! ```
//!
//! A copy is a file named by a hash of the manifest's path. It is written through
//! to the disk, which may take seconds that no change of policy waits for. One
//! that is torn is an error and kept beside as `.corrupt`, for as long as nothing
//! better is known of its manifest: that something was in force is not forgotten
//! by the next agent either.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axon_api::manifest::{self, Document, Manifest};

use crate::copy::{self, CopyError};
use crate::write::{sync_directory, write_atomic};

/// Where copies are kept, and what is still to be written.
#[derive(Debug)]
pub(crate) struct Keep {
    directory: Option<PathBuf>,
    /// What the disk does not hold yet: at most what the manifests hold.
    pending: BTreeMap<PathBuf, Wanted>,
    /// The manifests that there are, once all others are to be forgotten.
    tidy: Option<BTreeSet<PathBuf>>,
    /// Why something is not on disk.
    failed: BTreeMap<PathBuf, String>,
}

/// A content; `None`: the manifest is gone.
type Wanted = Option<Arc<[u8]>>;

impl Keep {
    /// Copies in a directory, which is made; none: nothing is kept.
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            pending: BTreeMap::new(),
            tidy: None,
            failed: BTreeMap::new(),
        }
    }

    /// Has a manifest's content be kept.
    pub(crate) fn put(&mut self, path: &Path, content: &[u8]) {
        if self.directory.is_some() {
            self.pending.insert(path.to_owned(), Some(content.into()));
            // It has come since, and its copy may be written before that is done.
            if let Some(paths) = &mut self.tidy {
                paths.insert(path.to_owned());
            }
        }
    }

    /// Has a manifest that was removed be forgotten.
    pub(crate) fn remove(&mut self, path: &Path) {
        if self.directory.is_some() {
            self.pending.insert(path.to_owned(), None);
        }
    }

    /// Has every manifest but these be forgotten.
    pub(crate) fn retain<'a>(&mut self, paths: impl Iterator<Item = &'a Path>) {
        if self.directory.is_some() {
            self.tidy = Some(paths.map(Path::to_owned).collect());
        }
    }

    /// The documents of a manifest's last good content, none if nothing was kept.
    ///
    /// # Errors
    /// Something was kept, and is of no use.
    pub(crate) fn get(&self, path: &Path) -> Result<Vec<Document>, CopyError> {
        let Some(directory) = &self.directory else {
            return Ok(Vec::new());
        };
        if let Some(wanted) = self.pending.get(path) {
            let parsed = wanted.as_ref().and_then(|text| manifest::parse(text).ok());
            return Ok(parsed.map(|text| text.documents).unwrap_or_default());
        }
        let file = directory.join(name(path));
        match documents(&file, path) {
            Ok(Some(documents)) => Ok(documents),
            Ok(None) => documents(&aside(&file), path).map(Option::unwrap_or_default),
            Err(CopyError::Torn { .. }) if set_aside(&file) => {
                documents(&aside(&file), path).map(Option::unwrap_or_default)
            }
            Err(error) => Err(error),
        }
    }

    /// What there is to write: all of it, or what has not failed before.
    pub(crate) fn job(&mut self, again: bool) -> Option<Job> {
        let directory = self.directory.clone()?;
        let mut wanted = self.pending.clone();
        if !again {
            wanted.retain(|path, _| !self.failed.contains_key(path));
        }
        let tidy = self.tidy.clone();
        let tidy = tidy.filter(|_| again || !self.failed.contains_key(&directory));
        (tidy.is_some() || !wanted.is_empty()).then_some(Job {
            directory,
            wanted,
            tidy,
        })
    }

    /// Takes note of what became of a job; whether what has failed is news.
    pub(crate) fn done(&mut self, done: Done) -> bool {
        let before = self.failed.clone();
        match (done.tidied, &self.directory) {
            (Some(Ok(())), Some(directory)) => {
                self.failed.remove(directory);
                self.tidy = None;
            }
            (Some(Err(error)), Some(directory)) => self.fail(directory.clone(), error),
            _ => {}
        }
        for (path, wanted, result) in done.wanted {
            match result {
                Ok(()) => {
                    self.failed.remove(&path);
                    if self
                        .pending
                        .get(&path)
                        .is_some_and(|now| same(now, &wanted))
                    {
                        self.pending.remove(&path);
                    }
                }
                Err(error) => self.fail(path, error),
            }
        }
        self.failed != before
    }

    fn fail(&mut self, path: PathBuf, error: String) {
        if self.failed.get(&path) != Some(&error) {
            tracing::warn!(
                path = %path.display(),
                error,
                "what is kept for a restart does not follow"
            );
        }
        self.failed.insert(path, error);
    }

    /// The manifests whose last good content is not on disk, and why; the
    /// directory itself, if others are still in it.
    pub(crate) fn failed(&self) -> impl Iterator<Item = (&Path, &str)> {
        let failed = self.failed.iter();
        failed.map(|(path, error)| (path.as_path(), error.as_str()))
    }
}

/// Whether both are one, not only alike.
fn same(a: &Wanted, b: &Wanted) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

/// What is to be written. One is under way at a time.
#[derive(Debug)]
pub(crate) struct Job {
    directory: PathBuf,
    wanted: BTreeMap<PathBuf, Wanted>,
    tidy: Option<BTreeSet<PathBuf>>,
}

/// What became of a job.
#[derive(Debug)]
pub(crate) struct Done {
    /// Of each manifest, what was wanted, and whether it is so.
    wanted: Vec<(PathBuf, Wanted, Result<(), String>)>,
    /// Whether all others are forgotten, if that was to be done.
    tidied: Option<Result<(), String>>,
}

impl Job {
    /// Writes everything, and waits for the disk.
    pub(crate) fn run(self) -> Done {
        let tidied = self
            .tidy
            .as_ref()
            .map(|paths| tidy(&self.directory, paths).map_err(|error| error.to_string()));
        let directory = self.directory.as_path();
        let made = make(directory).map_err(|error| error.to_string());
        let carry_out = |(path, wanted): (PathBuf, Wanted)| {
            let done = match &wanted {
                Some(content) => made.clone().and_then(|()| {
                    put(directory, &path, content).map_err(|error| error.to_string())
                }),
                None => remove(directory, &path).map_err(|error| error.to_string()),
            };
            (path, wanted, done)
        };
        let mut done: Vec<_> = self.wanted.into_iter().map(carry_out).collect();
        // Once for all of them, also for what a job before has written in vain.
        let settled = sync_directory(directory).map_err(|error| error.to_string());
        for (path, wanted, done) in &mut done {
            if wanted.is_some() && done.is_ok() {
                done.clone_from(&settled);
                // What was lost is not missed any more.
                if settled.is_ok() {
                    forget(&aside(&directory.join(name(path))));
                }
            }
        }
        Done {
            wanted: done,
            tidied,
        }
    }
}

fn make(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    directory.parent().map_or(Ok(()), sync_directory)
}

/// Writes a manifest's content, if it is not there already.
fn put(directory: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let (name, copy) = (name(path), copy::encode(path, content));
    let file = directory.join(&name);
    let known = copy::read(&file);
    // An agent that starts again finds most of them as it has left them.
    if matches!(&known, Ok(Some(bytes)) if *bytes == copy) {
        return Ok(());
    }
    let known = known.and_then(|bytes| match &bytes {
        Some(bytes) => copy::decode(&file, path, bytes).map(drop),
        None => Ok(()),
    });
    if let Err(error @ CopyError::Torn { .. }) = known {
        tracing::warn!(%error, "a kept content was damaged; it was not needed, and is written anew");
        // Nothing is renamed onto a directory.
        if !file.is_file() {
            set_aside(&file);
        }
    }
    write_atomic(directory, &name, &copy, File::sync_data)
}

fn remove(directory: &Path, path: &Path) -> io::Result<()> {
    let file = directory.join(name(path));
    forget(&aside(&file));
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Forgets every manifest but these, and what writes that were cut off have left.
fn tidy(directory: &Path, paths: &BTreeSet<PathBuf>) -> io::Result<()> {
    let files = paths.iter().map(|path| directory.join(name(path)));
    let known: BTreeSet<PathBuf> = files.flat_map(|file| [aside(&file), file]).collect();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        // Nothing was ever kept there.
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut done = Ok(());
    for entry in entries {
        let path = entry?.path();
        if known.contains(&path) {
            continue;
        }
        match fs::remove_file(&path) {
            // No copy of ours: `lost+found` perhaps.
            Err(error) if is_absent(&error) || error.kind() == io::ErrorKind::IsADirectory => {}
            removed => done = done.and(removed),
        }
    }
    done
}

fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

fn forget(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a kept content stays");
        }
        _ => {}
    }
}

/// The documents in a copy; `None` if there is none of this manifest.
fn documents(file: &Path, path: &Path) -> Result<Option<Vec<Document>>, CopyError> {
    let Some(bytes) = copy::read(file)? else {
        return Ok(None);
    };
    let Some(content) = copy::decode(file, path, &bytes)? else {
        return Ok(None);
    };
    let parsed = manifest::parse(content).map_err(|error| CopyError::Parse {
        copy: file.to_owned(),
        error,
    });
    let Manifest {
        documents, refused, ..
    } = parsed?;
    for refusal in refused {
        // An agent before took it.
        let (kind, object, error) = (refusal.kind, refusal.key, refusal.error);
        tracing::error!(path = %path.display(), kind, %object, %error, "a kept policy is refused");
    }
    Ok(Some(documents))
}

/// Where a copy that is torn is kept.
fn aside(file: &Path) -> PathBuf {
    file.with_extension("yaml.corrupt")
}

/// Moves what is torn aside; whether that was done.
fn set_aside(file: &Path) -> bool {
    let moved = fs::rename(file, aside(file));
    if let Err(error) = &moved {
        tracing::warn!(path = %file.display(), %error, "what is torn cannot be moved aside");
    }
    moved.is_ok()
}

/// The name of a path's copy: FNV-1a, which stays the same in every build.
fn name(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}.yaml")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};

    use super::{Keep, aside, name};
    use crate::copy::CopyError;

    const MANIFEST: &str = "/m/a.yaml";

    struct Bench {
        dir: tempfile::TempDir,
        keep: Keep,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let keep = Keep::new(Some(dir.path().into()));
            Self { dir, keep }
        }

        fn copy(&self) -> PathBuf {
            self.dir.path().join(name(Path::new(MANIFEST)))
        }

        fn put(&mut self, content: &str) {
            self.keep.put(Path::new(MANIFEST), content.as_bytes());
        }

        /// Has everything on disk; whether what has failed is news.
        fn write(&mut self) -> bool {
            let job = self.keep.job(true).expect("something to write");
            self.keep.done(job.run())
        }

        /// Names of what an agent that starts finds, each with its line.
        fn get(&self) -> Result<Vec<String>, CopyError> {
            let keep = Keep::new(Some(self.dir.path().into()));
            texts(&keep)
        }
    }

    fn texts(keep: &Keep) -> Result<Vec<String>, CopyError> {
        let documents = keep.get(Path::new(MANIFEST))?;
        Ok(documents.iter().map(|d| d.key.to_string()).collect())
    }

    fn pod(name: &str) -> String {
        format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}}}\n")
    }

    #[test]
    fn what_is_kept_already_is_not_written_again() {
        let mut bench = Bench::new();
        let put = |bench: &mut Bench, content: &str| {
            bench.put(content);
            assert!(!bench.write());
            fs::metadata(bench.copy()).expect("kept").ino()
        };
        let first = put(&mut bench, "a: 1\n");
        assert_eq!(put(&mut bench, "a: 1\n"), first);
        // Both are there at once, so that the number is another one.
        assert_ne!(put(&mut bench, "a: 2\n"), first);
        assert!(fs::read(bench.copy()).expect("kept").ends_with(b"\na: 2\n"));
        assert!(bench.keep.job(true).is_none(), "nothing is left to do");
    }

    #[test]
    fn what_is_not_on_disk_yet_is_known() {
        let mut bench = Bench::new();
        assert_eq!(texts(&bench.keep), Ok(vec![]));
        bench.put(&pod("a"));
        assert_eq!(texts(&bench.keep), Ok(vec!["default/a".to_owned()]));
        let job = bench.keep.job(true).expect("a job");
        bench.put(&pod("b"));
        bench.keep.done(job.run());
        assert_eq!(texts(&bench.keep), Ok(vec!["default/b".to_owned()]));
        assert_eq!(bench.get(), Ok(vec!["default/a".to_owned()]));
        bench.write();
        assert_eq!(bench.get(), Ok(vec!["default/b".to_owned()]));
        bench.keep.remove(Path::new(MANIFEST));
        assert_eq!(texts(&bench.keep), Ok(vec![]));
        bench.write();
        assert_eq!(bench.get(), Ok(vec![]));
        assert!(!bench.copy().exists());
    }

    #[test]
    fn a_torn_copy_is_an_error_until_another_takes_its_place() {
        let mut bench = Bench::new();
        bench.put(&pod("a"));
        bench.write();
        let (copy, whole) = (bench.copy(), fs::read(bench.copy()).expect("kept"));
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 4;
        let cuts = (0..whole.len()).map(|length| whole[..length].to_vec());
        for bytes in cuts.chain([flipped, whole.repeat(2)]) {
            fs::write(&copy, &bytes).expect("torn");
            let told = bench.get().expect_err("torn");
            assert!(matches!(told, CopyError::Torn { .. }), "{told}");
            assert_eq!(fs::read(aside(&copy)).expect("kept aside"), bytes);
            assert!(!copy.exists());
            // By the next agent the same.
            assert_eq!(bench.get(), Err(told));
            bench.put(&pod("b"));
            assert!(!bench.write());
            assert!(!aside(&copy).exists(), "nothing is missed any more");
            assert_eq!(bench.get(), Ok(vec!["default/b".to_owned()]));
        }
        // Torn, and nobody needs it.
        fs::write(&copy, "").expect("torn");
        bench.put(&pod("c"));
        bench.write();
        assert_eq!(bench.get(), Ok(vec!["default/c".to_owned()]));
        // It goes with its manifest, also from beside.
        fs::write(&copy, "").expect("torn");
        bench.get().expect_err("torn");
        bench.keep.remove(Path::new(MANIFEST));
        bench.write();
        assert_eq!(bench.get(), Ok(vec![]));
    }

    #[test]
    fn a_directory_in_its_place_is_an_error_and_moved_out_of_the_way() {
        let mut bench = Bench::new();
        let copy = bench.copy();
        fs::create_dir(&copy).expect("in the way");
        let told = bench.get().expect_err("a directory").to_string();
        let expected = "expected a file, found a directory";
        assert!(told.ends_with(expected), "{told}");
        assert!(
            told.starts_with(aside(&copy).to_str().expect("text")),
            "{told}"
        );
        assert!(bench.get().is_err(), "not forgotten");
        fs::remove_dir(aside(&copy)).expect("removed");
        fs::create_dir(&copy).expect("in the way");
        bench.put(&pod("a"));
        assert!(!bench.write());
        assert_eq!(bench.get(), Ok(vec!["default/a".to_owned()]));
    }

    #[test]
    fn a_copy_of_an_agent_before_is_read_and_written_anew() {
        let mut bench = Bench::new();
        let text = pod("a");
        fs::write(bench.copy(), format!("# {MANIFEST}\n{text}")).expect("written");
        assert_eq!(bench.get(), Ok(vec!["default/a".to_owned()]));
        bench.put(&text);
        bench.write();
        assert_eq!(bench.get(), Ok(vec!["default/a".to_owned()]));
        let copy = fs::read_to_string(bench.copy()).expect("kept");
        assert!(copy.starts_with("# axon-copy 1 "), "{copy}");
        // What does not parse is not nothing.
        fs::write(bench.copy(), format!("# {MANIFEST}\nkind: [\n")).expect("written");
        let told = bench.get().expect_err("no manifest");
        assert!(matches!(told, CopyError::Parse { .. }), "{told}");
        assert!(bench.copy().exists(), "another agent may understand it");
    }

    #[test]
    fn what_could_not_be_written_is_told_and_tried_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let lib = dir.path().join("lib");
        fs::write(&lib, "in the way").expect("a file");
        let mut keep = Keep::new(Some(lib.join("sources")));
        keep.put(Path::new(MANIFEST), b"a: 1\n");
        let job = keep.job(true).expect("a job");
        assert!(keep.done(job.run()));
        let failed: Vec<_> = keep.failed().map(|(path, _)| path.to_owned()).collect();
        assert_eq!(failed, [Path::new(MANIFEST)]);
        assert!(keep.job(false).is_none(), "a full disk is not stormed");
        let job = keep.job(true).expect("a job");
        assert!(!keep.done(job.run()), "it is told once");
        fs::remove_file(&lib).expect("out of the way");
        let job = keep.job(true).expect("a job");
        assert!(keep.done(job.run()));
        assert_eq!(keep.failed().count(), 0);
        assert!(keep.job(true).is_none());
    }

    #[test]
    fn what_could_not_be_forgotten_is_told_and_tried_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let (lib, away) = (dir.path().join("lib"), dir.path().join("away"));
        let gone = lib.join(name(Path::new("/m/gone.yaml")));
        let mut keep = Keep::new(Some(lib.clone()));
        fs::create_dir(&lib).expect("a folder");
        fs::write(&gone, "").expect("written");
        keep.retain([Path::new(MANIFEST)].into_iter());
        drop(keep.job(true).expect("a job that breaks"));
        // No folder can be read there, whoever asks.
        fs::rename(&lib, &away).expect("away");
        std::os::unix::fs::symlink("lib", &lib).expect("a loop");
        let job = keep.job(true).expect("a job");
        assert!(keep.done(job.run()));
        let failed: Vec<_> = keep.failed().map(|(path, _)| path.to_owned()).collect();
        assert_eq!(failed, [lib.as_path()]);
        assert!(keep.job(false).is_none(), "it is not stormed");
        fs::remove_file(&lib).expect("out of the way");
        fs::rename(&away, &lib).expect("back");
        // What has come since, and is written already.
        keep.put(Path::new("/m/new.yaml"), b"a: 1\n");
        let new = lib.join(name(Path::new("/m/new.yaml")));
        fs::write(&new, "").expect("written");
        let job = keep.job(true).expect("a job");
        assert!(keep.done(job.run()));
        assert_eq!(keep.failed().count(), 0);
        assert!(new.exists() && !gone.exists());
        assert!(keep.job(true).is_none());
    }

    #[test]
    fn what_no_manifest_has_is_forgotten() {
        let mut bench = Bench::new();
        bench.put(&pod("a"));
        bench.write();
        let other = bench.dir.path().join(name(Path::new("/m/gone.yaml")));
        let half = bench.dir.path().join(".half");
        for file in [&other, &aside(&other), &aside(&bench.copy()), &half] {
            fs::write(file, "").expect("written");
        }
        bench.keep.retain([Path::new(MANIFEST)].into_iter());
        bench.write();
        assert!(bench.copy().exists() && aside(&bench.copy()).exists());
        assert!(!other.exists() && !aside(&other).exists() && !half.exists());
    }
}
