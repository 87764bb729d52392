//! The emulator: fetched when the system has none that is good enough, and run.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Ended;
use super::kernel::Kernel;
use super::options::Options;
use crate::apt::Apt;
use crate::{cache, cmd};

/// Older ones let guests die at random when they emulate several processors.
const OLDEST_MAJOR: u32 = 9;
/// The guest's status when it did not end in time, as `timeout` has it.
const TOO_LATE: u8 = 124;
/// The status when the guest never got to the command.
const NO_GUEST: u8 = 125;

/// Bytes of a console that are remembered.
const CONSOLE_MAX: usize = 1 << 20;

/// A usable QEMU.
pub(super) struct Qemu {
    program: PathBuf,
    /// The folder that it was unpacked to; nothing when it is the system's.
    prefix: Option<PathBuf>,
}

/// The system's QEMU if it is new enough, else Debian's from backports, in the cache.
pub(super) fn fetch() -> Result<Qemu> {
    let program = "qemu-system-x86_64";
    if let Some(program) = cmd::which(program).filter(|program| major(program) >= OLDEST_MAJOR) {
        return Ok(Qemu {
            program,
            prefix: None,
        });
    }
    let prefix = cache::path("vm/qemu");
    if !prefix.exists() {
        eprintln!("vm: fetching QEMU ...");
        cache::folder(&cache::path("vm"))?;
        let suites = [
            "bookworm",
            "bookworm-updates",
            "bookworm-security",
            "bookworm-backports",
        ];
        let apt = Apt::suites(&suites)?;
        cache::build(&prefix, |into| {
            apt.unpack_with_missing("qemu-system-x86", "bookworm-backports", into)
        })?;
    }
    Ok(Qemu {
        program: prefix.join("usr/bin").join(program),
        prefix: Some(prefix),
    })
}

impl Qemu {
    /// Boots, prints what the guest prints, and returns the command's status.
    pub(super) fn run(
        &self,
        kernel: &Kernel,
        initramfs: &Path,
        status: &Path,
        options: &Options,
    ) -> Result<Ended> {
        let deadline = Instant::now() + options.timeout;
        // A guest that did not even start is QEMU's fault, not the command's: once more.
        for _ in 0..2 {
            let mut child = self.command(kernel, initramfs, status, options)?.spawn();
            let child = child
                .as_mut()
                .map_err(|error| anyhow::anyhow!("cannot start QEMU: {error}"))?;
            let (in_time, console) = follow(child, deadline)?;
            let ended = |status| Ok(Ended { status, console });
            match Report::read(status) {
                Report::Exit(code) => return ended(code),
                _ if !in_time => {
                    eprintln!("vm: stopped after {} s", options.timeout.as_secs());
                    return ended(TOO_LATE);
                }
                Report::Started => {
                    eprintln!("vm: the guest died during the command");
                    return ended(NO_GUEST);
                }
                Report::Nothing => eprintln!("vm: the guest did not start"),
            }
        }
        Ok(Ended {
            status: NO_GUEST,
            console: String::new(),
        })
    }

    fn command(
        &self,
        kernel: &Kernel,
        initramfs: &Path,
        status: &Path,
        options: &Options,
    ) -> Result<Command> {
        fs::write(status, "").with_context(|| format!("cannot write {}", status.display()))?;
        let mut qemu = cmd::command(&self.program);
        if let Some(prefix) = &self.prefix {
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
            let libraries = libraries.map(|folder| prefix.join(folder));
            qemu.env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?);
            for folder in ["usr/share/qemu", "usr/share/seabios"] {
                qemu.arg("-L").arg(prefix.join(folder));
            }
        }
        qemu.args([
            "-machine",
            "pc",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
        ]);
        qemu.args([
            "-m",
            &options.memory.to_string(),
            "-smp",
            &options.cpus.to_string(),
        ]);
        qemu.args([
            "-display",
            "none",
            "-nodefaults",
            "-no-reboot",
            "-serial",
            "stdio",
        ]);
        let mut serial = OsString::from("file:");
        serial.push(status);
        qemu.arg("-serial").arg(serial);
        qemu.arg("-kernel")
            .arg(kernel.image())
            .arg("-initrd")
            .arg(initramfs);
        let append = format!("console=ttyS0 panic=-1 quiet loglevel=4 {}", options.append);
        qemu.args(["-append", append.trim()]);
        qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(qemu)
    }
}

/// What the guest wrote to its second serial line.
#[derive(Debug, PartialEq, Eq)]
enum Report {
    Nothing,
    Started,
    Exit(u8),
}

impl Report {
    fn read(file: &Path) -> Self {
        Self::parse(&fs::read_to_string(file).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let exit = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("exit ")?.parse().ok());
        match exit {
            Some(code) => Self::Exit(code),
            None if text.contains("up") => Self::Started,
            None => Self::Nothing,
        }
    }
}

/// Prints the guest's console until it ends, and gives it back; false if it had to be stopped.
fn follow(child: &mut Child, deadline: Instant) -> Result<(bool, String)> {
    let console = child.stdout.take().context("QEMU has no console")?;
    let printer = std::thread::spawn(move || {
        let mut text = String::new();
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            println!("{line}");
            if text.len() < CONSOLE_MAX {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    });
    let ended = loop {
        if child.try_wait().context("cannot wait for QEMU")?.is_some() {
            break true;
        }
        if Instant::now() > deadline {
            child
                .kill()
                .and_then(|()| child.wait())
                .context("cannot stop QEMU")?;
            break false;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    // It ends with the pipe; what it printed is complete before the status is judged.
    Ok((ended, printer.join().unwrap_or_default()))
}

/// The first number of `QEMU emulator version 10.0.2 (...)`; 0 if there is none.
fn major(program: &Path) -> u32 {
    let text = cmd::output(cmd::command(program).arg("--version")).unwrap_or_default();
    let version = text.split("version ").nth(1).unwrap_or_default();
    version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::Report;

    #[test]
    fn reports() {
        for (text, expected) in [
            ("", Report::Nothing),
            ("up\r\n", Report::Started),
            ("up\r\nexit 0\r\n", Report::Exit(0)),
            ("up\r\nexit 101\r\n", Report::Exit(101)),
            ("up\r\nexit ", Report::Started),
        ] {
            assert_eq!(Report::parse(text), expected, "{text:?}");
        }
    }
}
