//! Miri: the tests of crates without a kernel, interpreted, so that undefined behaviour shows.
//!
//! The code is safe but for what its dependencies do with bytes (`zerocopy`); a stable toolchain
//! has no Miri, so this runs where a nightly with it is installed.

use anyhow::Result;

use crate::ci::Outcome;
use crate::cmd;

/// Crates whose layouts and byte reading Miri can say something about, and the tests of each that
/// end soon: interpreted code is some hundred times slower.
const RUNS: &[&[&str]] = &[
    &["--package", "axon-abi"],
    &["--package", "axon-datapath", "--test", "cases"],
    &["--package", "axon-hubble", "--lib"],
];

/// The toolchain that may have it.
const TOOLCHAIN: &str = "+nightly";

/// Runs the tests under Miri, where there is one.
pub(crate) fn miri() -> Result<Outcome> {
    // Not the cargo that runs us: that is of another toolchain.
    let cargo = || {
        let mut cargo = cmd::command("cargo");
        cargo
            .arg(TOOLCHAIN)
            .env_remove("RUSTC")
            .env_remove("RUSTUP_TOOLCHAIN");
        cargo
    };
    if !cmd::succeeds(cargo().args(["miri", "setup"])) {
        return Ok(Outcome::Skipped(
            "no Miri (rustup component add --toolchain nightly miri rust-src)",
        ));
    }
    for run in RUNS {
        let mut miri = cargo();
        miri.args(["miri", "test", "--quiet"]).args(*run);
        // Tests read files and clocks; what property tests remember of failures is none of ours.
        miri.env("MIRIFLAGS", "-Zmiri-disable-isolation");
        miri.env("PROPTEST_CASES", "4");
        cmd::run(&mut miri)?;
    }
    Ok(Outcome::Passed)
}
