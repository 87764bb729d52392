//! Whether sockets are led from services to backends.

use std::collections::BTreeSet;

use axon_api::agent::{PartStatus, State};
use axon_linux::SocketMode;

use super::{bad, few, well};
use crate::node::{Node, lock};

pub(super) fn sockets(node: &Node) -> PartStatus {
    let datapath = lock(&node.datapath);
    let others = datapath.other_socket_programs().unwrap_or_default();
    let names: BTreeSet<String> = others.into_iter().map(|other| named(&other.name)).collect();
    sockets_of(
        datapath.socket_mode(),
        datapath.socket_programs(),
        datapath.socket_problem(),
        names,
    )
}

fn named(name: &str) -> String {
    if name.is_empty() {
        "one without a name".to_owned()
    } else {
        name.to_owned()
    }
}

fn sockets_of(
    mode: &SocketMode,
    programs: usize,
    problem: Option<&str>,
    others: BTreeSet<String>,
) -> PartStatus {
    let SocketMode::At {
        cgroup, host_only, ..
    } = mode
    else {
        return PartStatus {
            state: State::Disabled,
            msg: "not led from services to backends".to_owned(),
            ..PartStatus::default()
        };
    };
    if let Some(problem) = problem {
        return bad(
            State::Failure,
            format!("not led from services to backends: {problem}"),
            "see that cgroup-root is a directory of a cgroup2 file system whose groups let programs \
             be added (bpftool cgroup tree), and restart the agent; packets of pods are balanced \
             meanwhile, the node's own connections to services are not",
        );
    }
    let whose = if *host_only { "the node's" } else { "all" };
    let mut text = format!("{whose}, {programs} programs at {}", cgroup.display());
    if !others.is_empty() {
        let others = few(others.into_iter().collect());
        text.push_str(&format!("; programs of others there: {others}"));
    }
    well(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axon_api::agent::State;
    use axon_linux::SocketMode;

    use super::sockets_of;

    #[test]
    fn who_is_led_and_what_keeps_them_is_told() {
        let at = |host_only| SocketMode::At {
            cgroup: "/sys/fs/cgroup".into(),
            host_only,
            bind_protection: true,
        };
        let none = BTreeSet::new;
        let cilium = BTreeSet::from(["cil_sock4_connect".to_owned()]);
        for (mode, problem, others, state, expected) in [
            (SocketMode::Off, None, none(), State::Disabled, "not led"),
            (
                at(false),
                None,
                none(),
                State::Ok,
                "all, 11 programs at /sys/fs/cgroup",
            ),
            (at(true), None, none(), State::Ok, "the node's, 11 programs"),
            (
                at(false),
                None,
                cilium,
                State::Ok,
                "others there: cil_sock4_connect",
            ),
            (
                at(false),
                Some("no such thing"),
                none(),
                State::Failure,
                "no such thing",
            ),
        ] {
            let part = sockets_of(&mode, 11, problem, others);
            assert_eq!(part.state, state, "{part:?}");
            assert!(part.msg.contains(expected), "{part:?}");
        }
    }
}
