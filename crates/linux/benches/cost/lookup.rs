//! What the policy look-up costs beside how many rows there are.
//!
//! Packets that open flows, each to another port that a row of its own allows:
//! so every look-up meets another place of the map. What else such a packet
//! costs is the same for every count, and each count has maps of its own.

use std::time::Duration;

use axon_abi::{ConfigFlags, Hook, Identity};
use axon_testkit::cases::{Net, POD_A, V4};
use axon_testkit::{Rule, World};

use crate::kernel::{Kernel, program};
use crate::stages::{SYN, run, segment};

/// Rule rows in the map; the first is what the others are compared to.
const ROWS: [u32; 4] = [1, 16_384, 65_536, 250_000];
/// Nanoseconds that the look-up may cost more than with one row.
const MORE_NS_MAX: f64 = 60.0;
/// The same in look-ups of a random key among 250,000: those 60 ns were asked for where
/// one takes 66 ns, and what rows that are in no cache cost is the machine's memory.
const MORE_OF_ONE_MAX: f64 = 60.0 / 66.0;
/// Remotes among which rows are shared out: one has no more ports than 65,535.
const REMOTES: u32 = 4;
const FIRST_PORT: u16 = 1024;
/// Packets of each count in a round.
const PACKETS: usize = 64;

/// Programs and maps with so many rule rows.
pub(crate) struct Look {
    pub(crate) rows: u32,
    kernel: Kernel,
    /// Ports that the sender may reach.
    ports: u16,
    sent: u32,
    took: Vec<Duration>,
}

/// The receiver's rows: one for each of so many pairs of a remote and a port.
fn world(rows: u32) -> World {
    let mut world = Net::scene();
    world.config.mtu = 1500;
    world.config.flags &= !(ConfigFlags::EVENT_VERDICT | ConfigFlags::EVENT_TRACE);
    let rule = |egress, port, prefix| Rule {
        egress,
        protocol: 6,
        port,
        prefix,
        precedence: 10,
        ..Rule::default()
    };
    world.rule(1, Some(Identity(301)), rule(true, 0, 0));
    for n in 0..rows {
        let remote = Identity(300 + n % REMOTES);
        let port = u16::try_from(n / REMOTES).map_or(u16::MAX, |n| FIRST_PORT + n);
        world.rule(2, Some(remote), rule(false, port, 16));
    }
    world
}

impl Look {
    fn new(rows: u32) -> Self {
        let world = world(rows);
        assert_eq!(world.policy.len(), rows as usize + 1, "rows are distinct");
        let mut kernel = Kernel::load_sized(rows.max(64) + 64);
        kernel.set_world(&world);
        Self {
            rows,
            kernel,
            ports: u16::try_from(rows.div_ceil(REMOTES)).expect("ports"),
            sent: 0,
            took: Vec::new(),
        }
    }

    pub(crate) fn sample(&mut self) {
        for _ in 0..PACKETS {
            self.sent += 1;
            // Steps that share no factor with the counts reach every row.
            let step = u64::from(self.sent) * 40_503 % u64::from(self.ports);
            let port = FIRST_PORT + u16::try_from(step).unwrap_or(0);
            let from = FIRST_PORT + u16::try_from(self.sent % 60_000).unwrap_or(0);
            let frame = segment(V4.a, V4.b, (from, port), SYN);
            let from_endpoint = program(&mut self.kernel.ebpf, Hook::FromEndpoint);
            let (action, took) = run(from_endpoint, POD_A, &frame, 1);
            assert_eq!(action, 7, "port {port} of {} rows is allowed", self.rows);
            self.took.push(took);
        }
    }

    pub(crate) fn median_ns(&self) -> f64 {
        let mut took = self.took.clone();
        took.sort_unstable();
        let middle = took.get(took.len() / 2).copied().unwrap_or_default();
        middle.as_nanos() as f64
    }
}

/// One for each count of rows.
pub(crate) fn all() -> Vec<Look> {
    ROWS.into_iter().map(Look::new).collect()
}

/// Prints what was found and adds it to the list; gives back what costs more
/// than it may. `one_ns` is what one look-up among 250,000 keys costs in this run.
pub(crate) fn report(
    looks: &[Look],
    one_ns: f64,
    list: &mut Vec<serde_json::Value>,
) -> Vec<String> {
    let base = looks.first().map_or(0.0, Look::median_ns);
    let most = MORE_NS_MAX.max(one_ns * MORE_OF_ONE_MAX);
    let mut over = Vec::new();
    println!(
        "\npolicy look-up: a packet that opens a flow (ns, medians; one look-up of a random key among \
         250,000 takes {one_ns:.0}; goal: at most {most:.0} more)"
    );
    println!(
        "{:<18} {:>6} {:>8} {:>8}",
        "rule rows", "ns", "more", "to one"
    );
    for look in looks {
        let (ns, name) = (look.median_ns(), format!("policy_of_{}", look.rows));
        let more = ns - base;
        println!(
            "{:<18} {ns:>6.0} {more:>8.0} {:>8.2}",
            look.rows,
            more / one_ns
        );
        if more > most {
            over.push(name.clone());
        }
        list.push(serde_json::json!({
            "stage": name, "ns": ns, "more_ns": more, "more_to_one": more / one_ns,
            "goal_ns": most, "met": more <= most,
        }));
    }
    over
}
