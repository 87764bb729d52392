//! How long translations live.

use axon_abi::{CtKey4, CtKey6, NatEntry, NatKey, NatOwner, ServiceFlowKey, Timeouts};

use super::Keys;

/// Protocol number of TCP.
const TCP: u8 = 6;

/// The flows that there are.
pub(super) struct Flows<'a> {
    pub(super) ct4: &'a Keys<CtKey4>,
    pub(super) ct6: &'a Keys<CtKey6>,
    pub(super) services: &'a Keys<ServiceFlowKey>,
}

/// A translation lives as long as its flow; the node's own flows, which
/// conntrack does not know, as long as a flow of their kind may be silent.
pub(super) fn is_stale(
    key: &NatKey,
    entry: &NatEntry,
    timeouts: &Timeouts,
    now_s: u32,
    flows: &Flows<'_>,
) -> bool {
    let silent = |limit_s: u32| entry.seen_s.saturating_add(limit_s.max(1)) <= now_s;
    if entry.node_own == NatOwner::SERVICE {
        let answers = ServiceFlowKey {
            source: key.source,
            destination: key.destination,
            source_port: key.source_port,
            destination_port: key.destination_port,
            protocol: key.protocol,
            reply: 1,
            pad: [0; 2],
        };
        return !flows.services.contains(&answers) && silent(timeouts.tcp_closing_s);
    }
    if entry.node_own == NatOwner::NODE {
        return silent(if key.protocol == TCP {
            timeouts.tcp_established_s
        } else {
            timeouts.two_way_s
        });
    }
    // The flow has the pod's own address and port, which the inbound entry holds as its value.
    let (pod, pod_port, peer, peer_port) = if key.inbound == 0 {
        (
            key.source,
            key.source_port,
            key.destination,
            key.destination_port,
        )
    } else {
        (entry.addr, entry.port, key.source, key.source_port)
    };
    let pod_is_low = (pod, pod_port.get()) <= (peer, peer_port.get());
    let (low, low_port, high, high_port) = if pod_is_low {
        (pod, pod_port, peer, peer_port)
    } else {
        (peer, peer_port, pod, pod_port)
    };
    let protocol = key.protocol;
    let tracked = match (low.to_v4(), high.to_v4()) {
        (Some(low), Some(high)) => flows.ct4.contains(&CtKey4 {
            low,
            high,
            low_port,
            high_port,
            protocol,
            pad: [0; 3],
        }),
        _ => flows.ct6.contains(&CtKey6 {
            low: low.0,
            high: high.0,
            low_port,
            high_port,
            protocol,
            pad: [0; 3],
        }),
    };
    // A flow begins in conntrack a moment after its translation; and related packets may follow
    // its end.
    !tracked && silent(timeouts.tcp_closing_s)
}

#[cfg(test)]
mod tests {
    use axon_abi::{Be16, CtKey4, IpKey, NatEntry, NatKey, NatOwner, ServiceFlowKey, Timeouts};

    use super::{Flows, is_stale};
    use crate::sweep::Keys;

    #[test]
    fn translations_live_as_long_as_their_flow() {
        let timeouts = Timeouts {
            tcp_closing_s: 10,
            tcp_established_s: 1000,
            ..Timeouts::default()
        };
        let (pod, peer) = ([10, 0, 0, 7], [192, 0, 2, 1]);
        let port = Be16::new;
        let flow = CtKey4 {
            low: pod,
            high: peer,
            low_port: port(4000),
            high_port: port(80),
            protocol: 6,
            pad: [0; 3],
        };
        let outbound = NatKey {
            source: IpKey::from_v4(pod),
            destination: IpKey::from_v4(peer),
            source_port: port(4000),
            destination_port: port(80),
            protocol: 6,
            ..NatKey::default()
        };
        let inbound = NatKey {
            source: IpKey::from_v4(peer),
            destination: IpKey::from_v4([192, 0, 2, 9]),
            source_port: port(80),
            destination_port: port(32768),
            protocol: 6,
            inbound: 1,
            ..NatKey::default()
        };
        let entry = NatEntry {
            addr: IpKey::from_v4(pod),
            port: port(4000),
            node_own: NatOwner::ENDPOINT,
            seen_s: 50,
        };
        let (one, none, six) = (Keys(vec![flow]), Keys(Vec::new()), Keys(Vec::new()));
        let answers = ServiceFlowKey {
            source: inbound.source,
            destination: inbound.destination,
            source_port: inbound.source_port,
            destination_port: inbound.destination_port,
            protocol: 6,
            reply: 1,
            pad: [0; 2],
        };
        let (served, unserved) = (Keys(vec![answers]), Keys(Vec::new()));
        let flows = Flows {
            ct4: &one,
            ct6: &six,
            services: &unserved,
        };
        let none = Flows {
            ct4: &none,
            ..flows
        };
        for key in [outbound, inbound] {
            assert!(!is_stale(&key, &entry, &timeouts, 500, &flows), "{key:?}");
            assert!(is_stale(&key, &entry, &timeouts, 500, &none), "{key:?}");
            assert!(!is_stale(&key, &entry, &timeouts, 59, &none), "{key:?}");
        }
        let own = NatEntry {
            node_own: NatOwner::NODE,
            ..entry
        };
        assert!(!is_stale(&inbound, &own, &timeouts, 1049, &none));
        assert!(is_stale(&inbound, &own, &timeouts, 1050, &none));
        let lent = NatEntry {
            node_own: NatOwner::SERVICE,
            ..entry
        };
        let served = Flows {
            services: &served,
            ..none
        };
        assert!(!is_stale(&inbound, &lent, &timeouts, 5000, &served));
        assert!(is_stale(&inbound, &lent, &timeouts, 5000, &none));
        assert!(!is_stale(&inbound, &lent, &timeouts, 59, &none));
    }
}
