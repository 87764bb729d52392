//! Every program passes the running kernel's verifier.

mod common;

use axon_abi::Hook;
use axon_linux::verify::verify;
use axon_linux::{Features, SocketHook};

#[test]
fn every_program_is_accepted_within_the_limits_of_old_kernels() {
    let Some(()) = common::root() else { return };
    let found = verify().expect("the object loads");
    let programs = 2 * Hook::ALL.len() + SocketHook::ALL.len();
    assert_eq!(found.len(), programs, "{found:?}");
    for (name, verified) in &found {
        eprintln!("{name}: {verified:?}");
        assert_eq!(verified.error, "", "{name}");
        assert!(verified.instructions > 0, "{name}");
        assert!((1..=480).contains(&verified.stack), "{name}: {verified:?}");
    }
}

/// What a kernel has since some version, this one has if it is not older:
/// whoever asks it shall not be told otherwise.
#[test]
fn what_is_asked_agrees_with_the_kernels_version() {
    let Some(()) = common::root() else { return };
    let features = Features::probe();
    assert!(
        features.asked && features.missing().next().is_none(),
        "{features:?}"
    );
    let number = |version: &str| {
        let mut numbers = version
            .split(['.', '-'])
            .map_while(|n| n.parse::<u32>().ok());
        (numbers.next(), numbers.next())
    };
    // Whether programs are compiled is the node's choice.
    for feature in features.list.iter().filter(|feature| feature.name != "jit") {
        let old_enough = number(feature.since) <= number(&features.kernel);
        assert!(
            feature.available || !old_enough,
            "{}: {feature:?}",
            features.kernel
        );
    }
}
