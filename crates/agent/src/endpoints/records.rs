//! What is on disk of each endpoint.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axon_control::EndpointStatus;
use axon_linux::link;
use axon_model::{Endpoint, Observed};
use serde::{Deserialize, Serialize};

use super::readable;
use crate::node::lock;
use crate::store::{ENDPOINTS, HOST, Store, StoreError};

/// How far an endpoint has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// ADD has not been answered: after a restart it is undone.
    Making,
    /// ADD has been answered.
    Made,
    /// DEL has begun: after a restart it is finished.
    Leaving,
}

/// An endpoint as its file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) endpoint: Endpoint,
    /// MTU of its devices.
    pub(crate) mtu: u32,
    pub(crate) stage: Stage,
}

/// Every endpoint's record; clones share them. A record changes on disk first;
/// one in the making only when it is made, for until then its number and names
/// are all that is needed to undo it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    by_id: BTreeMap<u16, Record>,
    last_id: u16,
    /// The node's own number, where it is an endpoint too.
    host: Option<u16>,
}

fn file(id: u16) -> String {
    format!("{ENDPOINTS}/{id}.json")
}

impl Inner {
    /// The number that was free for longest; `None` if every one is taken.
    fn free_id(&self) -> Option<u16> {
        let after = (self.last_id.saturating_add(1).max(1))..=u16::MAX;
        let before = 1..=self.last_id;
        let is_free = |id: &u16| !self.by_id.contains_key(id) && self.host != Some(*id);
        after.chain(before).find(is_free)
    }

    /// A name for the host-side device that no other endpoint has: names are
    /// made from a hash, and two attachments may come to the same one.
    fn device_name(&self, endpoint: &Endpoint) -> String {
        let mut salted = endpoint.container_id.clone();
        loop {
            let name = link::host_name(&salted, &endpoint.container_interface);
            if self.by_id.values().all(|r| r.endpoint.interface != name) {
                return name;
            }
            salted.push('+');
        }
    }
}

impl Records {
    /// Gives a record a number, the one that was free for longest, and a name
    /// for its host-side device, and writes it. `None` if every number is
    /// taken.
    pub(crate) fn add(
        &self,
        store: &Store,
        mut record: Record,
    ) -> Result<Option<Record>, StoreError> {
        let mut inner = lock(&self.inner);
        let Some(id) = inner.free_id() else {
            return Ok(None);
        };
        record.endpoint.id = id;
        // In the same breath as the record is added: two ADDs at once agree.
        record.endpoint.interface = inner.device_name(&record.endpoint);
        store.write(&file(id), &record)?;
        inner.last_id = id;
        inner.by_id.insert(id, record.clone());
        Ok(Some(record))
    }

    /// The number of the node itself: the one that it has had, or a free one,
    /// on disk too. `None` if every number is taken.
    pub(crate) fn host(&self, store: &Store) -> Result<Option<u16>, StoreError> {
        let mut inner = lock(&self.inner);
        let known = readable(store.read::<u16>(HOST))?;
        let known = known.filter(|id| *id != 0 && !inner.by_id.contains_key(id));
        let Some(id) = known.or_else(|| inner.free_id()) else {
            return Ok(None);
        };
        if known.is_none() {
            store.write(HOST, &id)?;
        }
        inner.last_id = inner.last_id.max(id);
        inner.host = Some(id);
        Ok(Some(id))
    }

    /// Takes in a record that was read from disk.
    pub(crate) fn adopt(&self, record: Record) {
        let mut inner = lock(&self.inner);
        inner.last_id = inner.last_id.max(record.endpoint.id);
        inner.by_id.insert(record.endpoint.id, record);
    }

    /// Changes a record, on disk first; the record then, `None` if it is gone.
    pub(crate) fn update(
        &self,
        store: &Store,
        id: u16,
        change: impl FnOnce(&mut Record),
    ) -> Result<Option<Record>, StoreError> {
        let mut inner = lock(&self.inner);
        let Some(old) = inner.by_id.get(&id) else {
            return Ok(None);
        };
        let mut new = old.clone();
        change(&mut new);
        if new != *old {
            store.write(&file(id), &new)?;
            inner.by_id.insert(id, new.clone());
        }
        Ok(Some(new))
    }

    /// Changes a record, on disk unless it is in the making.
    pub(crate) fn amend(
        &self,
        store: &Store,
        id: u16,
        change: impl FnOnce(&mut Record),
    ) -> Result<Option<Record>, StoreError> {
        let mut inner = lock(&self.inner);
        match inner.by_id.get_mut(&id) {
            Some(record) if record.stage == Stage::Making => {
                change(record);
                Ok(Some(record.clone()))
            }
            _ => {
                drop(inner);
                self.update(store, id, change)
            }
        }
    }

