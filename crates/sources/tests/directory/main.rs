//! The directory source on real files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axon_model::{Observed, Origin, PolicyKind};
use axon_sources::{
    Config, DirectorySource, FileError, SourceHandle, SourceStatus, remove_manifest,
    write_manifest_atomic,
};
use tokio_util::sync::{CancellationToken, DropGuard};

mod writing;

struct Running {
    observed: Observed,
    source: SourceHandle,
    _guard: DropGuard,
}

impl Running {
    fn start(config: Config) -> Self {
        let observed = Observed::default();
        let cancel = CancellationToken::new();
        let source = DirectorySource::spawn(config, observed.clone(), cancel.clone());
        Self {
            observed,
            source,
            _guard: cancel.drop_guard(),
        }
    }

    async fn on(dir: &Path) -> Self {
        let running = Self::start(Config::new(vec![dir.to_owned()]));
        running.until("complete", |s| s.complete).await;
        running
    }

    async fn until(&self, what: &str, done: impl Fn(&SourceStatus) -> bool) -> Arc<SourceStatus> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let status = self.source.status();
            if done(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{what}: {status:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn pods(&self) -> Vec<String> {
        let pods = self.observed.pods.snapshot();
        pods.iter().map(|(key, _)| key.to_string()).collect()
    }

    /// The description of the policy `p`, if it is in force.
    fn policy(&self) -> Option<String> {
        let policy = self.observed.policies.get(&Origin {
            kind: PolicyKind::CiliumNetworkPolicy,
            namespace: "default".to_owned(),
            name: "p".to_owned(),
        })?;
        Some(policy.rules[0].description.clone())
    }
}

/// The copies in a directory once there is none, or one with this text.
async fn until_kept(dir: &Path, text: Option<&str>) -> Vec<PathBuf> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        // Hidden ones are being written.
        let is_whole = |file: &PathBuf| text.is_none() || file.extension() == Some("yaml".as_ref());
        let files = entries.map(|entry| entry.path()).filter(is_whole);
        let files: Vec<PathBuf> = files.collect();
        let has = |text| {
            let mut texts = files
                .iter()
                .filter_map(|file| fs::read_to_string(file).ok());
            texts.any(|kept| kept.contains(text))
        };
        if text.map_or(files.is_empty(), has) {
            return files;
        }
        assert!(Instant::now() < deadline, "{text:?}: {files:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn pod(name: &str) -> String {
    format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n")
}

fn policy(description: &str, more: &str) -> String {
    format!(
        "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p}}\nspec:\n  \
         description: {description}\n  endpointSelector: {{}}\n  ingress:\n  - fromEntities: [world]\n{more}"
    )
}

#[tokio::test]
async fn manifests_become_rows_and_rows_follow_them() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path();
    fs::create_dir(path.join("sub")).expect("sub");
    fs::write(
        path.join("a.yaml"),
        pod("a") + &pod("b") + &policy("one", ""),
    )
    .expect("write");
    fs::write(
        path.join("sub/c.json"),
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"c"}}"#,
    )
    .expect("write");
    fs::write(path.join("notes.txt"), "no: manifest: at all").expect("write");
    fs::write(path.join(".hidden.yaml"), pod("hidden")).expect("write");
    let running = Running::on(path).await;
    assert_eq!(running.pods(), ["default/a", "default/b", "default/c"]);
    assert!(running.observed.pods.snapshot().is_complete());
    assert!(running.source.status().is_ok());
    assert_eq!(running.source.status().objects, 4);
    write_manifest_atomic(path, "d.yaml", &pod("d")).expect("write");
    running.until("added", |s| s.objects == 5).await;
    fs::create_dir(path.join("sub/sub")).expect("sub");
    fs::write(path.join("sub/sub/e.yml"), pod("e")).expect("write");
    running.until("added below", |s| s.objects == 6).await;
    remove_manifest(path, "a.yaml").expect("remove");
    remove_manifest(path, "a.yaml").expect("remove again");
    running.until("removed", |s| s.objects == 3).await;
    assert_eq!(running.pods(), ["default/c", "default/d", "default/e"]);
    assert_eq!(running.policy(), None);
    assert!(write_manifest_atomic(path, "../x.yaml", "").is_err());
}

