//! Files that somebody is writing, or has just written.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axon_sources::{Config, FileError, SourceStatus, write_manifest_atomic};

use crate::{Running, pod, policy, until_kept};

/// Longer than any test waits.
const NEVER: Duration = Duration::from_secs(3600);

impl Running {
    async fn until_policy(&self, description: &str) {
        let is = |_: &SourceStatus| self.policy().as_deref() == Some(description);
        self.until(description, is).await;
    }

    /// What no writer has closed is not read, however long it takes.
    async fn patient(dir: &Path) -> Self {
        let running = Self::start(patient(dir));
        running.until("complete", |s| s.complete).await;
        running
    }
}

fn patient(dir: &Path) -> Config {
    Config {
        writer: NEVER,
        ..Config::new(vec![dir.to_owned()])
    }
}

#[tokio::test]
async fn a_file_is_not_read_in_the_middle_of_being_written() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("p.yaml");
    fs::write(&file, policy("one", "") + &pod("a")).expect("write");
    let running = Running::patient(dir.path()).await;
    let changes = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&changes);
    running.observed.policies.on_change(move || {
        seen.fetch_add(1, Ordering::Relaxed);
    });
    // In place and slowly: truncated, then half, then all.
    let mut writer = fs::File::create(&file).expect("open");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        running.policy().as_deref(),
        Some("one"),
        "while it is empty"
    );
    writer.write_all(pod("a").as_bytes()).expect("write");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(running.policy().as_deref(), Some("one"), "while it is half");
    writer
        .write_all(policy("two", "").as_bytes())
        .expect("write");
    drop(writer);
    running.until_policy("two").await;
    assert_eq!(
        changes.load(Ordering::Relaxed),
        1,
        "one change, not a removal and an addition"
    );
    // Replaced again and again: never absent.
    for n in 0..50 {
        write_manifest_atomic(dir.path(), "p.yaml", &policy(&format!("n{n}"), "")).expect("write");
        assert!(running.policy().is_some());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    running.until_policy("n49").await;
}

#[tokio::test]
async fn what_is_closed_or_renamed_is_in_force_at_once() {
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("p.yaml");
    // Were it waited for until they settle, nothing would come.
    let running = Running::start(Config {
        settle: NEVER,
        ..Config::new(vec![dir.path().to_owned()])
    });
    running.until("complete", |s| s.complete).await;
    // Many of them within what a file's time can tell apart.
    for n in 10..60 {
        let name = format!("n{n}");
        let text = policy(&name, "");
        if n % 2 == 0 {
            write_manifest_atomic(dir.path(), "p.yaml", &text).expect("write");
        } else {
            fs::write(&file, text).expect("write");
        }
        running.until_policy(&name).await;
    }
    fs::remove_file(&file).expect("remove");
    running
        .until("removed", |_| running.policy().is_none())
        .await;
}

#[tokio::test]
async fn a_writer_that_does_not_end_takes_nothing_out_of_force() {
    let dir = tempfile::tempdir().expect("directory");
    let kept = tempfile::tempdir().expect("directory");
    let file = dir.path().join("p.yaml");
    fs::write(&file, policy("one", "") + &pod("a")).expect("write");
    let config = || Config {
        last_good: Some(kept.path().to_owned()),
        ..Config::new(vec![dir.path().to_owned()])
    };
    let first = Running::start(config());
    first.until("complete", |s| s.complete).await;
    until_kept(kept.path(), Some("description: one")).await;
    let mut writer = fs::File::create(&file).expect("open");
    writer.write_all(pod("b").as_bytes()).expect("write");
    let is = |error: FileError| {
        move |s: &SourceStatus| s.complete && s.files.iter().any(|f| f.error == Some(error.clone()))
    };
    first.until("told", is(FileError::Open)).await;
    assert_eq!(
        first.policy().as_deref(),
        Some("one"),
        "while it is held open"
    );
    assert_eq!(first.pods(), ["default/a"]);
    writer.set_len(0).expect("truncate");
    drop(writer);
    first.until("empty", is(FileError::Empty)).await;
    let second = Running::start(config());
    second.until("empty", is(FileError::Empty)).await;
    for running in [&first, &second] {
        assert_eq!(
            running.policy().as_deref(),
            Some("one"),
            "while it is empty"
        );
        assert_eq!(running.source.status().objects, 2);
    }
    fs::write(&file, pod("b")).expect("write");
    for running in [&first, &second] {
        running.until("read", SourceStatus::is_ok).await;
        assert_eq!(
            (running.policy(), running.pods()),
            (None, vec!["default/b".to_owned()])
        );
    }
    // Closed as it was: nothing is left to tell.
    let mut writer = fs::OpenOptions::new()
        .append(true)
        .open(&file)
        .expect("open");
    writer.write_all(b"\n").expect("write");
    first.until("told", is(FileError::Open)).await;
    writer.set_len(pod("b").len() as u64).expect("truncate");
    drop(writer);
    first.until("closed", SourceStatus::is_ok).await;
    // What is new is not waited for: nothing of it is in force.
    let mut writer = fs::File::create(dir.path().join("new.yaml")).expect("open");
    writer.write_all(pod("c").as_bytes()).expect("write");
    first.until("read", |s| s.objects == 2).await;
}

