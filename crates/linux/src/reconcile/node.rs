//! Rows of the node itself. Without them it would be open, whatever policy says
//! of it: where a map is full, another row makes room, and fails in its place.
//!
//! ```text
//! endpoints   another one is cut off
//! ipcache     another address is nobody known, which the programs are told first
//! ```

use std::collections::VecDeque;

use axon_abi::{EndpointRow, HOST_DEVICE, IpKey, IpcacheFlags, IpcacheRow, Scope};
use axon_model::Desired;
use axon_statedb::Target;

use super::follow::Room;
use super::{KernelReconciler, RowError};
use crate::maps::{Map, MapError};

impl KernelReconciler {
    /// Has the node know its own addresses. Says whether any was missing.
    pub(super) fn have_node_known(&mut self, now_ms: u64, desired: &Desired) -> bool {
        let config = self.config.target_mut();
        let map = &self.maps.ipcache;
        let mut victims = VecDeque::new();
        self.ipcache.insist(
            now_ms,
            &desired.ipcache,
            |_, row| is_nodes(row),
            room,
            |target, rows| {
                if config.tell_partial().is_err() {
                    return None;
                }
                if victims.is_empty() {
                    victims = least_missed(map, rows).unwrap_or_default();
                }
                let victim = victims.pop_front()?;
                target.delete(&victim).ok().map(|()| victim)
            },
        )
    }

    /// Has the node be held to its policy. Says whether it was not.
    pub(super) fn have_node_held(&mut self, now_ms: u64, desired: &Desired) -> bool {
        let wanted = desired.endpoints.snapshot();
        self.endpoints.insist(
            now_ms,
            &desired.endpoints,
            |ifindex, _: &EndpointRow| *ifindex == HOST_DEVICE,
            room,
            |target, _| target.give_way(&wanted).ok().flatten(),
        )
    }
}

fn is_nodes(row: &IpcacheRow) -> bool {
    row.flags & IpcacheFlags::LOCAL_HOST != 0
}

/// Whether another row that goes helps. Of memory that is short, it gives back what
/// the kernel may give to somebody else.
fn room(error: &RowError) -> Room {
    match error {
        RowError::Map(MapError::Full { .. }) => Room::Sure,
        RowError::Map(MapError::Syscall { source, .. })
            if source.raw_os_error() == Some(nix::libc::ENOMEM) =>
        {
            Room::Maybe
        }
        RowError::Map(_)
        | RowError::NoPolicySet { .. }
        | RowError::PolicySetInUse { .. }
        | RowError::ClassLeft { .. }
        | RowError::Withheld(_)
        | RowError::Unready(_)
        | RowError::Misleading { .. }
        | RowError::ForeignRow { .. } => Room::No,
    }
}

/// Addresses that are not the node's, those of other nodes' workloads first,
/// nodes and API servers last.
fn least_missed(map: &Map<IpKey, IpcacheRow>, count: usize) -> Result<VecDeque<IpKey>, MapError> {
    let mut by_rank: [VecDeque<IpKey>; 3] = Default::default();
    map.for_each(|addr, row| {
        let rank = match row.identity {
            _ if is_nodes(&row) => return,
            _ if row.flags & IpcacheFlags::WORKLOAD != 0 && row.node != IpKey::UNSPECIFIED => 0,
            id if matches!(id.scope(), Scope::RemoteNode | Scope::KubeApiserver) => 2,
            _ => 1,
        };
        if let Some(found) = by_rank.get_mut(rank).filter(|found| found.len() < count) {
            found.push_back(addr);
        }
    })?;
    Ok(by_rank.into_iter().flatten().collect())
}
