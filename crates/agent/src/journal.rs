//! The controller's numbers on disk: a file with all of them, and what has
//! changed since, a line each time. Numbers of services have files of their own, so
//! that policy does not wait for them.
//!
//! With thousands of identities the whole is not written for each that comes:
//! pods wait for it. It is written when the lines have become as long, and at
//! the first change of an agent's life, so that nothing is added to a line that
//! was cut off. The lines name the whole that they follow: those that an agent
//! has left that died between a new whole and their end, or that lie beside a
//! whole of another time, are not carried out.

use std::marker::PhantomData;

use axon_control::services::{Numbers, NumbersChange};
use axon_control::{Controller, Persisted, PersistedChange};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::endpoints::readable;
use crate::store::{CHANGES, CONTROL, SERVICE_CHANGES, SERVICES, Store, StoreError, Whole};

/// Lines may always be so long (bytes).
const CHANGES_MIN: u64 = 64 * 1024;

/// Numbers of the controller that are kept.
pub(crate) trait Kept: Default + Serialize + DeserializeOwned {
    /// How they change.
    type Change: Serialize + DeserializeOwned;
    /// The file with all of them.
    const WHOLE: &str;
    /// The file with their changes.
    const CHANGES: &str;

    /// Those of a controller.
    fn of(controller: &Controller) -> &Self;

    /// What of them has changed since this was asked last.
    fn take_change(controller: &mut Controller) -> Self::Change;

    /// Says that all of them are kept, with all that has changed.
    fn forget_change(controller: &mut Controller) {
        Self::take_change(controller);
    }

    /// Carries out a change.
    fn change(&mut self, change: Self::Change);
}

impl Kept for Persisted {
    type Change = PersistedChange;
    const WHOLE: &str = CONTROL;
    const CHANGES: &str = CHANGES;

    fn of(controller: &Controller) -> &Self {
        controller.persisted()
    }

    fn take_change(controller: &mut Controller) -> PersistedChange {
        controller.take_persisted_change()
    }

    fn change(&mut self, change: PersistedChange) {
        self.apply(change);
    }
}

impl Kept for Numbers {
    type Change = NumbersChange;
    const WHOLE: &str = SERVICES;
    const CHANGES: &str = SERVICE_CHANGES;

    fn of(controller: &Controller) -> &Self {
        controller.service_numbers()
    }

    fn take_change(controller: &mut Controller) -> NumbersChange {
        controller.take_service_numbers_change()
    }

    fn forget_change(controller: &mut Controller) {
        controller.forget_service_numbers_change();
    }

    fn change(&mut self, change: NumbersChange) {
        self.apply(change);
    }
}

/// Keeps what is on disk as the controller is.
#[derive(Debug)]
pub(crate) struct Journal<K> {
    /// The whole that the next line follows, and how many bytes of lines may;
    /// `None` while everything must be written anew before.
    room: Option<(Whole, u64)>,
    kept: PhantomData<fn() -> K>,
}

impl<K: Kept> Journal<K> {
    fn new() -> Self {
        Self {
            room: None,
            kept: PhantomData,
        }
    }

    /// What an earlier agent has known. Of what cannot be read nothing is; it
    /// is kept beside.
    ///
    /// # Errors
    /// The files cannot be opened or moved.
    pub(crate) fn open(store: &Store) -> Result<(Self, K), StoreError> {
        let read: Option<(K, Whole)> = readable(store.read_whole(K::WHOLE))?;
        let lines = store.read_lines::<K::Change>(K::CHANGES)?;
        let (mut known, whole) = read.unzip();
        // Without the whole they are all that is left of it.
        if whole.is_some_and(|whole| !lines.follow(whole)) {
            let aside = store.set_aside(K::CHANGES)?;
            let lines = lines.lines.len();
            tracing::warn!(
                lines,
                aside,
                "changes follow another {}, and are not carried out",
                K::WHOLE
            );
            return Ok((Self::new(), known.unwrap_or_default()));
        }
        // Of a last one that is cut off no row of the kernel knows the numbers.
        if lines.lost() > 0 {
            let aside = store.keep_rest(K::CHANGES, &lines)?;
            let lines = lines.lost();
            tracing::error!(lines, file = K::CHANGES, aside, "state is lost");
        }
        let numbers = known.get_or_insert_default();
        for change in lines.lines {
            numbers.change(change);
        }
        Ok((Self::new(), known.unwrap_or_default()))
    }

