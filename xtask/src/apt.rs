//! Debian packages without installing them: lists and downloads of our own, unpacked to a folder.
//!
//! Nothing here needs root or touches the system's package state. The system's mirrors are used.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{cache, cmd};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org/debian";
const SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";
const LISTS_LAST: Duration = Duration::from_secs(12 * 3600);

/// Package lists of some Debian suites, apart from the system's own.
pub(crate) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Lists of the given suites, fetched if there are none of today.
    pub(crate) fn suites(suites: &[&str]) -> Result<Self> {
        if cmd::which("apt-get").is_none() || !Path::new(KEYRING).exists() {
            bail!("this needs apt-get and Debian's keys ({KEYRING})");
        }
        let folder = cache::path("apt").join(suites.join("+"));
        for part in ["lists/partial", "cache/archives/partial"] {
            cache::folder(&folder.join(part))?;
        }
        let sources = system_sources();
        let lines = suites.iter().map(|suite| {
            format!(
                "deb [signed-by={KEYRING}] {} {suite} main\n",
                mirror(&sources, suite)
            )
        });
        cache::write(
            &folder.join("sources.list"),
            lines.collect::<String>().as_bytes(),
            false,
        )?;
        let apt = Self { folder };
        if !apt.is_fresh() {
            apt.update()?;
        }
        Ok(apt)
    }

    /// Lists of the Debian release that this machine runs.
    pub(crate) fn of_this_release() -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let field = |name: &str| {
            release
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .map(|value| value.trim_matches('"'))
        };
        match (field("ID"), field("VERSION_CODENAME")) {
            (Some("debian"), Some(name)) => Self::suites(&[
                name,
                &format!("{name}-updates"),
                &format!("{name}-security"),
            ]),
            _ => bail!("this is not Debian"),
        }
    }

    /// Names of the packages that the newest version of one depends on directly.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = cmd::output(self.command("apt-cache").args(["depends", "-i", package]))?;
        Ok(text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .map(Into::into)
            .collect())
    }

    /// The newest version of a package.
    pub(crate) fn version(&self, package: &str) -> Result<String> {
        let text =
            cmd::output(
                self.command("apt-cache")
                    .args(["show", "--no-all-versions", package]),
            )?;
        text.lines()
            .find_map(|line| line.strip_prefix("Version: "))
            .map(Into::into)
            .with_context(|| format!("Debian has no package {package} here"))
    }

    /// Downloads packages and unpacks them into a folder.
    pub(crate) fn unpack(&self, packages: &[&str], into: &Path) -> Result<()> {
        let debs = self.folder.join(format!("download-{}", std::process::id()));
        cache::remove(&debs)?;
        cache::folder(&debs)?;
        let result = cmd::quiet(
            self.command("apt-get")
                .arg("-q")
                .arg("download")
                .args(packages)
                .current_dir(&debs),
        )
        .and_then(|()| extract(&debs, into));
        cache::remove(&debs)?;
        result
    }

    /// Unpacks a package with those of its dependencies that this system lacks.
    ///
    /// `suite` is where the package itself comes from; empty stands for the newest version.
    pub(crate) fn unpack_with_missing(
        &self,
        package: &str,
        suite: &str,
        into: &Path,
    ) -> Result<()> {
        let archives = self.folder.join("cache/archives");
        cache::remove(&archives)?;
        cache::folder(&archives.join("partial"))?;
        let mut apt = self.command("apt-get");
        apt.args(["-q", "-y", "install", "--download-only", "--reinstall"]);
        apt.args(["--no-install-recommends", "-o", "Debug::NoLocking=1"]);
        if !suite.is_empty() {
            apt.args(["-t", suite]);
        }
        cmd::quiet(apt.arg(package))?;
        let result = extract(&archives, into);
        cache::remove(&archives)?;
        result
    }

    fn update(&self) -> Result<()> {
        cmd::quiet(self.command("apt-get").args(["-q", "update"]))?;
        cache::write(&self.folder.join("updated"), b"", false)
    }

    fn is_fresh(&self) -> bool {
        fs::metadata(self.folder.join("updated"))
            .and_then(|meta| meta.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age < LISTS_LAST))
    }

    fn command(&self, tool: &str) -> Command {
        let mut command = cmd::command(tool);
        let option = |key: &str, path: &str| format!("{key}={}", self.folder.join(path).display());
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C");
        command.args(["-o", &option("Dir::Etc::sourcelist", "sources.list")]);
        command.args(["-o", "Dir::Etc::sourceparts=/dev/null"]);
        command.args(["-o", &option("Dir::State::lists", "lists")]);
        command.args(["-o", &option("Dir::Cache", "cache")]);
        command.args([
            "-o",
            "APT::Sandbox::User=",
            "-o",
            "APT::Get::List-Cleanup=1",
        ]);
        command
    }
}

/// Unpacks every package of a folder.
fn extract(debs: &Path, into: &Path) -> Result<()> {
    for entry in fs::read_dir(debs).with_context(|| format!("cannot read {}", debs.display()))? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            cmd::quiet(cmd::command("dpkg").arg("-x").arg(&file).arg(into))?;
        }
    }
    Ok(())
}

/// Every word of the system's package sources.
fn system_sources() -> Vec<String> {
    let folder = Path::new("/etc/apt/sources.list.d");
    let files = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    files
        .chain(["/etc/apt/sources.list".into()])
        .filter_map(|file| fs::read_to_string(file).ok())
        .flat_map(|text| {
            text.split_whitespace()
                .map(String::from)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The mirror that holds a suite: the one that this system uses, else the project's own.
fn mirror<'a>(sources: &'a [String], suite: &str) -> &'a str {
    let (end, default) = if suite.ends_with("-security") {
        ("/debian-security", SECURITY_MIRROR)
    } else {
        ("/debian", MIRROR)
    };
    sources
        .iter()
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.contains("://") && word.ends_with(end))
        .unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_suites_have_their_own_mirror() {
        let sources: Vec<String> = [
            "URIs:",
            "http://mirror.example/debian-security/",
            "http://mirror.example/debian/",
            "http://other.example/debian",
        ]
        .map(String::from)
        .into();
        assert_eq!(
            mirror(&sources, "bookworm-security"),
            "http://mirror.example/debian-security"
        );
        assert_eq!(
            mirror(&sources, "bookworm-backports"),
            "http://mirror.example/debian"
        );
        assert_eq!(mirror(&[], "bookworm"), MIRROR);
    }
}
