//! Typed values out of settings, with every refusal collected.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::options::{OptionError, Settings, parse};

/// Reads values and collects what cannot be used.
pub(super) struct Reader<'a> {
    pub(super) settings: &'a Settings,
    errors: Vec<OptionError>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(settings: &'a Settings) -> Self {
        Self {
            settings,
            errors: Vec::new(),
        }
    }

    pub(super) fn finish(self) -> Vec<OptionError> {
        self.errors
    }

    pub(super) fn refuse(&mut self, name: &str, expected: impl Into<String>) {
        self.errors.push(self.settings.refuse(name, expected));
    }

    pub(super) fn boolean(&mut self, name: &str) -> bool {
        let value = parse::boolean(self.settings.text(name));
        if value.is_none() {
            self.refuse(name, "true or false");
        }
        value.unwrap_or_default()
    }

    /// Whether a switch is on that another part reads, and refuses if need be.
    pub(super) fn is_on(&self, name: &str) -> bool {
        parse::boolean(self.settings.text(name)).unwrap_or_default()
    }

    pub(super) fn number(&mut self, name: &str, range: RangeInclusive<u32>) -> u32 {
        let value = self.settings.text(name).parse().ok();
        let value = value.filter(|n| range.contains(n));
        if value.is_none() {
            let expected = format!("a number from {} to {}", range.start(), range.end());
            self.refuse(name, expected);
        }
        value.unwrap_or(*range.start())
    }

    /// A number that may be left to the agent: an empty text.
    pub(super) fn optional(&mut self, name: &str, range: RangeInclusive<u32>) -> Option<u32> {
        (!self.settings.text(name).is_empty()).then(|| self.number(name, range))
    }

    pub(super) fn duration(&mut self, name: &str) -> Duration {
        let value = parse::duration(self.settings.text(name));
        if value.is_none() {
            self.refuse(name, "a duration with units, as 5s or 2h13m20s");
        }
        value.unwrap_or_default()
    }

    /// A duration in whole seconds, at least one.
    pub(super) fn seconds(&mut self, name: &str) -> u32 {
        let value = parse::duration(self.settings.text(name))
            .and_then(|d| u32::try_from(d.as_secs()).ok())
            .filter(|s| *s >= 1);
        if value.is_none() {
            self.refuse(
                name,
                "a duration of at least 1s with units, as 60s or 2h13m20s",
            );
        }
        value.unwrap_or(1)
    }

    pub(super) fn path(&mut self, name: &str) -> PathBuf {
        let path = PathBuf::from(self.settings.text(name));
        if !path.is_absolute() {
            self.refuse(name, "an absolute path");
        }
        path
    }

    /// One of these words.
    pub(super) fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)], otherwise: T) -> T {
        let text = self.settings.text(name);
        if let Some((_, value)) = words
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(text))
        {
            return *value;
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.refuse(name, known.join(", "));
        otherwise
    }

    /// A prefix of a family; empty is none.
    pub(super) fn prefix(&mut self, name: &str, v6: bool) -> Option<IpNet> {
        let text = self.settings.text(name);
        if text.is_empty() {
            return None;
        }
        let prefix = text.parse::<IpNet>().ok();
        let prefix = prefix.filter(|net| matches!(net, IpNet::V6(_)) == v6);
        if prefix.is_none() {
            let family = if v6 {
                "IPv6 prefix, as fd00:10::/64"
            } else {
                "IPv4 prefix, as 10.0.0.0/8"
            };
            self.refuse(name, format!("an {family}"));
        }
        prefix.map(|net| net.trunc())
    }

    /// `:port` or `address:port`; empty is none.
    pub(super) fn listen_address(&mut self, name: &str) -> Option<SocketAddr> {
        let text = self.settings.text(name);
        if text.is_empty() {
            return None;
        }
        let full = if text.starts_with(':') {
            format!("0.0.0.0{text}")
        } else {
            text.to_owned()
        };
        let address = full.parse().ok();
        if address.is_none() {
            self.refuse(name, "an address and a port, as :9962 or 127.0.0.1:9962");
        }
        address
    }

    pub(super) fn cluster_name(&mut self) -> String {
        let name = self.settings.text("cluster-name").to_owned();
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let dashed = name.starts_with('-') || name.ends_with('-');
        if name.is_empty() || name.len() > 32 || dashed || !name.chars().all(allowed) {
            self.refuse(
                "cluster-name",
                "1 to 32 of a-z, 0-9 and -, starting and ending with a letter or digit",
            );
        }
        name
    }
}
