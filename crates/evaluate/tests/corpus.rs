//! What the fuzzer has found worth keeping.

use axon_testkit::replay;

#[expect(unreachable_pub, reason = "the fuzzer's library shows it")]
#[path = "../../../fuzz/src/flows.rs"]
mod flows;

#[test]
fn recorded_flows() {
    replay("flows", flows::run);
}
