//! `axon lab demo`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::paths::Lab;

/// Runs the demo.
pub(crate) fn run(lab: &Lab, dir: &Path, keep: bool) -> Result<ExitCode> {
    bail!("{} {} {keep}", lab.name, dir.display())
}