#[tokio::test]
async fn a_bad_file_keeps_its_last_good_content_also_across_a_restart() {
    let dir = tempfile::tempdir().expect("directory");
    let kept = tempfile::tempdir().expect("directory");
    let file = dir.path().join("p.yaml");
    let config = || Config {
        last_good: Some(kept.path().join("kept")),
        ..Config::new(vec![dir.path().to_owned()])
    };
    fs::write(&file, pod("a") + &policy("one", "")).expect("write");
    let running = Running::start(config());
    running.until("complete", |s| s.complete).await;
    until_kept(&kept.path().join("kept"), Some("description: one")).await;
    fs::write(&file, policy("two", "    toPort: []\n")).expect("write");
    for life in ["first", "second"] {
        let running = if life == "first" {
            &running
        } else {
            &Running::start(config())
        };
        let status = running
            .until("error", |s| {
                s.complete && s.files.iter().any(|f| f.error.is_some())
            })
            .await;
        let Some(FileError::Parse(error)) = &status.files[0].error else {
            panic!("{life}: {status:#?}");
        };
        assert_eq!(
            (error.line, error.path.as_str()),
            (10, "spec.ingress[0].toPort"),
            "{life}"
        );
        assert_eq!(status.objects, 2, "{life}");
        assert_eq!(running.policy().as_deref(), Some("one"), "{life}");
        assert_eq!(running.pods(), ["default/a"], "{life}");
        assert!(!status.is_ok());
    }
    fs::write(&file, policy("three", "")).expect("write");
    running.until("mended", SourceStatus::is_ok).await;
    assert_eq!(running.policy().as_deref(), Some("three"));
    assert!(running.pods().is_empty());
    fs::remove_file(&file).expect("remove");
    running.until("removed", |s| s.files.is_empty()).await;
    // What was removed is not kept.
    until_kept(&kept.path().join("kept"), None).await;
}

#[tokio::test]
async fn what_should_stay_in_force_and_is_lost_is_waited_for() {
    let dir = tempfile::tempdir().expect("directory");
    let kept = tempfile::tempdir().expect("directory");
    let file = dir.path().join("p.yaml");
    let config = || Config {
        last_good: Some(kept.path().to_owned()),
        ..Config::new(vec![dir.path().to_owned()])
    };
    fs::write(&file, policy("one", "")).expect("write");
    fs::write(dir.path().join("a.yaml"), pod("a")).expect("write");
    for mended in [true, false] {
        let first = Running::start(config());
        first.until("complete", |s| s.complete).await;
        let copies = until_kept(kept.path(), Some("description: one")).await;
        drop(first);
        let is_policy = |copy: &&PathBuf| fs::read_to_string(copy).is_ok_and(|t| t.contains("one"));
        let copy = copies.iter().find(is_policy).expect("the policy's copy");
        let text = fs::read(copy).expect("read");
        fs::write(copy, &text[..text.len() - 1]).expect("torn");
        fs::write(&file, policy("two", "    toPort: []\n")).expect("write");
        for life in ["second", "third"] {
            let running = Running::start(config());
            let status = running
                .until("lost", |s| s.files.iter().any(|f| f.lost.is_some()))
                .await;
            assert_eq!(running.pods(), ["default/a"], "others are followed");
            // Longer than it takes to read what is there.
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(!running.source.status().complete, "{life}");
            assert!(!running.observed.policies.snapshot().is_complete());
            assert!(!status.is_ok());
            let told = status.files[1].lost.as_ref().expect("lost").to_string();
            let aside = copy.with_extension("yaml.corrupt");
            assert!(
                told.starts_with(&format!("{} is torn: ", aside.display())),
                "{told}"
            );
            let expected = format!("bytes of CRC {}", &digest(&text)[..8]);
            assert!(told.contains(&expected), "{told}, not {expected}");
            if life == "second" {
                continue;
            }
            if mended {
                fs::write(&file, policy("one", "")).expect("write");
            } else {
                fs::remove_file(&file).expect("remove");
            }
            running.until("complete", |s| s.complete && s.is_ok()).await;
            assert_eq!(running.policy().is_some(), mended);
        }
    }
}