#[tokio::test]
async fn a_link_made_while_it_runs_is_followed_like_any_other() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path();
    for (version, description) in [("..1", "one"), ("..2", "two")] {
        fs::create_dir(path.join(version)).expect("version");
        fs::write(path.join(version).join("p.yaml"), policy(description, "")).expect("write");
    }
    symlink("..1", path.join("..data")).expect("link");
    let running = Running::on(path).await;
    // A key that a ConfigMap has got.
    symlink("..data/p.yaml", path.join("p.yaml")).expect("link");
    running.until_policy("one").await;
    symlink("..2", path.join("..data_tmp")).expect("link");
    fs::rename(path.join("..data_tmp"), path.join("..data")).expect("swap");
    running.until_policy("two").await;
    fs::remove_file(path.join("p.yaml")).expect("remove");
    fs::write(path.join("plain"), policy("three", "")).expect("write");
    // Never closed under this name.
    fs::hard_link(path.join("plain"), path.join("p.yaml")).expect("link");
    fs::remove_file(path.join("plain")).expect("remove");
    running.until_policy("three").await;
    symlink("..data/p.yaml", path.join("link")).expect("link");
    fs::rename(path.join("link"), path.join("p.yaml")).expect("rename");
    running.until_policy("two").await;
    assert!(running.source.status().is_ok());
}

#[tokio::test]
async fn a_file_that_is_renamed_while_it_is_written_is_not_read_half() {
    let dir = tempfile::tempdir().expect("directory");
    let (file, hidden) = (dir.path().join("p.yaml"), dir.path().join(".p.tmp"));
    fs::write(&file, policy("one", "")).expect("write");
    let running = Running::patient(dir.path()).await;
    for description in ["two", "three"] {
        let mut writer = fs::File::create(&hidden).expect("open");
        writer.write_all(pod("a").as_bytes()).expect("write");
        fs::rename(&hidden, &file).expect("rename");
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            assert!(running.pods().is_empty() && running.policy().is_some());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let rest = policy(description, "");
        writer.write_all(rest.as_bytes()).expect("write");
        drop(writer);
        running.until_policy(description).await;
        assert_eq!(running.pods(), ["default/a"]);
        fs::write(&file, policy("between", "")).expect("write");
        running.until_policy("between").await;
    }
}

#[tokio::test]
async fn what_was_being_written_before_the_start_is_not_read_half() {
    let dir = tempfile::tempdir().expect("directory");
    let kept = tempfile::tempdir().expect("directory");
    let file = dir.path().join("p.yaml");
    let config = || Config {
        last_good: Some(kept.path().to_owned()),
        ..patient(dir.path())
    };
    fs::write(&file, policy("one", "")).expect("write");
    let first = Running::start(config());
    first.until("complete", |s| s.complete).await;
    until_kept(kept.path(), Some("description: one")).await;
    drop(first);
    let mut writer = fs::File::create(&file).expect("open");
    writer.write_all(pod("a").as_bytes()).expect("write");
    let second = Running::start(config());
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until {
        assert!(second.pods().is_empty() && !second.source.status().complete);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let rest = policy("two", "");
    writer.write_all(rest.as_bytes()).expect("write");
    drop(writer);
    second.until_policy("two").await;
    second.until("complete", |s| s.complete).await;
}

/// Soon after its start a source waits for writers that it may have missed; who was
/// seen to be done is none of them, however late the file is looked at.
#[tokio::test]
async fn who_was_seen_to_be_done_is_not_waited_for() {
    let dir = tempfile::tempdir().expect("directory");
    let elsewhere = tempfile::tempdir().expect("directory");
    let file = dir.path().join("p.yaml");
    fs::write(&file, policy("one", "")).expect("write");
    let running = Running::start(Config {
        settle: Duration::ZERO,
        ..patient(dir.path())
    });
    running.until("complete", |s| s.complete).await;
    let whole = elsewhere.path().join("p.yaml");
    fs::write(&whole, policy("two", "")).expect("write");
    fs::rename(&whole, &file).expect("rename");
    running.until_policy("two").await;
}
