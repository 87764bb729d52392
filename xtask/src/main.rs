//! Everything around the code: setup, build, checks, virtual machines.
//!
//! ```text
//!  make test ──► cargo xtask setup   what is missing, into a private cache
//!           └──► cargo xtask ci      fmt ► clippy ► deny ► deps ► test ► verify ► doc
//!
//!  cargo xtask vm --kernel 6.1 -- axon bpf verify     the same, on another kernel
//! ```
//!
//! Invariants:
//! - continuous integration runs exactly these commands; there is no second list of steps;
//! - nothing outside the repository and the cache (`$AXON_CACHE`) is changed, except that
//!   `setup`, as root, installs the few Debian packages that it names;
//! - it uses no crate of the workspace, so that it builds when those do not.
#![forbid(unsafe_code)]

mod apt;
mod bench;
mod cache;
mod checks;
mod ci;
mod cmd;
mod deps;
mod fuzz;
mod miri;
mod runtimes;
mod setup;
mod vm;
mod workspace;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask VERB

  setup [--build]     install what building, testing and the demo need; without the tools of
        [--force]     checks; or all of it again
  build [ARGS]        build the release binaries
  demo                build, then run the demo cluster (root)
  test [ARGS]         cargo test over the workspace
  ci                  every check, as continuous integration runs them
  lint                the checks that run no tests
  deps                dependency floors, unsafe code, file lengths
  deny [--advisories] licences, bans and sources of external crates
  verify              load every BPF program into this kernel, within its budget (root)
  fuzz [--time SECONDS] [--keep] [TARGET [INPUT...]]
                      run each fuzz target for a minute, or as long as told; add what was found
                      to the corpus; or run single inputs
  miri                tests of abi, datapath and hubble, interpreted
  soak [--kills=N] [--exchanges=N] [--layouts=N] [--streams=N]
                      kill and exchange the agent under traffic (root)
  conformance [--only TEXT] [--cases DIR] [--labs N] [--json FILE]
                      every policy case with real packets, on the nodes that it names (root)
  bench [--gate] [ARGS]
                      run the benchmarks (root); with --gate a missed goal or budget fails;
                      ARGS are those of `axon-bench run`
  bench --table       write the figures of the last run into docs/performance.md
  runtimes [--all]    fetch container runtimes for tests into the cache; with --all the
        [--force]     newest containerd too, from another Debian release
  kernels [VERSION...]
                      what must hold on every supported kernel, each emulated; `--update` writes
                      down what the programs cost there instead
  vm [OPTIONS] -- CMD run a command under another kernel (`cargo xtask vm --help`)
  clean [--cache]     remove build results, and the toolchain cache
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let verb = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    match run(&verb, &rest) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask {verb}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: &str, args: &[String]) -> anyhow::Result<ExitCode> {
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    match verb {
        "setup" => setup::setup(has("--build"), has("--force"))?,
        "build" => checks::build(args)?,
        "demo" => checks::demo()?,
        "test" => checks::test(args)?,
        "ci" => return ci::ci(),
        "lint" => return ci::lint(),
        "deps" => deps::check()?,
        "deny" => checks::deny(has("--advisories"))?,
        "verify" => report(&checks::verify()?),
        "fuzz" => fuzz::fuzz(args)?,
        "miri" => report(&miri::miri()?),
        "soak" => checks::soak(args)?,
        "conformance" => checks::conformance(args)?,
        "bench" => bench::bench(args)?,
        "runtimes" => runtimes::install(has("--all"), has("--force"))?,
        "kernels" => return vm::kernels(args),
        "vm" => return vm::vm(args),
        "clean" => checks::clean(has("--cache"))?,
        "" | "help" | "-h" | "--help" => print!("{HELP}"),
        other => anyhow::bail!("no such verb `{other}`\n\n{HELP}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Says why a check that was asked for by name did not run.
fn report(outcome: &ci::Outcome) {
    if let ci::Outcome::Skipped(reason) = outcome {
        println!("skipped: {reason}");
    }
}
