//! What policy asks of what is said on a connection. Only a proxy can tell.

use std::collections::BTreeMap;
use std::fmt;

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ast::parse::Parser;
use serde::{Deserialize, Serialize};

/// Bytes that a compiled pattern may take: what is larger is refused and not
/// built.
const PATTERN_BYTES_MAX: usize = 256 * 1024;
/// Letters of a pattern of names.
const NAME_CHARS_MAX: usize = 255;

/// What is asked of the traffic of an entry beyond peers and ports. Every part
/// that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct L7 {
    /// What must be said.
    pub rules: L7Rules,
    /// The TLS server must be one of these; empty: whichever.
    pub server_names: Vec<NamePattern>,
    /// TLS to the client ends in the proxy.
    pub terminates_tls: Option<TlsContext>,
    /// The proxy speaks TLS to the server.
    pub originates_tls: Option<TlsContext>,
    /// The listener of the proxy that takes the connection; by default its own.
    pub listener: Option<Listener>,
}

/// What must be said, by protocol. Of several rules one must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum L7Rules {
    /// Anything.
    #[default]
    Any,
    /// Requests of HTTP.
    Http(Vec<HttpRule>),
    /// Questions to a name server.
    Dns(Vec<NamePattern>),
    /// Requests of Kafka.
    Kafka(Vec<KafkaRule>),
    /// Another protocol, by the name of its parser: maps that it understands.
    Parser(String, Vec<BTreeMap<String, String>>),
}

/// A request of HTTP; what is absent is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HttpRule {
    /// The method.
    pub method: Option<Pattern>,
    /// The path with its query.
    pub path: Option<Pattern>,
    /// The host it is sent to.
    pub host: Option<Pattern>,
    /// Headers that must be there.
    pub headers: Vec<HeaderRule>,
}

/// A header of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HeaderRule {
    /// Its name; case does not count.
    pub name: String,
    /// Its whole value; `None`: whatever it is.
    pub value: Option<HeaderValue>,
    /// What is done with a request that has another value, or none.
    pub mismatch: Mismatch,
}

/// The value of a header.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeaderValue {
    /// This one.
    Text(String),
    /// That of a secret.
    Secret(SecretRef),
    /// That of a secret, or this one where there is no such secret.
    SecretOr(SecretRef, String),
}

/// A secret of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SecretRef {
    /// Its namespace; empty: the policy's.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What is done with a request whose header is not as asked for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Mismatch {
    /// The rule does not hold for it.
    #[default]
    Refuse,
    /// It passes and is logged.
    Log,
    /// It passes with the header added.
    Add,
    /// It passes without that value of the header.
    Delete,
    /// It passes with the value asked for in place of its own.
    Replace,
}

/// A request of Kafka; what is absent is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KafkaRule {
    /// Kinds of requests, by the numbers of Kafka's protocol; empty: all.
    pub api_keys: Vec<i16>,
    /// Version of the request.
    pub api_version: Option<i16>,
    /// The client's name for itself.
    pub client_id: Option<String>,
    /// A topic of the request, if it is of a kind that has topics.
    pub topic: Option<String>,
}

/// Keys and certificates of one side of a TLS connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TlsContext {
    /// Where they are.
    pub secret: SecretRef,
    /// Name of the trusted authorities in the secret; empty: the usual one.
    pub trusted_ca: String,
    /// Name of the certificate in the secret; empty: the usual one.
    pub certificate: String,
    /// Name of the private key in the secret; empty: the usual one.
    pub private_key: String,
}

/// A listener of the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Listener {
    /// Kind of the object that configures it: `CiliumEnvoyConfig` or
    /// `CiliumClusterwideEnvoyConfig`.
    pub kind: String,
    /// Name of that object.
    pub config: String,
    /// Its name there.
    pub name: String,
    /// Which of several listeners takes a connection: the lowest, 1 to 100;
    /// 0: not said.
    pub priority: u8,
}

/// A regular expression (RE2's) that must match the whole of a text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

/// A text that is no regular expression, or one that is too large.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no regular expression: {reason}")]
pub struct PatternError {
    text: String,
    reason: String,
}

impl Pattern {
    /// A pattern, if it is one.
    ///
    /// # Errors
    /// It cannot be parsed, or would take more than 256 KiB.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        compile(text).map(|_| Self(text.to_owned()))
    }

    /// Whether the whole of a text matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        compile(&self.0).is_ok_and(|regex| regex.is_match(text))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        Self::new(&text)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

