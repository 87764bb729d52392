//! What the fuzzer has found worth keeping.

use axon_testkit::replay;

#[expect(unreachable_pub, reason = "the fuzzer's library shows it")]
#[path = "../../../fuzz/src/event.rs"]
mod event;
#[expect(unreachable_pub, reason = "the fuzzer's library shows it")]
#[path = "../../../fuzz/src/request.rs"]
mod request;

#[test]
fn events() {
    replay("event", event::run);
}

#[test]
fn requests() {
    replay("request", request::run);
}
