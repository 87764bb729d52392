//! VM (next step).
pub(crate) fn vm(_args: &[String]) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("not yet")
}