    /// Keeps what the controller has decided for an endpoint: a later agent
    /// knows the identity before its sources have told the labels.
    pub(crate) fn decided(
        &self,
        store: &Store,
        observed: &Observed,
        id: u16,
        status: &EndpointStatus,
    ) -> Result<(), StoreError> {
        let known = observed.endpoints.get(&id);
        let news =
            known.is_some_and(|e| e.identity != status.identity || e.labels != status.labels);
        if !news {
            return Ok(());
        }
        let record = self.amend(store, id, |record| {
            record.endpoint.identity = status.identity;
            record.endpoint.labels = status.labels.clone();
        })?;
        observed.endpoints.write(|txn| {
            // Whoever removed the row meanwhile is right.
            if let Some(record) = record.filter(|_| txn.get(&id).is_some()) {
                txn.insert(id, record.endpoint);
            }
        });
        Ok(())
    }

    /// Forgets a record, on disk too.
    pub(crate) fn remove(&self, store: &Store, id: u16) -> Result<(), StoreError> {
        let mut inner = lock(&self.inner);
        store.remove(&file(id))?;
        inner.by_id.remove(&id);
        Ok(())
    }

    /// Every record.
    pub(crate) fn all(&self) -> Vec<Record> {
        lock(&self.inner).by_id.values().cloned().collect()
    }

    /// A record.
    pub(crate) fn get(&self, id: u16) -> Option<Record> {
        lock(&self.inner).by_id.get(&id).cloned()
    }

    /// The record of an attachment.
    pub(crate) fn attachment(&self, container: &str, interface: &str) -> Option<Record> {
        let inner = lock(&self.inner);
        inner
            .by_id
            .values()
            .find(|r| {
                r.endpoint.container_id == container && r.endpoint.container_interface == interface
            })
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use axon_model::Endpoint;

    use super::{Record, Records, Stage};
    use crate::store::Store;

    fn record() -> Record {
        Record {
            endpoint: Endpoint::default(),
            mtu: 1500,
            stage: Stage::Making,
        }
    }

    #[test]
    fn numbers_are_used_again_as_late_as_possible() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("store");
        let records = Records::default();
        let add = || {
            let added = records.add(&store, record()).expect("write");
            added.expect("a number").endpoint.id
        };
        assert_eq!((add(), add()), (1, 2));
        records.remove(&store, 1).expect("remove");
        assert_eq!(add(), 3);
        records.adopt(Record {
            endpoint: Endpoint {
                id: u16::MAX,
                ..Endpoint::default()
            },
            ..record()
        });
        assert_eq!(add(), 1, "after the last number comes the first free one");
    }

    #[test]
    fn the_node_keeps_its_number_and_nobody_else_gets_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("store");
        let records = Records::default();
        let add = |records: &Records| {
            let added = records.add(&store, record()).expect("write");
            added.expect("a number").endpoint.id
        };
        assert_eq!(add(&records), 1);
        assert_eq!(records.host(&store).expect("write"), Some(2));
        assert_eq!(add(&records), 3);
        let again = Records::default();
        assert_eq!(again.host(&store).expect("read"), Some(2));
        assert_eq!(add(&again), 3);
        // While the node had none an endpoint may have got it.
        let other = Records::default();
        other.adopt(Record {
            endpoint: Endpoint {
                id: 2,
                ..Endpoint::default()
            },
            ..record()
        });
        assert_eq!(other.host(&store).expect("write"), Some(3));
    }

    #[test]
    fn attachments_of_one_hash_have_devices_of_their_own() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("store");
        let records = Records::default();
        let named = |container: &str| {
            let mut record = record();
            record.endpoint.container_id = container.to_owned();
            record.endpoint.container_interface = "eth0".to_owned();
            let added = records.add(&store, record).expect("write");
            added.expect("a number").endpoint.interface
        };
        // The same attachment stands for two whose hashes are the same.
        let names = [named("abc"), named("abc"), named("abc"), named("x")];
        let apart: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(apart.len(), names.len(), "{names:?}");
        assert_eq!(names[0], axon_linux::link::host_name("abc", "eth0"));
    }

    #[test]
    fn what_is_changed_is_on_disk() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("store");
        let records = Records::default();
        let id = records
            .add(&store, record())
            .expect("write")
            .expect("id")
            .endpoint
            .id;
        records
            .update(&store, id, |r| r.stage = Stage::Made)
            .expect("update")
            .expect("there");
        let read: Record = store.read("endpoints/1.json").expect("read").expect("file");
        assert_eq!(Some(read), records.get(id));
    }
}
