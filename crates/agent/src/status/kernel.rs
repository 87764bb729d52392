//! What the kernel does: devices, programs, maps, connections, events.

use std::time::Duration;

use axon_api::agent::{PartStatus, State};
use axon_linux::MapUse;

use super::{bad, few, well};
use crate::engine::View;
use crate::metrics::Events;
use crate::node::{Node, lock};

/// From how full on a map is worth a look, in percent.
const PRESSURE_WARNING: u64 = 80;
/// How long a loss of events is worth telling.
const LOSS_TOLD: Duration = Duration::from_secs(300);

pub(super) fn devices(node: &Node) -> PartStatus {
    let uplinks = node.uplinks.borrow().clone();
    if !uplinks.missing.is_empty() {
        return bad(
            State::Warning,
            format!("device {} does not exist", uplinks.missing.join(", ")),
            "correct the devices option, or make the device",
        );
    }
    if !uplinks.not_forwarding.is_empty() {
        return bad(
            State::Failure,
            format!("the node does not forward: {}", uplinks.not_forwarding),
            "let the agent write net.ipv4.ip_forward and net.ipv6.conf.all.forwarding, or set \
             them to 1",
        );
    }
    if uplinks.devices.is_empty() {
        return bad(
            State::Warning,
            "no device of the node has a default route or an address of the Node object: pods \
             reach this node only",
            "name the devices by the devices option, or set up the node's network",
        );
    }
    let down: Vec<String> = uplinks
        .devices
        .iter()
        .filter(|d| !d.up)
        .map(|d| d.name.clone())
        .collect();
    if !down.is_empty() {
        let msg = format!("device {} is down", down.join(", "));
        return bad(State::Warning, msg, "set it up (ip link set DEVICE up)");
    }
    if !uplinks.gone.is_empty() {
        let list = |addrs: &[std::net::IpAddr]| {
            let texts: Vec<String> = addrs.iter().map(ToString::to_string).collect();
            texts.join(", ")
        };
        return bad(
            State::Warning,
            format!(
                "the Node object tells the address {}, which no device has; pods leave the node \
                 by {}",
                list(&uplinks.gone),
                list(&uplinks.leaving)
            ),
            "correct the InternalIP of the Node object, or give the address to a device: other \
             nodes route to it",
        );
    }
    well(format!(
        "{}, MTU {}",
        uplinks.names().join(", "),
        uplinks.mtu
    ))
}

pub(super) fn datapath(node: &Node, view: &View) -> PartStatus {
    let mut failing = Vec::new();
    for (table, report) in &view.reconcile.tables {
        for (row, error) in &report.failing {
            failing.push(format!("{table} {row}: {error}"));
        }
    }
    if !failing.is_empty() {
        let locked = if view.reconcile.ipcache_partial {
            "; until it does, endpoints with policy reach no address that has no row of its own"
        } else {
            ""
        };
        return bad(
            State::Failure,
            format!("the kernel does not take rows: {}{locked}", few(failing)),
            "they are tried again; where a map is full, raise its size option and restart the agent",
        );
    }
    let guard = lock(&node.guard).clone();
    if let Some(error) = guard.error {
        return bad(
            State::Failure,
            format!("what keeps policy in force was taken away and cannot be put back: {error}"),
            "see that the bpf-root is a bpffs or an empty directory; do not stop the agent before: \
             it holds the programs open, and without them every endpoint is cut off",
        );
    }
    if !guard.unknown.is_empty() {
        return bad(
            State::Warning,
            format!(
                "nobody knows the endpoints of devices {}: their pods are cut off",
                few(guard.unknown)
            ),
            "start those pods anew; the state-dir says by its *.corrupt files what was lost",
        );
    }
    let datapath = lock(&node.datapath);
    let adoption = datapath.adoption();
    let lost: Vec<String> = adoption
        .recreated
        .iter()
        .filter(|map| map.carried == 0)
        .map(|map| {
            format!(
                "{} ({} {} before, {} now)",
                map.map, map.field, map.found, map.expected
            )
        })
        .collect();
    let mut text = format!(
        "generation {} (programs {}), stubs on {} devices of endpoints, {} maps adopted",
        adoption.generation,
        adoption.programs,
        datapath.attached().len(),
        adoption.adopted.len()
    );
    for (what, names) in [
        ("made anew", lost),
        ("of another version, let go", adoption.dropped.clone()),
        ("not the agent's, left alone", adoption.foreign.clone()),
    ] {
        if !names.is_empty() {
            text.push_str(&format!("; {what}: {}", few(names)));
        }
    }
    if guard.repairs > 0 {
        text.push_str(&format!(
            "; {} times somebody took pins or stubs away, and they were put back",
            guard.repairs
        ));
    }
    well(text)
}

