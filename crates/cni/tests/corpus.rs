//! What the fuzzer has found worth keeping.

use axon_testkit::replay;

#[expect(unreachable_pub, reason = "the fuzzer's library shows it")]
#[path = "../../../fuzz/src/cni.rs"]
mod cni;

#[test]
fn calls() {
    replay("cni", cni::run);
}
