//! What the fuzzer has found worth keeping, and what it starts from.

use axon_testkit::{cases, replay};

#[expect(unreachable_pub, reason = "the fuzzer's library shows it")]
#[path = "../../../fuzz/src/packet/mod.rs"]
mod packet;

#[test]
fn packets() {
    replay("packet", packet::run);
}

#[test]
fn the_cases_hold_what_holds_of_every_packet() {
    for case in cases::all() {
        packet::run(&packet::script(&case));
        for script in packet::scripts(&case) {
            packet::run(&script);
        }
    }
}

/// `cargo test -p axon-datapath --test corpus -- --ignored`: begins the corpus
/// anew from the case tables.
#[test]
#[ignore = "writes files"]
fn write_seeds() {
    for (n, case) in cases::all().iter().enumerate() {
        axon_testkit::keep("packet", &format!("case-{n:03}"), &packet::script(case));
    }
}