/// The digest in a copy's first line.
fn digest(copy: &[u8]) -> String {
    let text = String::from_utf8_lossy(copy);
    let first = text.lines().next().unwrap_or_default();
    first.rsplit(' ').next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn what_cannot_be_kept_is_told_and_delays_nothing() {
    let dir = tempfile::tempdir().expect("directory");
    let lib = dir.path().join("lib");
    fs::create_dir(dir.path().join("m")).expect("directory");
    fs::write(&lib, "in the way").expect("write");
    fs::write(dir.path().join("m/p.yaml"), policy("one", "")).expect("write");
    let running = Running::start(Config {
        last_good: Some(lib.join("sources")),
        rescan: Duration::from_millis(50),
        ..Config::new(vec![dir.path().join("m")])
    });
    let status = running.until("told", |s| !s.not_kept.is_empty()).await;
    assert!(status.complete && !status.is_ok());
    assert_eq!(status.not_kept[0].path, dir.path().join("m/p.yaml"));
    assert_eq!(running.policy().as_deref(), Some("one"));
    fs::remove_file(&lib).expect("remove");
    running.until("kept", SourceStatus::is_ok).await;
    until_kept(&lib.join("sources"), Some("description: one")).await;
}

#[tokio::test]
async fn a_refused_policy_leaves_the_earlier_one_in_force() {
    let dir = tempfile::tempdir().expect("directory");
    let kept = tempfile::tempdir().expect("directory");
    let file = dir.path().join("p.yaml");
    let config = || Config {
        last_good: Some(kept.path().to_owned()),
        ..Config::new(vec![dir.path().to_owned()])
    };
    fs::write(&file, policy("one", "")).expect("write");
    let first = Running::start(config());
    first.until("complete", |s| s.complete).await;
    until_kept(kept.path(), Some("description: one")).await;
    let fqdns = "  egressDeny:\n  - toFQDNs: [{matchName: a.example}]\n";
    fs::write(&file, policy("two", fqdns) + &pod("beside")).expect("write");
    first.until("refused", |s| !s.refused.is_empty()).await;
    let second = Running::start(config());
    for running in [&first, &second] {
        let status = running
            .until("refused", |s| s.complete && !s.refused.is_empty())
            .await;
        let refused = &status.refused[0];
        assert_eq!(refused.error.path, "spec.egressDeny[0].toFQDNs");
        assert_eq!(refused.error.line, 11);
        assert!(refused.earlier_in_force);
        assert_eq!(running.policy().as_deref(), Some("one"));
        assert_eq!(
            running.pods(),
            ["default/beside"],
            "the rest of the file is taken"
        );
    }
}

#[tokio::test]
async fn two_files_of_one_object_have_a_winner_and_are_told() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path();
    fs::write(path.join("b.yaml"), policy("b", "")).expect("write");
    let running = Running::on(path).await;
    assert_eq!(running.policy().as_deref(), Some("b"));
    fs::write(path.join("a.yaml"), policy("a", "")).expect("write");
    let status = running.until("conflict", |s| !s.conflicts.is_empty()).await;
    assert_eq!(status.conflicts[0].winner, path.join("a.yaml"));
    assert_eq!(status.conflicts[0].loser, path.join("b.yaml"));
    assert_eq!(running.policy().as_deref(), Some("a"));
    fs::remove_file(path.join("a.yaml")).expect("remove");
    running.until("solved", SourceStatus::is_ok).await;
    assert_eq!(running.policy().as_deref(), Some("b"));
}

