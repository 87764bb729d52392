//! Every program passes the running kernel's verifier.

mod common;

use axon_abi::Hook;
use axon_linux::verify::verify;

#[test]
fn every_program_is_accepted_within_the_limits_of_old_kernels() {
    let Some(()) = common::root() else { return };
    let found = verify().expect("the object loads");
    assert_eq!(found.len(), 2 * Hook::ALL.len(), "{found:?}");
    for (name, verified) in &found {
        eprintln!("{name}: {verified:?}");
        assert_eq!(verified.error, "", "{name}");
        assert!(verified.instructions > 0, "{name}");
        assert!((1..=480).contains(&verified.stack), "{name}: {verified:?}");
    }
}
