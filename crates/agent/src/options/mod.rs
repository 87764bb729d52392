//! The options of `axon agent`: Cilium's names, from flags, environment and a
//! config directory.
//!
//! ```text
//!  --enable-ipv6=false   AXON_ENABLE_IPV6, CILIUM_ENABLE_IPV6   DIR/enable-ipv6   default
//!          └──────────────────────┴── the first that is set ─────────┴──────────────┘
//! ```
//!
//! The last one given of a flag counts; an option that may be given several times
//! takes all of them. In environment and config directory, several values are
//! separated by commas or white space.

pub(crate) mod parse;
mod resolve;
mod table;

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

pub use parse::{OptionError, duration as parse_duration};
pub use resolve::{Origin, Settings};
pub use table::{Kind, OPTIONS, Spec};

/// The flags of `axon agent`, as given.
///
/// Made for `#[command(flatten)]` or as the payload of a subcommand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentArgs {
    given: BTreeMap<&'static str, Vec<String>>,
}

impl AgentArgs {
    /// The values of a flag; empty if it was not given.
    pub fn values(&self, name: &str) -> &[String] {
        self.given.get(name).map_or(&[], Vec::as_slice)
    }
}

impl Args for AgentArgs {
    fn augment_args(command: Command) -> Command {
        OPTIONS
            .iter()
            .fold(command, |command, spec| command.arg(arg(spec)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for AgentArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for spec in OPTIONS {
            if let Some(values) = matches.get_many::<String>(spec.name) {
                self.given.insert(spec.name, values.cloned().collect());
            }
        }
        Ok(())
    }
}

/// One option as a flag. Values are taken as text here and read in one place
/// with those of the other origins, so that every error reads alike.
fn arg(spec: &'static Spec) -> Arg {
    let help = match spec.default {
        "" => spec.help.to_owned(),
        default => format!("{} [default: {default}]", spec.help),
    };
    let arg = Arg::new(spec.name)
        .long(spec.name)
        .help(help)
        .value_name(spec.kind.value_name())
        .action(ArgAction::Append);
    match spec.kind {
        Kind::Bool => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        _ => arg.num_args(1),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::AgentArgs;

    #[test]
    fn flags_are_taken_as_cilium_takes_them() {
        let command = AgentArgs::augment_args(Command::new("agent"));
        command.clone().debug_assert();
        let matches = command
            .try_get_matches_from([
                "agent",
                "--enable-ipv6",
                "--enable-ipv4=false",
                "--node-name",
                "a",
                "--manifests-dir=x",
                "--manifests-dir",
                "y",
            ])
            .expect("flags");
        let args = AgentArgs::from_arg_matches(&matches).expect("args");
        assert_eq!(args.values("enable-ipv6"), ["true"]);
        assert_eq!(args.values("enable-ipv4"), ["false"]);
        assert_eq!(args.values("node-name"), ["a"]);
        assert_eq!(args.values("manifests-dir"), ["x", "y"]);
        assert!(args.values("mtu").is_empty());
    }
}
