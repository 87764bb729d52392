//! What the tests of the built binaries share: where these are, and how an
//! agent is told where its files belong.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The built `axon`, or the one that `AXON_E2E_BINARY` names.
pub(crate) fn axon() -> PathBuf {
    let named = std::env::var_os("AXON_E2E_BINARY").filter(|name| !name.is_empty());
    named
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_axon").into())
        .into()
}

/// The plugin beside [`axon`], which is another package's: cargo may not have
/// built it for this test alone.
pub(crate) fn plugin() -> PathBuf {
    let plugin = axon().with_file_name("axon-cni");
    if !plugin.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "-p", "axon-cni"])
            .status();
        assert!(
            built.expect("cargo runs").success(),
            "cargo build -p axon-cni"
        );
    }
    plugin
}

/// The agent's arguments for a node whose every file is below `dir`.
pub(crate) fn files_below(dir: &Path) -> Vec<OsString> {
    let files = [
        ("--manifests-dir", "manifests"),
        ("--state-dir", "state"),
        ("--lib-dir", "lib"),
        ("--socket-path", "axon.sock"),
        ("--bpf-root", "bpf"),
    ];
    files
        .into_iter()
        .flat_map(|(option, file)| [option.into(), dir.join(file).into()])
        // The machine's own sockets are nobody's here.
        .chain(["--kube-proxy-replacement=false".into()])
        .collect()
}