pub(super) fn maps(uses: &[MapUse]) -> PartStatus {
    let full: Vec<String> = uses
        .iter()
        .filter(|m| u64::from(m.entries) * 100 >= u64::from(m.capacity) * PRESSURE_WARNING)
        .map(|m| format!("{} holds {} of {}", m.map, m.entries, m.capacity))
        .collect();
    if full.is_empty() {
        return well(format!(
            "{} maps, none above {PRESSURE_WARNING} %",
            uses.len()
        ));
    }
    bad(
        State::Warning,
        few(full),
        "raise the size of the map (bpf-ct-global-tcp-max, bpf-nat-global-max, bpf-policy-map-max, \
         bpf-fragments-map-max) and restart the agent; nothing is interrupted",
    )
}

pub(super) fn conntrack(node: &Node) -> PartStatus {
    let state = lock(&node.sweeps).clone();
    if let Some(error) = state.error {
        return bad(
            State::Warning,
            format!("connections are not swept: {error}"),
            "see the agent's log",
        );
    }
    let early: u32 = state.last.maps.iter().map(|m| m.evicted_early).sum();
    let texts: Vec<String> = state
        .last
        .maps
        .iter()
        .map(|m| format!("{} {}", m.map, m.entries))
        .collect();
    if early > 0 {
        return bad(
            State::Warning,
            format!("{early} connections were removed before their time: the table is too small"),
            "raise bpf-ct-global-tcp-max, or lower the timeouts (bpf-ct-timeout-…)",
        );
    }
    well(if texts.is_empty() {
        "not swept yet".to_owned()
    } else {
        texts.join(", ")
    })
}

pub(super) fn events(node: &Node) -> PartStatus {
    let (_, held) = node.flows.seen();
    let late = node.metrics.lost_within(LOSS_TOLD);
    events_of(node.metrics.events(), held, late)
}

/// `late`: the agent has lost events a moment ago, by its own fault.
fn events_of(events: Events, held: usize, late: bool) -> PartStatus {
    let Events { seen, lost, unread } = events;
    let unread = match unread {
        0 => String::new(),
        some => format!(" ({some} of them while no agent ran)"),
    };
    let text = format!("{seen} seen, {lost} lost{unread}, {held} held");
    if late {
        return bad(
            State::Warning,
            text,
            "the agent is behind the packets: raise monitor-aggregation or its interval",
        );
    }
    well(text)
}

#[cfg(test)]
mod tests {
    use axon_api::agent::State;
    use axon_linux::MapUse;

    use super::{events_of, maps};
    use crate::metrics::Metrics;

    #[test]
    fn what_nobody_was_there_to_read_is_no_fault_of_the_agent() {
        let metrics = Metrics::new();
        let status = |metrics: &Metrics| {
            let late = metrics.lost_within(super::LOSS_TOLD);
            events_of(metrics.events(), 1, late)
        };
        metrics.events_seen(7);
        metrics.events_unread(500);
        let part = status(&metrics);
        assert_eq!((part.state, part.remedy.as_str()), (State::Ok, ""));
        assert_eq!(
            part.msg,
            "7 seen, 500 lost (500 of them while no agent ran), 1 held"
        );
        metrics.events_lost(3);
        let part = status(&metrics);
        assert_eq!(part.state, State::Warning);
        assert_eq!(
            part.msg,
            "7 seen, 503 lost (500 of them while no agent ran), 1 held"
        );
        assert!(
            part.remedy.contains("monitor-aggregation"),
            "{}",
            part.remedy
        );
    }

    #[test]
    fn a_map_that_is_nearly_full_is_named() {
        let at = |map, entries| MapUse {
            map,
            entries,
            capacity: 1000,
        };
        let uses = [at("axon_ct4_v1", 799), at("axon_fragment_v1", 10)];
        assert_eq!(maps(&uses).state, State::Ok);
        let uses = [at("axon_ct4_v1", 800), at("axon_fragment_v1", 1000)];
        let part = maps(&uses);
        assert_eq!(part.state, State::Warning);
        assert_eq!(
            part.msg,
            "axon_ct4_v1 holds 800 of 1000; axon_fragment_v1 holds 1000 of 1000"
        );
        assert!(
            part.remedy.contains("bpf-fragments-map-max"),
            "{}",
            part.remedy
        );
    }
}
