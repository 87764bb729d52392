//! Miri: tests of what reads and writes raw bytes without a kernel, interpreted, so that undefined
//! behaviour shows.
//!
//! The code is safe but for what its dependencies do with bytes (`zerocopy`); a stable toolchain
//! has no Miri, so this runs where a nightly with it is installed.

use std::process::Command;

use anyhow::Result;

use crate::ci::Outcome;
use crate::cmd;

/// What continuous integration runs: the layouts of everything that the kernel shares with us.
const QUICK: &[&[&str]] = &[&["--package", "axon-abi"]];
/// What takes minutes, as interpreted code is some hundred times slower.
const SLOW: &[&[&str]] = &[
    &["--package", "axon-datapath", "--test", "cases"],
    &["--package", "axon-hubble", "--lib"],
];

/// The toolchain that may have it.
const TOOLCHAIN: &str = "+nightly";

/// The tests that Miri can say something about, where there is one.
pub(crate) fn miri() -> Result<Outcome> {
    run(&[QUICK, SLOW].concat())
}

/// Those of them that end soon.
pub(crate) fn ci() -> Result<Outcome> {
    run(QUICK)
}

fn run(runs: &[&[&str]]) -> Result<Outcome> {
    if !cmd::succeeds(cargo().args(["miri", "setup"])) {
        return Ok(Outcome::Skipped(
            "no Miri (rustup component add --toolchain nightly miri rust-src)",
        ));
    }
    for run in runs {
        let mut miri = cargo();
        miri.args(["miri", "test", "--quiet"]).args(*run);
        // Tests read files and clocks.
        miri.env("MIRIFLAGS", "-Zmiri-disable-isolation");
        miri.env("PROPTEST_CASES", "4");
        cmd::run(&mut miri)?;
    }
    Ok(Outcome::Passed)
}

/// Not the cargo that runs us: that is of another toolchain.
fn cargo() -> Command {
    let mut cargo = cmd::command("cargo");
    cargo.arg(TOOLCHAIN);
    for name in ["RUSTC", "CARGO", "RUSTUP_TOOLCHAIN"] {
        cargo.env_remove(name);
    }
    cargo
}
