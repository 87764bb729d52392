//! How long flows of services live.

use axon_abi::{ServiceFlow, ServiceFlowFlags, ServiceFlowKey, Timeouts};

use crate::maps::{Map, MapError};

/// Protocol number of TCP.
const TCP: u8 = 6;

/// What each direction of a flow tells of the other: both live as long as either
/// is used, and an end that one has seen is the end of both.
pub(super) struct Pairs(Vec<(ServiceFlowKey, Seen)>);

#[derive(Clone, Copy, Default)]
struct Seen {
    flags: u32,
    seen_s: u32,
}

impl Seen {
    fn of(flow: &ServiceFlow) -> Self {
        Self {
            flags: flow.flags,
            seen_s: flow.seen_s,
        }
    }
}

impl Pairs {
    pub(super) fn read(map: &Map<ServiceFlowKey, ServiceFlow>) -> Result<Self, MapError> {
        let mut entries = Vec::new();
        map.for_each(|key, flow| entries.push((key, Seen::of(&flow))))?;
        Ok(Self::new(entries))
    }

    fn new(mut entries: Vec<(ServiceFlowKey, Seen)>) -> Self {
        entries.sort_unstable_by_key(|(key, _)| *key);
        Self(entries)
    }

    /// What the other direction has seen; nothing, if there is none.
    fn other(&self, key: &ServiceFlowKey, flow: &ServiceFlow) -> Seen {
        let turned = flow.turned(key.protocol, key.reply ^ 1);
        let at = self.0.binary_search_by_key(&turned, |(key, _)| *key);
        at.ok()
            .and_then(|at| self.0.get(at))
            .map_or_else(Seen::default, |(_, seen)| *seen)
    }

    /// Whether a flow has been silent in both directions for as long as one of its
    /// kind may be.
    pub(super) fn is_stale(
        &self,
        key: &ServiceFlowKey,
        flow: &ServiceFlow,
        timeouts: &Timeouts,
        now_s: u32,
    ) -> bool {
        let other = self.other(key, flow);
        let all = flow.flags | other.flags;
        let both = flow.flags & other.flags & ServiceFlowFlags::SEEN != 0;
        let silence_s = match (key.protocol, both) {
            (TCP, _) if all & ServiceFlowFlags::ENDS != 0 => timeouts.tcp_closing_s,
            (TCP, false) => timeouts.tcp_opening_s,
            (TCP, true) => timeouts.tcp_established_s,
            (_, false) => timeouts.one_way_s,
            (_, true) => timeouts.two_way_s,
        };
        let seen_s = flow.seen_s.max(other.seen_s);
        seen_s.saturating_add(silence_s.max(1)) <= now_s
    }

    /// In which order flows go early: those that are over or have had no answer,
    /// then those that have been silent for longest.
    pub(super) fn early_order(&self, key: &ServiceFlowKey, flow: &ServiceFlow) -> u64 {
        let other = self.other(key, flow);
        let ended = (flow.flags | other.flags) & ServiceFlowFlags::ENDS != 0;
        let both = flow.flags & other.flags & ServiceFlowFlags::SEEN != 0;
        let cost = u64::from(both && !ended);
        cost << 32 | u64::from(flow.seen_s.max(other.seen_s))
    }
}

#[cfg(test)]
mod tests {
    use axon_abi::{Be16, IpKey, ServiceFlow, ServiceFlowFlags, ServiceFlowKey, Timeouts};

    use super::{Pairs, Seen};

    const SEEN: u32 = ServiceFlowFlags::SEEN;
    const ENDS: u32 = ServiceFlowFlags::ENDS;

    /// Both entries of a flow whose packets were seen at second 50 and 60.
    fn flow(protocol: u8, flags: [u32; 2]) -> [(ServiceFlowKey, ServiceFlow); 2] {
        let key = ServiceFlowKey {
            source: IpKey::from_v4([198, 51, 100, 7]),
            destination: IpKey::from_v4([192, 0, 2, 1]),
            source_port: Be16::new(4000),
            destination_port: Be16::new(30080),
            protocol,
            ..ServiceFlowKey::default()
        };
        let sent = ServiceFlow {
            source: IpKey::from_v4([192, 0, 2, 1]),
            destination: IpKey::from_v4([10, 0, 1, 21]),
            source_port: Be16::new(40000),
            destination_port: Be16::new(80),
            seen_s: 50,
            flags: flags[0],
            ..ServiceFlow::default()
        };
        let back = ServiceFlow {
            source: key.destination,
            destination: key.source,
            source_port: key.destination_port,
            destination_port: key.source_port,
            seen_s: 60,
            flags: flags[1],
            ..sent
        };
        [(key, sent), (sent.turned(protocol, 1), back)]
    }

    #[test]
    fn both_directions_live_as_long_as_either() {
        let timeouts = Timeouts {
            tcp_opening_s: 20,
            tcp_established_s: 1000,
            tcp_closing_s: 5,
            one_way_s: 30,
            two_way_s: 100,
            ..Timeouts::default()
        };
        for (name, protocol, flags, lives_s) in [
            ("nobody has answered", 6, [SEEN, 0], 20),
            ("both have spoken", 6, [SEEN, SEEN], 1000),
            ("the client has ended it", 6, [SEEN | ENDS, SEEN], 5),
            ("the backend has", 6, [SEEN, SEEN | ENDS], 5),
            ("UDP, one way", 17, [SEEN, 0], 30),
            ("UDP, both ways", 17, [SEEN, SEEN], 100),
        ] {
            let entries = flow(protocol, flags);
            let all = entries.map(|(key, flow)| (key, Seen::of(&flow)));
            let pairs = Pairs::new(all.to_vec());
            for (key, flow) in entries {
                let is_stale = |now_s| pairs.is_stale(&key, &flow, &timeouts, now_s);
                assert!(!is_stale(59 + lives_s), "{name}: {key:?}");
                assert!(is_stale(60 + lives_s), "{name}: {key:?}");
            }
        }
    }

    #[test]
    fn what_was_never_answered_goes_first() {
        let order = |flags| {
            let [(key, sent), (other, back)] = flow(6, flags);
            let pairs = Pairs::new(vec![(key, Seen::of(&sent)), (other, Seen::of(&back))]);
            pairs.early_order(&key, &sent)
        };
        assert!(order([SEEN, 0]) < order([SEEN, SEEN]));
        assert!(order([SEEN, SEEN | ENDS]) < order([SEEN, SEEN]));
    }
}
