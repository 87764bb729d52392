//! Each check and each build, once; `ci` and the verbs call the same functions.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::ci::Outcome;
use crate::workspace::{self, text};
use crate::{cache, cmd, setup};

/// The demo: what `make demo` starts, and where its files are.
const DEMO: &[&str] = &["lab", "demo", "examples/star-wars"];

/// The verb that loads every program into the running kernel.
const VERIFY: &[&str] = &["bpf", "verify"];

/// Builds `target/debug/axon` as the workspace's tests do, which have it built with them: by
/// itself it would have other features, and half of the workspace would be compiled once more.
const AXON: &[&str] = &[
    "test",
    "--quiet",
    "--workspace",
    "--no-run",
    "--test",
    "cli",
];

/// `cargo fmt --check`, of the detached crates too.
pub(crate) fn format() -> Result<Outcome> {
    cmd::run(cmd::cargo().args(["fmt", "--all", "--check"]))?;
    for manifest in workspace::detached() {
        cmd::run(
            cmd::cargo()
                .args(["fmt", "--check", "--manifest-path"])
                .arg(manifest),
        )?;
    }
    Ok(Outcome::Passed)
}

/// Clippy on every target; any warning fails.
pub(crate) fn clippy() -> Result<Outcome> {
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-Dwarnings",
    ];
    cmd::run(cmd::cargo().args(arguments))?;
    Ok(Outcome::Passed)
}

/// Licences, bans and sources; known vulnerabilities only on request, as that needs the network.
pub(crate) fn deny(advisories: bool) -> Result<()> {
    let tool = setup::tool("cargo-deny").context("no cargo-deny: run `cargo xtask setup`")?;
    let config = workspace::root().join("deny.toml");
    let mut manifests = workspace::detached();
    manifests.insert(0, workspace::root().join("Cargo.toml"));
    for manifest in manifests {
        let mut deny = cmd::command(&tool);
        deny.arg("--manifest-path").arg(manifest);
        deny.arg("--config").arg(&config);
        deny.args(["--log-level", "warn", "check", "--hide-inclusion-graph"]);
        deny.args(["licenses", "bans", "sources"])
            .args(advisories.then_some("advisories"));
        cmd::run(&mut deny)?;
    }
    Ok(())
}

/// `cargo test` over the workspace.
pub(crate) fn test(args: &[String]) -> Result<()> {
    cmd::run(
        cmd::cargo()
            .args(["test", "--workspace", "--quiet", "--no-fail-fast"])
            .args(args),
    )
}

/// The API documentation, with warnings as errors.
pub(crate) fn documentation() -> Result<Outcome> {
    let arguments = [
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--quiet",
    ];
    cmd::run(
        cmd::cargo()
            .args(arguments)
            .env("RUSTDOCFLAGS", "-Dwarnings"),
    )?;
    Ok(Outcome::Passed)
}

/// The release binaries.
pub(crate) fn build(args: &[String]) -> Result<()> {
    let arguments = [
        "build",
        "--release",
        "--workspace",
        "--exclude",
        "xtask",
        "--exclude",
        "axon-cni",
        "--bins",
    ];
    cmd::run(cmd::cargo().args(arguments).args(args))?;
    build_plugin(args)
}

/// The CNI plugin, static: runtimes start it in whatever root file system
/// they have. Naming the target keeps build scripts out of it.
fn build_plugin(args: &[String]) -> Result<()> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let flags = format!("target.{target}.rustflags=[\"-Ctarget-feature=+crt-static\"]");
    cmd::run(
        cmd::cargo()
            .args(["build", "--release", "--package", "axon-cni", "--bins"])
            .args(["--target", &target, "--config", &flags])
            .args(args),
    )?;
    let folder = target_folder()?;
    let built = folder.join(target).join("release/axon-cni");
    let place = folder.join("release/axon-cni");
    // Beside the others, at once: it may be running.
    let draft = folder.join("release/.axon-cni.new");
    fs::copy(&built, &draft).with_context(|| format!("copy {}", built.display()))?;
    fs::rename(&draft, &place).with_context(|| format!("replace {}", place.display()))
}

/// Builds, then hands over to the binary's own demo.
pub(crate) fn demo() -> Result<()> {
    build(&[])?;
    cmd::run(cmd::command(target_folder()?.join("release/axon")).args(DEMO))
}

