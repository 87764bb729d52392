//! What the kernel does: devices, programs, maps, connections, events.

use std::collections::BTreeSet;
use std::time::Duration;

use axon_api::agent::{PartStatus, State};
use axon_linux::{MapSweep, MapUse};

use super::{bad, few, few_of, well};
use crate::config::option_of;
use crate::engine::View;
use crate::guard::GuardState;
use crate::metrics::Events;
use crate::node::{Node, lock};
use crate::sweep::SweepState;

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
    let guard = lock(&node.guard).clone();
    rows_not_taken(view)
        .or_else(|| not_guarded(&guard))
        .unwrap_or_else(|| well(in_force(node, guard.repairs)))
}

/// What of the desired rows is not in the kernel.
fn rows_not_taken(view: &View) -> Option<PartStatus> {
    let mut failing = Vec::new();
    for (table, report) in &view.reconcile.tables {
        for (row, error) in &report.failing {
            failing.push(format!("{table} {row}: {error}"));
        }
    }
    if failing.is_empty() {
        return None;
    }
    let locked = if view.reconcile.ipcache_partial {
        "; until it does, endpoints with policy reach no address that has no row of its own"
    } else {
        ""
    };
    Some(bad(
        State::Failure,
        format!(
            "the kernel does not take rows: {}{locked}",
            few_of(failing, view.reconcile.failing_rows())
        ),
        "they are tried again; where a map is full, do as the part maps says",
    ))
}

/// What was taken away and could not be put back, and devices of nobody.
fn not_guarded(guard: &GuardState) -> Option<PartStatus> {
    if let Some(error) = &guard.error {
        return Some(bad(
            State::Failure,
            format!("what keeps policy in force was taken away and cannot be put back: {error}"),
            "see that the bpf-root is a bpffs or an empty directory; do not stop the agent before: \
             it holds the programs open, and without them every endpoint is cut off and the node \
             itself without policy",
        ));
    }
    if guard.unknown.is_empty() {
        return None;
    }
    Some(bad(
        State::Warning,
        format!(
            "nobody knows the endpoints of devices {}: their pods are cut off",
            few(guard.unknown.clone())
        ),
        "start those pods anew; the state-dir says by its *.corrupt files what was lost",
    ))
}

/// The programs and maps that are in force, and what became of earlier ones.
fn in_force(node: &Node, repairs: u64) -> String {
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
    if repairs > 0 {
        text.push_str(&format!(
            "; {repairs} times somebody took pins or stubs away, and they were put back"
        ));
    }
    text
}

pub(super) fn maps(uses: &[MapUse]) -> PartStatus {
    let full: Vec<&MapUse> = uses
        .iter()
        .filter(|m| u64::from(m.entries) * 100 >= u64::from(m.capacity) * PRESSURE_WARNING)
        .collect();
    if full.is_empty() {
        return well(format!(
            "{} maps, none above {PRESSURE_WARNING} %",
            uses.len()
        ));
    }
    let texts = full
        .iter()
        .map(|m| format!("{} holds {} of {}", m.map, m.entries, m.capacity));
    let remedy = more_room(full.iter().map(|m| m.map));
    bad(State::Warning, few(texts.collect()), remedy)
}

/// How these maps are given more room.
fn more_room(maps: impl Iterator<Item = &'static str>) -> String {
    let (mut options, mut fixed) = (BTreeSet::new(), BTreeSet::new());
    for map in maps {
        match option_of(map) {
            Some(option) => options.insert(option),
            None => fixed.insert(map),
        };
    }
    let list = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
    let mut steps = Vec::new();
    if !options.is_empty() {
        steps.push(format!(
            "raise {} and restart the agent; nothing is interrupted",
            list(options)
        ));
    }
    if !fixed.is_empty() {
        steps.push(format!(
            "the size of {} is fixed: ask less of it (docs/full-maps.md)",
            list(fixed)
        ));
    }
    steps.join("; ")
}

pub(super) fn conntrack(node: &Node) -> PartStatus {
    conntrack_of(&lock(&node.sweeps).clone())
}

fn conntrack_of(state: &SweepState) -> PartStatus {
    if let Some(error) = &state.error {
        return bad(
            State::Warning,
            format!("connections are not swept: {error}"),
            "see the agent's log",
        );
    }
    let early: Vec<&MapSweep> = state
        .last
        .maps
        .iter()
        .filter(|m| m.evicted_early > 0)
        .collect();
    if !early.is_empty() {
        let texts = early
            .iter()
            .map(|m| format!("{} of {}", m.evicted_early, m.map));
        let options: BTreeSet<&str> = early.iter().filter_map(|m| option_of(m.map)).collect();
        let options: Vec<&str> = options.into_iter().collect();
        return bad(
            State::Warning,
            format!(
                "connections were removed before their time, for want of room: {}",
                few(texts.collect())
            ),
            format!(
                "raise {}, or lower the timeouts (bpf-ct-timeout-…)",
                options.join(", ")
            ),
        );
    }
    let texts: Vec<String> = state
        .last
        .maps
        .iter()
        .map(|m| format!("{} {}", m.map, m.entries))
        .collect();
    well(if texts.is_empty() {
        "not swept yet".to_owned()
    } else {
        texts.join(", ")
    })
}

pub(super) fn events(node: &Node) -> PartStatus {
    let held = node.flows.observer().current_flows;
    let late = node.metrics.lost_within(LOSS_TOLD);
    events_of(node.metrics.events(), held, late)
}

/// `late`: the agent has lost events a moment ago, by its own fault.
fn events_of(events: Events, held: u64, late: bool) -> PartStatus {
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
    use axon_linux::{MapSweep, MapUse, SweepReport};

    use super::{conntrack_of, events_of, maps};
    use crate::metrics::Metrics;
    use crate::sweep::SweepState;

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
            part.remedy
                .starts_with("raise bpf-ct-global-tcp-max, bpf-fragments-map-max and restart"),
            "{}",
            part.remedy
        );
        let part = maps(&[at("axon_nomasq_v1", 1000)]);
        assert!(
            part.remedy
                .starts_with("the size of axon_nomasq_v1 is fixed"),
            "{}",
            part.remedy
        );
    }

    #[test]
    fn flows_that_went_early_are_told_by_their_table() {
        let swept = |map, evicted_early| MapSweep {
            map,
            entries: 7,
            capacity: 1000,
            evicted_early,
            ..MapSweep::default()
        };
        let state = |early| SweepState {
            last: SweepReport {
                maps: vec![swept(axon_abi::CT4, 0), swept(axon_abi::NAT, early)],
                ..SweepReport::default()
            },
            ..SweepState::default()
        };
        let part = conntrack_of(&state(0));
        assert_eq!(part.state, State::Ok);
        let part = conntrack_of(&state(40));
        assert_eq!(part.state, State::Warning);
        assert!(part.msg.ends_with(": 40 of axon_nat_v1"), "{}", part.msg);
        assert!(
            part.remedy.starts_with("raise bpf-nat-global-max, or"),
            "{}",
            part.remedy
        );
    }
}
