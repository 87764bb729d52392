//! `setup`: what building, testing and the demo need, and nothing twice.

mod packages;
mod toolchain;
mod tools;

use anyhow::Result;

use crate::runtimes;

/// Installs what is missing. Complete already, it says so in one line.
///
/// `build_only` leaves out the tools of checks, which take minutes to build.
pub(crate) fn setup(build_only: bool, force: bool) -> Result<()> {
    let packages = packages::missing();
    let tools_ready = build_only || (tools::is_ready() && has_runtimes());
    if !force && packages.is_empty() && toolchain::is_ready() && tools_ready {
        println!("setup: complete ({})", crate::cache::root().display());
        return Ok(());
    }
    packages::install(&packages)?;
    toolchain::install(force)?;
    if build_only {
        return Ok(());
    }
    tools::install(force)?;
    // Without them the tests that need them say so and skip.
    if let Err(error) = runtimes::install(false, force) {
        say("container runtimes", &format!("left out: {error:#}"));
    }
    Ok(())
}

/// Whether nothing is left to be tried: elsewhere than on Debian there are none
/// to be had.
fn has_runtimes() -> bool {
    runtimes::is_ready() || !std::path::Path::new("/etc/debian_version").exists()
}

/// Where a tool that setup builds is found: the cache, else the search path.
pub(crate) fn tool(name: &str) -> Option<std::path::PathBuf> {
    tools::find(name)
}

/// One line of progress, the same shape for every item.
fn say(item: &str, state: &str) {
    println!("setup: {item:<24} {state}");
}
