//! `axon service evaluate` as others ask it: the shared service cases with their
//! own runner, where they are at hand.

#[path = "common/checker.rs"]
mod checker;

#[test]
fn the_shared_cases_have_their_answers() {
    let services = checker::Collection {
        variable: "AXON_SERVICE_CASES",
        beside: "../shared/service-cases",
        verb: "service evaluate",
    };
    services.check(&[]);
}
