//! The command line of `vm`.

use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What `--help` prints.
pub(super) const HELP: &str = "\
cargo xtask vm [OPTIONS] -- COMMAND [ARGS]

Runs a command under another kernel and exits with its status
(124: it took too long, 125: the machine did not get so far).

COMMAND is `axon` (built static for this), a static executable or script of
this machine, or a command of busybox (`sh -c '...'`). bpffs is mounted at
/sys/fs/bpf, cgroup2 at /sys/fs/cgroup; the working folder is /work.

  --kernel VERSION   5.10, 6.1, 6.12 or 7 (the newest), Debian's cloud kernels  [6.1]
  --test PKG/TARGET  instead of COMMAND: an integration test, built static;
                     ARGS go to the test binary
  --file PATH        copy a file into the guest, to the same path below /work
  --modules A,B      load kernel modules first, with what they depend on
  --release          build with optimisation
  --memory MIB       [1024]
  --cpus N           [2]
  --timeout SECONDS  [300]
  --append WORDS     more for the kernel's command line
";

/// What the user asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// The kernel's version as a user names it.
    pub(super) kernel: String,
    /// Package and target of an integration test to run instead of a command.
    pub(super) test: Option<(String, String)>,
    /// Files for the guest, relative to the repository.
    pub(super) files: Vec<String>,
    /// Kernel modules to load.
    pub(super) modules: Vec<String>,
    /// Whether to build with optimisation.
    pub(super) release: bool,
    /// Memory in MiB.
    pub(super) memory: u32,
    /// Virtual processors.
    pub(super) cpus: u32,
    /// How long all may take.
    pub(super) timeout: Duration,
    /// Added to the kernel's command line.
    pub(super) append: String,
    /// The command and its arguments.
    pub(super) command: Vec<String>,
    /// A command of the guest that follows if that succeeds.
    pub(super) then: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kernel: "6.1".into(),
            test: None,
            files: Vec::new(),
            modules: Vec::new(),
            release: false,
            memory: 1024,
            cpus: 2,
            timeout: Duration::from_secs(300),
            append: String::new(),
            command: Vec::new(),
            then: Vec::new(),
        }
    }
}

/// Reads the command line; nothing if help is asked for.
pub(super) fn parse(args: &[String]) -> Result<Option<Options>> {
    let mut options = Options::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "-h" | "--help" => return Ok(None),
            "--kernel" => options.kernel = value()?.clone(),
            "--test" => options.test = Some(test(value()?)?),
            "--file" => options.files.push(value()?.clone()),
            "--modules" => options.modules.extend(value()?.split(',').map(Into::into)),
            "--release" => options.release = true,
            "--memory" => options.memory = number(arg, value()?)?,
            "--cpus" => options.cpus = number(arg, value()?)?,
            "--timeout" => options.timeout = Duration::from_secs(number(arg, value()?)?.into()),
            "--append" => options.append.clone_from(value()?),
            "--" => {
                options.command = args.by_ref().cloned().collect();
            }
            other => bail!("unknown option {other}; the command comes after `--`\n\n{HELP}"),
        }
    }
    if options.command.is_empty() && options.test.is_none() {
        bail!("no command\n\n{HELP}");
    }
    Ok(Some(options))
}

fn test(value: &str) -> Result<(String, String)> {
    let (package, target) = value
        .split_once('/')
        .with_context(|| format!("--test {value}: not PACKAGE/TARGET"))?;
    Ok((package.into(), target.into()))
}

fn number(option: &str, value: &str) -> Result<u32> {
    value
        .parse()
        .with_context(|| format!("{option} {value}: not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(Into::into).collect()
    }

    #[test]
    fn what_follows_the_dashes_is_the_commands() {
        let line = "--kernel 5.10 --modules veth,vxlan -- axon bpf verify --kernel";
        let options = parse(&words(line)).unwrap().unwrap();
        assert_eq!(options.kernel, "5.10");
        assert_eq!(options.modules, ["veth", "vxlan"]);
        assert_eq!(options.command, ["axon", "bpf", "verify", "--kernel"]);
        assert_eq!(options.memory, Options::default().memory);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, expected) in [
            ("", "no command"),
            ("--kernel", "--kernel needs a value"),
            ("--memory much -- true", "--memory much: not a number"),
            (
                "--test axon-linux --",
                "--test axon-linux: not PACKAGE/TARGET",
            ),
            ("axon", "unknown option axon"),
        ] {
            let error = parse(&words(line)).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{line}: {error}");
        }
        assert_eq!(parse(&words("--help")).unwrap(), None);
    }
}