/// The regular expression; time to match is linear in the text.
fn compile(text: &str) -> Result<Regex, PatternError> {
    let wrong = |error: String| PatternError {
        text: text.to_owned(),
        reason: error.lines().last().unwrap_or("").to_owned(),
    };
    // On its own first: parentheses that close the group would make another expression of it.
    Parser::new()
        .parse(text)
        .map_err(|error| wrong(error.to_string()))?;
    RegexBuilder::new(&format!("^(?:{text})$"))
        .unicode(false)
        .size_limit(PATTERN_BYTES_MAX)
        .dfa_size_limit(PATTERN_BYTES_MAX)
        .build()
        .map_err(|error| wrong(error.to_string()))
}

/// A DNS name, or a pattern of names: `*` stands for letters of one label, a
/// leading `**.` for labels, `*` alone for every name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern(String);

/// A text that is no pattern of names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no pattern of names; expected labels of letters, digits, '-', '_' and '*', at most \
     255 letters"
)]
pub struct NamePatternError {
    text: String,
}

impl NamePattern {
    /// A pattern, if it is one. Case and a final dot do not count.
    ///
    /// # Errors
    /// Other letters, too many of them, or a label without any.
    pub fn new(text: &str) -> Result<Self, NamePatternError> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*');
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let empty = name.split('.').any(str::is_empty);
        if text.len() > NAME_CHARS_MAX || empty || !name.chars().all(good) {
            return Err(NamePatternError {
                text: text.to_owned(),
            });
        }
        Ok(Self(name))
    }

    /// The one name that is meant, if it is one.
    pub fn name(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(&self.0)
    }

    /// Whether a name is meant.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if self.0 == "*" {
            return true;
        }
        match self.0.strip_prefix("**.") {
            Some(rest) => name
                .match_indices('.')
                .any(|(at, _)| at > 0 && labels_match(rest, name.get(at + 1..).unwrap_or(""))),
            None => labels_match(&self.0, &name),
        }
    }
}

/// Whether every label matches that of the same place.
fn labels_match(pattern: &str, name: &str) -> bool {
    let (patterns, labels) = (pattern.split('.'), name.split('.'));
    patterns.clone().count() == labels.clone().count()
        && patterns.zip(labels).all(|(p, l)| glob(p, l))
}

/// Whether a text is a pattern with `*` for any letters.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut left) = text.strip_prefix(first) else {
        return false;
    };
    let Some((middle, last)) = rest.rsplit_once('*') else {
        return left.ends_with(rest);
    };
    for part in middle.split('*') {
        match left.find(part) {
            Some(at) => left = left.get(at + part.len()..).unwrap_or(""),
            None => return false,
        }
    }
    left.ends_with(last)
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for NamePattern {
    type Error = NamePatternError;

    fn try_from(text: String) -> Result<Self, NamePatternError> {
        Self::new(&text)
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> Self {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    use super::{NamePattern, Pattern};

    #[test]
    fn a_pattern_matches_the_whole_text() {
        for (pattern, text, expected) in [
            ("GET", "GET", true),
            ("GE", "GET", false),
            ("GET|PUT", "PUT", true),
            ("GET|PUT", "GETPUT", false),
            ("/v[0-9]", "/v1/x", false),
            ("a.c", "a\u{e9}c", false),
            ("", "", true),
        ] {
            let compiled = Pattern::new(pattern).expect("a pattern");
            assert_eq!(
                compiled.matches(text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn what_is_no_expression_or_too_large_is_refused() {
        for text in ["(", "a)(b", "[z-a]", "(?:a{1000}){1000}", "*"] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
        let wide = "(a|b|c|d)*".repeat(50);
        Pattern::new(&wide).expect("many groups are no harm");
    }

    #[test]
    fn names_match_label_by_label() {
        for (pattern, name, expected) in [
            ("depot.example", "Depot.Example.", true),
            ("depot.example", "x.depot.example", false),
            ("*.depot.example", "api.depot.example", true),
            ("*.depot.example", "img.eu.depot.example", false),
            ("*.depot.example", "depot.example", false),
            ("**.depot.example", "img.eu.depot.example", true),
            ("**.depot.example", "depot.example", false),
            ("**.depot.example", ".depot.example", false),
            ("mirror-*.vendor.*", "mirror-7.vendor.example", true),
            ("mirror-*.vendor.*", "mirror-.vendor.example", true),
            ("a*b*c.x", "a1b2c.x", true),
            ("a*b*c.x", "abbc.x", true),
            ("a*bc*c.x", "abc.x", false),
            ("*a*.x", "b.x", false),
            ("*", "any.thing", true),
            ("**", "any.thing", false),
        ] {
            let parsed = NamePattern::new(pattern).expect("a pattern");
            assert_eq!(parsed.matches(name), expected, "{pattern} {name}");
        }
        for text in ["", ".", "a..b", ".a", "a b", "\u{e9}.x", &"a".repeat(256)] {
            assert!(NamePattern::new(text).is_err(), "{text}");
        }
    }
}
