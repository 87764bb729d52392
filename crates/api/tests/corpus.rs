//! What the fuzzer has found worth keeping.

use axon_testkit::replay;

#[expect(unreachable_pub, reason = "the fuzzer's library shows it")]
#[path = "../../../fuzz/src/manifest.rs"]
mod manifest;

#[test]
fn manifests() {
    replay("manifest", manifest::run);
}
