//! Which of the origins of an option counts.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::parse::{self, OptionError};
use super::{AgentArgs, OPTIONS, Spec};

/// Who gave a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag.
    Flag,
    /// This variable of the environment.
    Env(String),
    /// This file of the config directory.
    File(PathBuf),
    /// Nobody.
    Default,
}

impl Origin {
    /// The word of `GET /v1/config`; `None` for a default.
    pub const fn word(&self) -> Option<&'static str> {
        match self {
            Self::Flag => Some("flag"),
            Self::Env(_) => Some("env"),
            Self::File(_) => Some("config-dir"),
            Self::Default => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Every option's value as text, with who gave it.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    values: BTreeMap<&'static str, (Vec<String>, Origin)>,
    warnings: Vec<String>,
}

impl Settings {
    /// Takes each option from the first of flags, environment, config
    /// directory and default that has it.
    ///
    /// # Errors
    /// The config directory cannot be read.
    pub fn resolve(
        args: &AgentArgs,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, OptionError> {
        let mut settings = Self::default();
        let mut files = BTreeMap::new();
        for spec in OPTIONS {
            let (values, origin) = pick(spec, args, &env, &files);
            // The first of the table: the others may come from its files.
            if spec.name == "config-dir"
                && let Some(dir) = values.first().filter(|dir| !dir.is_empty())
            {
                files = read_dir(Path::new(dir), &mut settings.warnings).map_err(|error| {
                    OptionError {
                        option: spec.name.to_owned(),
                        value: dir.clone(),
                        origin: origin.to_string(),
                        expected: format!("a directory that can be read ({error})"),
                    }
                })?;
            }
            settings.values.insert(spec.name, (values, origin));
        }
        Ok(settings)
    }

    /// What to tell the operator although the agent starts.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The last value of an option; empty if there is none.
    pub fn text(&self, name: &str) -> &str {
        let values = self.values.get(name).map(|(values, _)| values.as_slice());
        values.and_then(<[String]>::last).map_or("", String::as_str)
    }

    /// Every value of an option.
    pub fn list(&self, name: &str) -> Vec<String> {
        let values = self.values.get(name).map(|(values, _)| values.as_slice());
        values
            .unwrap_or_default()
            .iter()
            .flat_map(|value| parse::words(value))
            .collect()
    }

    /// Who gave an option's value.
    pub fn origin(&self, name: &str) -> &Origin {
        self.values
            .get(name)
            .map_or(&Origin::Default, |(_, origin)| origin)
    }

    /// Every option with its value, for `GET /v1/config`.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, String, &Origin)> {
        self.values
            .iter()
            .map(|(name, (values, origin))| (*name, values.join(","), origin))
    }

    /// The refusal of an option's value.
    pub fn refuse(&self, name: &str, expected: impl Into<String>) -> OptionError {
        OptionError {
            option: name.to_owned(),
            value: self
                .values
                .get(name)
                .map(|(values, _)| values.join(","))
                .unwrap_or_default(),
            origin: self.origin(name).to_string(),
            expected: expected.into(),
        }
    }
}

fn pick(
    spec: &Spec,
    args: &AgentArgs,
    env: &impl Fn(&str) -> Option<String>,
    files: &BTreeMap<String, (PathBuf, String)>,
) -> (Vec<String>, Origin) {
    let flags = args.values(spec.name);
    if let Some(last) = flags.last() {
        let values = if spec.kind.is_list() {
            flags.to_vec()
        } else {
            vec![last.clone()]
        };
        return (values, Origin::Flag);
    }
    let upper = spec.name.replace('-', "_").to_uppercase();
    let mut variables = vec![format!("AXON_{upper}"), format!("CILIUM_{upper}")];
    if spec.name == "node-name" {
        variables.push("K8S_NODE_NAME".to_owned());
    }
    for variable in variables {
        if let Some(value) = env(&variable) {
            return (vec![value], Origin::Env(variable));
        }
    }
    match files.get(spec.name) {
        Some((path, text)) => (vec![text.clone()], Origin::File(path.clone())),
        None => (vec![spec.default.to_owned()], Origin::Default),
    }
}

/// One option a file. A mounted ConfigMap has links to files and hidden
/// directories; the latter are left alone.
fn read_dir(
    dir: &Path,
    warnings: &mut Vec<String>,
) -> std::io::Result<BTreeMap<String, (PathBuf, String)>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if name.starts_with('.') || path.is_dir() {
            continue;
        }
        if OPTIONS.iter().all(|spec| spec.name != name) {
            warnings.push(format!(
                "{}: unknown option {name}; it has no effect",
                path.display()
            ));
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(|error| {
            std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
        files.insert(name, (path, text.trim().to_owned()));
    }
    warnings.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::{AgentArgs, Settings};

    fn args(flags: &[&str]) -> AgentArgs {
        use clap::{Args, Command, FromArgMatches};
        let matches = AgentArgs::augment_args(Command::new("agent").no_binary_name(true))
            .try_get_matches_from(flags)
            .expect("flags");
        AgentArgs::from_arg_matches(&matches).expect("args")
    }

    #[test]
    fn the_first_origin_counts() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (name, text) in [
            ("mtu", "1\n"),
            ("devices", "eth0 eth1"),
            ("unheard-of", "x"),
        ] {
            std::fs::write(dir.path().join(name), text).expect("write");
        }
        let flag = format!("--config-dir={}", dir.path().display());
        let env = |name: &str| match name {
            "AXON_MTU" => Some("2".to_owned()),
            "CILIUM_MTU" => Some("3".to_owned()),
            "K8S_NODE_NAME" => Some("n1".to_owned()),
            _ => None,
        };
        let none = |_: &str| None;
        for (case, settings, mtu, origin) in [
            (
                "flag",
                Settings::resolve(&args(&["--mtu=4", &flag]), env),
                "4",
                Some("flag"),
            ),
            (
                "env",
                Settings::resolve(&args(&[&flag]), env),
                "2",
                Some("env"),
            ),
            (
                "dir",
                Settings::resolve(&args(&[&flag]), none),
                "1",
                Some("config-dir"),
            ),
            ("default", Settings::resolve(&args(&[]), none), "0", None),
        ] {
            let settings = settings.expect(case);
            assert_eq!(settings.text("mtu"), mtu, "{case}");
            assert_eq!(settings.origin("mtu").word(), origin, "{case}");
        }
        let settings = Settings::resolve(&args(&[&flag]), env).expect("settings");
        assert_eq!(settings.text("node-name"), "n1");
        assert_eq!(settings.list("devices"), ["eth0", "eth1"]);
        assert_eq!(settings.warnings().len(), 1);
        assert!(settings.warnings()[0].contains("unheard-of"));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join("mtu"), b"\xff\xfe").expect("write");
        let flag = format!("--config-dir={}", dir.path().display());
        let error = Settings::resolve(&args(&[&flag]), |_| None).expect_err("no text");
        assert!(error.expected.contains("/mtu: "), "{error}");
        let error = Settings::resolve(&args(&["--config-dir=/nonexistent/x"]), |_| None)
            .expect_err("no such directory");
        assert_eq!(error.option, "config-dir");
        assert!(error.to_string().contains("/nonexistent/x"), "{error}");
    }
}