    /// Writes what has changed.
    ///
    /// # Errors
    /// It is not on disk; the next call writes everything.
    pub(crate) fn write(
        &mut self,
        store: &Store,
        controller: &mut Controller,
    ) -> Result<(), StoreError> {
        if let Some((whole, room)) = self.room.take() {
            let change = K::take_change(controller);
            let written = store.append(K::CHANGES, whole, &change)?;
            self.room = (written < room).then_some((whole, room));
            return Ok(());
        }
        K::forget_change(controller);
        let whole = store.write(K::WHOLE, K::of(controller))?;
        store.remove(K::CHANGES)?;
        self.room = Some((whole, whole.bytes.max(CHANGES_MIN)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use axon_control::{Config, Controller, IdentityMode, Persisted};
    use axon_model::{Desired, Namespace, ObjectKey, Observed, Pod};

    use super::Journal;
    use crate::store::{CHANGES, CONTROL, Store};

    struct Life {
        controller: Controller,
        journal: Journal<Persisted>,
        observed: Observed,
        desired: Desired,
    }

    impl Life {
        fn begin(store: &Store) -> (Self, Persisted) {
            let (journal, persisted) = Journal::<Persisted>::open(store).expect("state");
            let config = Config {
                identity_mode: IdentityMode::Local,
                ..Config::default()
            };
            let life = Self {
                controller: Controller::new(config, persisted.clone()),
                journal,
                observed: Observed::default(),
                desired: Desired::default(),
            };
            let namespace = Namespace::default();
            life.observed
                .namespaces
                .write(|txn| txn.insert(String::new(), namespace));
            life.observed.namespaces.mark_complete();
            (life, persisted)
        }

        fn comes(&mut self, store: &Store, n: usize) {
            let pod = Pod {
                name: format!("pod-{n}"),
                labels: [("app".to_owned(), format!("app-{n}"))].into(),
                ..Pod::default()
            };
            let key = ObjectKey::new("", &pod.name);
            self.observed.pods.write(|txn| txn.insert(key, pod));
            let report = self.controller.step(0, &self.observed, &self.desired);
            assert!(report.persist, "pod {n} has a number");
            self.journal
                .write(store, &mut self.controller)
                .expect("written");
        }

        fn numbers(&self) -> usize {
            self.controller.persisted().identities.iter().count()
        }
    }

    fn numbers(persisted: &Persisted) -> usize {
        persisted.identities.iter().count()
    }

    #[test]
    fn what_was_written_is_known_again_whenever_the_agent_dies() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("store");
        let (mut life, none) = Life::begin(&store);
        assert_eq!(numbers(&none), 0);
        for n in 0..20 {
            life.comes(&store, n);
        }
        let whole = std::fs::read(store.path(CONTROL)).expect("the whole");
        let lines = std::fs::read(store.path(CHANGES)).expect("the lines");
        let ends = lines.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(ends, 20, "what they follow, and 19 changes");
        let (second, known) = Life::begin(&store);
        assert_eq!(known.identities, second.controller.persisted().identities);
        assert_eq!((numbers(&known), life.numbers()), (20, 20));

        // In the middle of a line.
        let cut = &lines[..lines.len() - 9];
        std::fs::write(store.path(CHANGES), cut).expect("cut off");
        let (mut third, known) = Life::begin(&store);
        assert_eq!(numbers(&known), 19);
        third.comes(&store, 100);
        assert!(!store.has(CHANGES), "nothing is added to it");
        assert_eq!(numbers(&Life::begin(&store).1), 20);

        // Between the whole and the end of the lines.
        std::fs::write(store.path(CHANGES), cut).expect("left over");
        assert_eq!(numbers(&Life::begin(&store).1), 20, "they were known");
        assert!(!store.has(CHANGES), "the lines follow another");
        // The whole is lost: what the lines know is not.
        std::fs::write(store.path(CHANGES), cut).expect("left over");
        std::fs::write(store.path(CONTROL), &whole[..whole.len() / 2]).expect("torn");
        assert_eq!(numbers(&Life::begin(&store).1), 18);
    }

    #[test]
    fn lines_of_another_whole_are_set_aside() {
        let (dir, other) = (tempfile::tempdir(), tempfile::tempdir());
        let (dir, other) = (dir.expect("tempdir"), other.expect("tempdir"));
        let store = Store::open(dir.path()).expect("store");
        let (mut life, _) = Life::begin(&store);
        for n in 0..3 {
            life.comes(&store, n);
        }
        // As from a backup: the same numbers are others'.
        let backup = Store::open(other.path()).expect("store");
        let (mut life, _) = Life::begin(&backup);
        life.comes(&backup, 7);
        std::fs::copy(backup.path(CONTROL), store.path(CONTROL)).expect("put back");
        let lines = std::fs::read(store.path(CHANGES)).expect("the lines");
        let (_, known) = Life::begin(&store);
        assert_eq!(known.identities, life.controller.persisted().identities);
        assert!(!store.has(CHANGES));
        let aside = std::fs::read(store.path("control.changes.corrupt"));
        assert_eq!(aside.expect("set aside"), lines);
    }

    #[test]
    fn lines_after_one_that_makes_no_sense_are_kept_beside() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("store");
        let (mut life, _) = Life::begin(&store);
        for n in 0..6 {
            life.comes(&store, n);
        }
        let text = std::fs::read_to_string(store.path(CHANGES)).expect("the lines");
        let mut lines: Vec<&str> = text.lines().collect();
        lines[3] = "?";
        std::fs::write(store.path(CHANGES), lines.join("\n") + "\n").expect("spoilt");
        let (mut second, known) = Life::begin(&store);
        assert_eq!(numbers(&known), 3, "the whole, and two lines");
        let aside = store.path("control.changes.corrupt");
        let kept = || std::fs::read_to_string(&aside).expect("kept beside");
        assert_eq!(kept(), lines[3..].join("\n") + "\n");
        second.comes(&store, 100);
        assert!(!store.has(CHANGES), "everything is in the whole");
        assert_eq!(kept(), lines[3..].join("\n") + "\n");

        // Lines of an agent that did not say what they follow.
        second.comes(&store, 101);
        let text = std::fs::read_to_string(store.path(CHANGES)).expect("the lines");
        let (_, lines) = text.split_once('\n').expect("the first line");
        std::fs::write(store.path(CHANGES), lines).expect("without it");
        assert_eq!(numbers(&Life::begin(&store).1), 5);
    }

    #[test]
    fn lines_do_not_grow_for_ever() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("store");
        let (mut life, _) = Life::begin(&store);
        let mut longest = 0;
        for n in 0..1000 {
            life.comes(&store, n);
            let lines = std::fs::metadata(store.path(CHANGES)).map_or(0, |m| m.len());
            longest = longest.max(lines);
        }
        assert!((super::CHANGES_MIN..2 * super::CHANGES_MIN).contains(&longest));
        assert_eq!(numbers(&Life::begin(&store).1), 1000);
    }

    #[test]
    fn what_could_not_be_written_is_written_with_the_next() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("store");
        let (mut life, _) = Life::begin(&store);
        life.comes(&store, 0);
        // A directory takes no line.
        std::fs::create_dir(store.path(CHANGES)).expect("in the way");
        let pod = Pod {
            name: "pod-1".into(),
            labels: [("app".to_owned(), "app-1".to_owned())].into(),
            ..Pod::default()
        };
        let key = ObjectKey::new("", &pod.name);
        life.observed.pods.write(|txn| txn.insert(key, pod));
        life.controller.step(0, &life.observed, &life.desired);
        let refused = life.journal.write(&store, &mut life.controller);
        refused.expect_err("a directory is there");
        std::fs::remove_dir(store.path(CHANGES)).expect("out of the way");
        life.journal
            .write(&store, &mut life.controller)
            .expect("written");
        assert_eq!(numbers(&Life::begin(&store).1), 2);
    }
}
