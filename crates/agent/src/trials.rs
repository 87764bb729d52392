//! Policies for the node itself on trial, on disk.

use std::path::Path;

use axon_control::HostTrial;

use crate::problem::chain;
use crate::store::{Store, StoreError};

/// File of the policies on trial, in the lib-dir.
const HOST_TRIAL: &str = "host-policy.json";
/// Where one that cannot be understood is kept.
const HOST_TRIAL_ASIDE: &str = "host-policy.json.corrupt";

/// What an earlier agent has kept; `None` only if none ever did. Of what is lost
/// nothing is confirmed: all that is wanted is tried.
pub(crate) fn known(store: &Store) -> Result<Option<HostTrial>, StoreError> {
    match store.read(HOST_TRIAL) {
        Err(error @ StoreError::Corrupt { .. }) => {
            tracing::error!(
                error = chain(&error),
                "what was confirmed for the node itself is lost; all of it is on trial"
            );
            Ok(Some(HostTrial::default()))
        }
        // Lost by an agent that was killed before it wrote another.
        Ok(None) if store.has(HOST_TRIAL_ASIDE) => Ok(Some(HostTrial::default())),
        read => read,
    }
}

/// Has it on disk, also after a power cut.
pub(crate) fn keep(store: &Store, trial: &HostTrial) -> Result<(), StoreError> {
    store.write_through(HOST_TRIAL, trial)
}

/// Forgets all of it where nothing is tried: what was confirmed then is not what
/// is in force when trials begin anew.
pub(crate) fn forget(lib: &Path) -> Result<(), StoreError> {
    if !lib.exists() {
        return Ok(());
    }
    let store = Store::shared(lib)?;
    // A read-only file system refuses to remove also what is not there.
    for name in [HOST_TRIAL, HOST_TRIAL_ASIDE] {
        if store.has(name) {
            store.remove(name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{HOST_TRIAL, HostTrial, Store, forget, keep, known};

    #[test]
    fn only_what_never_was_is_the_first_time() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::shared(dir.path()).expect("a store");
        let nothing_confirmed = Some(HostTrial::default());
        assert_eq!(known(&store).expect("none"), None);
        std::fs::write(dir.path().join(HOST_TRIAL), "{\"confirmed\":[").expect("written");
        assert_eq!(known(&store).expect("lost"), nothing_confirmed);
        assert_eq!(known(&store).expect("still lost"), nothing_confirmed);
    }

    #[test]
    fn what_is_kept_is_known() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::shared(dir.path()).expect("a store");
        keep(&store, &HostTrial::default()).expect("kept");
        assert!(store.has(HOST_TRIAL));
        assert_eq!(known(&store).expect("known"), Some(HostTrial::default()));
        let gone = dir.path().join("gone");
        let gone_store = Store::shared(&gone).expect("a store");
        std::fs::remove_dir(&gone).expect("removed");
        assert!(keep(&gone_store, &HostTrial::default()).is_err());
    }

    #[test]
    fn what_is_forgotten_begins_anew() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::shared(dir.path()).expect("a store");
        keep(&store, &HostTrial::default()).expect("kept");
        forget(dir.path()).expect("forgotten");
        assert_eq!(known(&store).expect("none"), None);
        std::fs::write(dir.path().join(HOST_TRIAL), "?").expect("written");
        known(&store).expect("lost");
        forget(dir.path()).expect("forgotten");
        assert_eq!(known(&store).expect("none"), None);
        forget(&dir.path().join("absent")).expect("nothing to forget");
        assert!(!dir.path().join("absent").exists());
    }
}