#[tokio::test]
async fn a_mounted_config_map_is_swapped_by_a_link() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path();
    for (version, name) in [("..1", "a"), ("..2", "b")] {
        fs::create_dir(path.join(version)).expect("version");
        fs::write(path.join(version).join("pods.yaml"), pod(name)).expect("write");
    }
    symlink("..1", path.join("..data")).expect("link");
    symlink("..data/pods.yaml", path.join("pods.yaml")).expect("link");
    let running = Running::on(path).await;
    assert_eq!(running.pods(), ["default/a"]);
    symlink("..2", path.join("..data_tmp")).expect("link");
    fs::rename(path.join("..data_tmp"), path.join("..data")).expect("swap");
    let deadline = Instant::now() + Duration::from_secs(30);
    while running.pods() != ["default/b"] {
        assert!(Instant::now() < deadline, "{:?}", running.pods());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_directory_that_vanishes_removes_nothing() {
    let top = tempfile::tempdir().expect("directory");
    let path = top.path().join("manifests");
    let running = Running::start(Config::new(vec![path.clone()]));
    let status = running
        .until("missing", |s| !s.directories.is_empty())
        .await;
    assert!(!status.complete && !running.observed.pods.snapshot().is_complete());
    fs::create_dir(&path).expect("directory");
    fs::write(path.join("a.yaml"), pod("a")).expect("write");
    running
        .until("there", |s| s.complete && s.objects == 1)
        .await;
    fs::rename(&path, top.path().join("away")).expect("rename");
    let status = running.until("gone", |s| !s.directories.is_empty()).await;
    assert_eq!(status.directories[0].path, path);
    assert!(!status.is_ok());
    assert_eq!(running.pods(), ["default/a"]);
    fs::create_dir(&path).expect("directory");
    fs::write(path.join("b.yaml"), pod("b")).expect("write");
    running.until("back", |s| s.directories.is_empty()).await;
    running
        .until("read", |s| {
            s.files.iter().all(|f| f.path.ends_with("b.yaml"))
        })
        .await;
    assert_eq!(running.pods(), ["default/b"]);
    // The new directory is watched as the old one was.
    fs::write(path.join("c.yaml"), pod("c")).expect("write");
    running.until("watched", |s| s.objects == 2).await;
}

#[tokio::test]
async fn a_source_that_breaks_ends_with_an_error() {
    let dir = tempfile::tempdir().expect("directory");
    let running = Running::on(dir.path()).await;
    let observed = &running.observed;
    observed.pods.on_change(|| panic!("as it was told to"));
    fs::write(dir.path().join("a.yaml"), pod("a")).expect("write");
    let ended = tokio::time::timeout(Duration::from_secs(30), running.source.join());
    let broken = ended.await.expect("ended").expect_err("broken");
    let cause = std::error::Error::source(&broken).expect("a cause");
    assert!(cause.to_string().contains("as it was told to"), "{cause}");
    let stopped = Running::on(dir.path()).await;
    drop(stopped._guard);
    assert!(stopped.source.join().await.is_ok());
}

#[tokio::test]
async fn odd_files_are_told_and_harm_nothing() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path();
    fs::write(path.join("a.yaml"), pod("a")).expect("write");
    let fifo = std::process::Command::new("mkfifo")
        .arg(path.join("pipe.yaml"))
        .status();
    assert!(fifo.expect("mkfifo").success());
    symlink("nowhere", path.join("dangling.yaml")).expect("link");
    symlink(".", path.join("loop")).expect("link");
    fs::write(path.join("binary.yaml"), b"\xff\xfe\x00").expect("write");
    let running = Running::on(path).await;
    assert_eq!(running.pods(), ["default/a"]);
    let status = running.source.status();
    let told: Vec<_> = status
        .files
        .iter()
        .filter_map(|f| {
            Some((
                f.path.file_name()?.to_str()?.to_owned(),
                f.error.as_ref()?.to_string(),
            ))
        })
        .collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].1.contains("UTF-8"), "{told:?}");
    assert!(told[1].1.contains("cannot be read"), "{told:?}");
    assert!(told[2].1.contains("no regular file"), "{told:?}");
}
