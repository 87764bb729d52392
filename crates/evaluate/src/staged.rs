//! What staged policies would say of a connection that policy was asked about.

use std::collections::BTreeMap;
use std::sync::Arc;

use axon_abi::{Direction, DropReason, EventKind, EventRecord, Identity, PolicyEntryFlags};
use axon_datapath::{Question, is_icmp_answer};
use axon_model::{Origin, Protocol};
use axon_policy::Staged;

use crate::tables::PolicyTables;

/// What would be enforced if staged policies were, asked as the kernel asks.
#[derive(Debug, Default)]
pub struct StagedSets {
    tables: PolicyTables,
    subjects: BTreeMap<Identity, u32>,
    rules: BTreeMap<u32, Origin>,
    closing: BTreeMap<u32, [Vec<Origin>; 2]>,
}

/// What would become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StagedVerdict<'a> {
    /// Why it would be dropped; `None` if it would pass.
    pub drop: Option<DropReason>,
    /// The staged policies that would decide so; none where it is one that is
    /// enforced, or nobody.
    pub by: &'a [Origin],
}

impl StagedSets {
    /// Over what staged policies would have in force.
    pub fn new(staged: &Staged) -> Self {
        let mut tables = PolicyTables::new(Arc::new(staged.known.clone()));
        for (number, set) in &staged.resolution.sets {
            tables.insert(*number, &set.rows);
        }
        Self {
            tables,
            subjects: staged.resolution.subjects.clone(),
            rules: staged.rules.clone(),
            closing: staged.closing.clone(),
        }
    }

    /// What would become of the connection of a policy verdict, at the end that
    /// tells of it; `None` if no staged policy is about that end, or the record is
    /// no such verdict.
    ///
    /// An ICMP answer has no verdict: policy is asked about its query, whose type
    /// the record does not tell.
    pub fn judge(&self, record: &EventRecord) -> Option<StagedVerdict<'_>> {
        if EventKind::from_u8(record.kind) != Some(EventKind::PolicyVerdict) {
            return None;
        }
        let (source, destination) = (record.source_identity, record.destination_identity);
        let (subject, remote, egress) = match Direction::from_u8(record.direction) {
            Direction::Ingress => (destination, source, false),
            Direction::Egress => (source, destination, true),
            Direction::Unknown => return None,
        };
        let set = *self.subjects.get(&subject)?;
        let protocol = Protocol(record.protocol);
        let port = if protocol == Protocol::ICMP || protocol == Protocol::ICMPV6 {
            let [icmp_type, _] = record.source_port.get().to_be_bytes();
            if is_icmp_answer(protocol.0, icmp_type) {
                return None;
            }
            u16::from(icmp_type)
        } else {
            record.destination_port.get()
        };
        let (said, decision) = self.tables.ask(Question {
            set,
            remote,
            port,
            protocol: record.protocol,
            egress,
        });
        let default = decision.rule == 0 || decision.flags & PolicyEntryFlags::DEFAULT != 0;
        let by: &[Origin] = match (said.is_ok(), default) {
            (_, false) => self
                .rules
                .get(&decision.rule)
                .map_or(&[], std::slice::from_ref),
            (false, true) => {
                self.closing.get(&set).map_or(
                    &[],
                    |[ingress, of_egress]| {
                        if egress { of_egress } else { ingress }
                    },
                )
            }
            (true, true) => &[],
        };
        let drop = said.err();
        Some(StagedVerdict { drop, by })
    }
}