/// Kills and exchanges the agent under traffic, by default 200 and 20 times; then
/// pods come and go, and a deployment is rolled.
pub(crate) fn soak(args: &[String]) -> Result<()> {
    let mut soak = cmd::cargo();
    soak.args(["test", "--quiet", "--package", "axon", "--test", "soak"]);
    soak.args(["--", "--nocapture"]);
    let mut wanted = vec![
        ("kills", "200"),
        ("exchanges", "20"),
        ("layouts", "1"),
        ("streams", "200"),
    ];
    for arg in args {
        let (name, count) = arg
            .strip_prefix("--")
            .and_then(|arg| arg.split_once('='))
            .with_context(|| {
                format!("{arg:?}: expected --kills=N, --exchanges=N, --layouts=N, --streams=N")
            })?;
        if !["kills", "exchanges", "layouts", "streams"].contains(&name) {
            bail!("--{name}: expected kills, exchanges, layouts or streams");
        }
        wanted.retain(|(known, _)| *known != name);
        wanted.push((name, count));
    }
    for (name, count) in wanted {
        soak.env(format!("AXON_SOAK_{}", name.to_uppercase()), count);
    }
    cmd::run(&mut soak)?;
    // Their long form: a hundred pods come and go ten times.
    let mut churn = cmd::cargo();
    churn.args(["test", "--quiet", "--package", "axon", "--test", "cni"]);
    churn.args(["--", "--ignored", "--nocapture"]);
    cmd::run(&mut churn)?;
    // A deployment is rolled thrice under as many connections as the machine gives.
    let mut roll = cmd::cargo();
    roll.args(["test", "--quiet", "--package", "axon", "--test", "e2e"]);
    roll.args(["--", "--nocapture", "roll::"]);
    roll.env("AXON_ROLL_TIMES", "3");
    roll.env("AXON_ROLL_WORKERS", "16");
    cmd::run(&mut roll)
}

/// Plays every policy case and service case with real packets, or those with a text in
/// their names.
pub(crate) fn conformance(args: &[String]) -> Result<()> {
    let mut test = cmd::cargo();
    test.args([
        "test",
        "--quiet",
        "--package",
        "axon",
        "--test",
        "conformance",
    ]);
    test.args([
        "--",
        "--nocapture",
        "--exact",
        "policies_hold_on_real_nodes",
        "services::services_hold_on_real_nodes",
    ]);
    test.env("AXON_CONFORMANCE_ALL", "1");
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (arg.as_str(), None),
        };
        let variable = match name {
            "--only" => "AXON_CONFORMANCE_ONLY",
            "--labs" => "AXON_CONFORMANCE_LABS",
            "--json" => "AXON_CONFORMANCE_JSON",
            "--cases" => "AXON_POLICY_CASES",
            other => bail!("{other:?}: expected --only, --cases, --labs or --json"),
        };
        let value = inline.or_else(|| args.next().map(String::as_str));
        let value = value.with_context(|| format!("{name} needs a value"))?;
        // The test runs elsewhere.
        if ["--json", "--cases"].contains(&name) {
            test.env(variable, std::path::absolute(value)?);
        } else {
            test.env(variable, value);
        }
    }
    cmd::run(&mut test)
}

/// Removes build results; the toolchain cache only when asked, as it is slow to refill.
pub(crate) fn clean(with_cache: bool) -> Result<()> {
    // Not through cargo, which would keep the folder of detached crates.
    for manifest in workspace::detached() {
        cmd::run(
            cmd::cargo()
                .args(["clean", "--quiet", "--manifest-path"])
                .arg(manifest),
        )?;
    }
    cmd::run(cmd::cargo().args(["clean", "--quiet"]))?;
    if with_cache {
        cache::remove(&cache::root())
    } else {
        Ok(())
    }
}

/// Whether there is a datapath, and a binary that knows how to load it.
pub(crate) fn can_verify() -> bool {
    workspace::root().join("crates/bpf").exists()
        && cmd::succeeds(cmd::cargo().args(AXON))
        && axon().is_ok_and(|axon| cmd::succeeds(cmd::command(axon).args(VERIFY).arg("--help")))
}

/// Loads the datapath's programs into this kernel, within their budget.
///
/// That none can panic is checked where they are built, by `crates/linux`.
pub(crate) fn verify() -> Result<Outcome> {
    if !can_verify() {
        bail!(
            "the binary has no `{}`, or does not build",
            VERIFY.join(" ")
        );
    }
    if !cmd::is_root() {
        return Ok(Outcome::Skipped("loading programs needs root"));
    }
    let budget = workspace::root().join("crates/bpf/budget.json");
    let mut verify = cmd::command(axon()?);
    verify.args(VERIFY);
    if budget.exists() {
        verify.arg("--budget").arg(budget);
    }
    cmd::run(&mut verify)?;
    Ok(Outcome::Passed)
}

fn axon() -> Result<PathBuf> {
    Ok(target_folder()?.join("debug/axon"))
}

/// Cargo's target folder, wherever the user has put it.
pub(crate) fn target_folder() -> Result<PathBuf> {
    Ok(PathBuf::from(text(
        &workspace::members()?,
        "target_directory",
    )))
}
