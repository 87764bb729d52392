use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{Install, install, uninstall};

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    /// A machine with two plugins' configurations and a plugin of ours built.
    fn new() -> Self {
        let host = Self {
            dir: tempfile::tempdir().expect("directory"),
        };
        fs::create_dir_all(host.conf()).expect("directory");
        for name in ["10-bridge.conf", "99-loopback.conflist", "README"] {
            fs::write(host.conf().join(name), name).expect("file");
        }
        fs::write(host.dir.path().join("axon-cni"), "program").expect("file");
        host
    }

    fn conf(&self) -> PathBuf {
        self.dir.path().join("net.d")
    }

    fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    fn names(&self, dir: &Path) -> Vec<String> {
        super::files(dir)
            .expect("files")
            .iter()
            .map(|f| f.file_name().expect("name").to_string_lossy().into_owned())
            .collect()
    }

    fn options(&self, exclusive: bool) -> Install {
        Install {
            exclusive,
            plugin: Some(self.dir.path().join("axon-cni")),
            socket: "/run/x.sock".into(),
            mtu: 1400,
            log_file: String::new(),
            enable_debug: false,
        }
    }
}

#[test]
fn others_are_left_alone() {
    let host = Host::new();
    for _ in 0..2 {
        install(&host.options(false), &host.conf(), &host.bin()).expect("installed");
    }
    let all = [
        "05-axon.conflist",
        "10-bridge.conf",
        "99-loopback.conflist",
        "README",
    ];
    assert_eq!(host.names(&host.conf()), all);
    let text = fs::read_to_string(host.conf().join("05-axon.conflist")).expect("conflist");
    let conf: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(conf["plugins"][0]["type"], "axon-cni");
    assert_eq!(conf["plugins"][0]["api-socket"], "/run/x.sock");
    assert_eq!(conf["plugins"][0]["mtu"], 1400);
    let mode = fs::metadata(host.bin().join("axon-cni"))
        .expect("plugin")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);

    uninstall(&host.conf(), &host.bin()).expect("uninstalled");
    assert_eq!(host.names(&host.conf()), all[1..]);
    assert!(host.names(&host.bin()).is_empty());
}

#[test]
fn exclusive_is_undone_by_uninstall() {
    let host = Host::new();
    install(&host.options(true), &host.conf(), &host.bin()).expect("installed");
    assert_eq!(
        host.names(&host.conf()),
        [
            "05-axon.conflist",
            "10-bridge.conf.axon_bak",
            "99-loopback.conflist.axon_bak",
            "README"
        ]
    );
    // Somebody writes one anew.
    fs::write(host.conf().join("10-bridge.conf"), "new").expect("file");
    uninstall(&host.conf(), &host.bin()).expect("uninstalled");
    assert_eq!(
        host.names(&host.conf()),
        [
            "10-bridge.conf",
            "10-bridge.conf.axon_bak",
            "99-loopback.conflist",
            "README"
        ]
    );
    let kept = fs::read_to_string(host.conf().join("10-bridge.conf")).expect("file");
    assert_eq!(kept, "new");
}

#[test]
fn without_a_plugin_nothing_is_written() {
    let host = Host::new();
    let options = Install {
        plugin: Some("/nonexistent/axon-cni".into()),
        ..host.options(true)
    };
    let failure = install(&options, &host.conf(), &host.bin()).expect_err("no plugin");
    assert!(failure.text().contains("--plugin"), "{}", failure.text());
    assert_eq!(
        host.names(&host.conf()),
        ["10-bridge.conf", "99-loopback.conflist", "README"]
    );
    // Nothing was ever installed: nothing to do.
    assert_eq!(
        uninstall(&host.conf(), &host.bin()).expect("nothing"),
        super::Report::default()
    );
}
