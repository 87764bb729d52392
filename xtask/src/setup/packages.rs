//! The few Debian packages that must be installed in the system.

use anyhow::{Result, bail};

use super::say;
use crate::cmd;

/// A program that we call, the package that brings it, and what calls it.
struct Need {
    program: &'static str,
    package: &'static str,
    reason: &'static str,
}

const NEEDS: &[Need] = &[
    Need {
        program: "cc",
        package: "gcc libc6-dev",
        reason: "rustc's linker",
    },
    Need {
        program: "c++",
        package: "g++",
        reason: "the fuzzer",
    },
    Need {
        program: "strip",
        package: "binutils",
        reason: "small cached tools",
    },
    Need {
        program: "ip",
        package: "iproute2",
        reason: "tests compare devices with its view",
    },
    Need {
        program: "ping",
        package: "iputils-ping",
        reason: "ICMP in tests and the demo",
    },
    Need {
        program: "curl",
        package: "curl",
        reason: "HTTP in tests and the demo",
    },
    Need {
        program: "python3",
        package: "python3",
        reason: "small servers in tests",
    },
    Need {
        program: "yaml of python3",
        package: "python3-yaml",
        reason: "conformance cases are read by their own checker",
    },
    Need {
        program: "nft",
        package: "nftables",
        reason: "tests beside firewalls and other engines",
    },
    Need {
        program: "iptables",
        package: "iptables",
        reason: "tests beside firewalls",
    },
];

/// The packages of this list whose program is absent.
pub(super) fn missing() -> Vec<&'static str> {
    NEEDS
        .iter()
        .filter(|need| !is_there(need.program))
        .map(|need| need.package)
        .collect()
}

/// Whether a program is there, or `MODULE of python3`.
fn is_there(program: &str) -> bool {
    let Some(module) = program.strip_suffix(" of python3") else {
        return cmd::which(program).is_some();
    };
    let import = format!("import {module}");
    cmd::quiet(cmd::command("python3").args(["-c", &import])).is_ok()
}

/// Installs packages; who is not root is told the command instead.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    for need in NEEDS
        .iter()
        .filter(|need| !packages.contains(&need.package))
    {
        say(need.program, "ok");
    }
    if packages.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = packages.iter().flat_map(|names| names.split(' ')).collect();
    let names = names.join(" ");
    for need in NEEDS.iter().filter(|need| packages.contains(&need.package)) {
        say(
            need.program,
            &format!("missing ({}, in {})", need.reason, need.package),
        );
    }
    if !cmd::is_root() {
        bail!("run this and repeat:\n  sudo apt-get install --no-install-recommends {names}");
    }
    if cmd::which("apt-get").is_none() {
        bail!("no apt-get here; install what Debian calls: {names}");
    }
    say(&names, "installing ...");
    let install = || {
        cmd::quiet(
            cmd::command("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["-q", "-y", "install", "--no-install-recommends"])
                .args(names.split(' ')),
        )
    };
    install().or_else(|_| {
        // Most often the lists are older than the mirror's packages.
        cmd::quiet(cmd::command("apt-get").args(["-q", "update"]))?;
        install()
    })
}
