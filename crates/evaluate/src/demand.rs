//! What a proxy asks of what is said, in words.

use std::fmt;

use axon_model::{HttpRule, KafkaRule, L7, L7Rules};

/// One thing that may be said: of several, one rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Demand(L7);

impl Demand {
    /// The rules of an entry, one by one: of them too one must hold.
    pub(crate) fn each(l7: &L7) -> Vec<Self> {
        let with = |rules: L7Rules| {
            Self(L7 {
                rules,
                ..l7.clone()
            })
        };
        match &l7.rules {
            L7Rules::Http(rules) => each(rules, |rule| with(L7Rules::Http(vec![rule]))),
            L7Rules::Dns(names) => each(names, |name| with(L7Rules::Dns(vec![name]))),
            L7Rules::Kafka(rules) => each(rules, |rule| with(L7Rules::Kafka(vec![rule]))),
            L7Rules::Any | L7Rules::Parser(..) => vec![with(l7.rules.clone())],
        }
    }
}

fn each<T: Clone>(rules: &[T], with: impl Fn(T) -> Demand) -> Vec<Demand> {
    rules.iter().cloned().map(with).collect()
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(l7) = self;
        match &l7.rules {
            L7Rules::Any => f.write_str("anything")?,
            L7Rules::Http(rules) => words(f, rules, http)?,
            L7Rules::Dns(names) => words(f, names, |name| format!("name {name}"))?,
            L7Rules::Kafka(rules) => words(f, rules, kafka)?,
            L7Rules::Parser(name, _) => write!(f, "what {name} takes")?,
        }
        if !l7.server_names.is_empty() {
            let names: Vec<String> = l7.server_names.iter().map(ToString::to_string).collect();
            write!(f, " to TLS server {}", names.join(" or "))?;
        }
        for (context, what) in [
            (&l7.terminates_tls, "TLS ended by"),
            (&l7.originates_tls, "TLS begun with"),
        ] {
            if let Some(context) = context {
                write!(f, ", {what} secret {}", context.secret.name)?;
            }
        }
        match &l7.listener {
            Some(listener) => write!(f, ", by listener {}", listener.name),
            None => Ok(()),
        }
    }
}

fn words<T>(f: &mut fmt::Formatter<'_>, rules: &[T], of: fn(&T) -> String) -> fmt::Result {
    let words: Vec<String> = rules.iter().map(of).collect();
    f.write_str(&words.join(" or "))
}

fn http(rule: &HttpRule) -> String {
    let or_any = |pattern: &Option<_>, any: &str| match pattern {
        Some(pattern) => format!("{pattern}"),
        None => any.to_owned(),
    };
    let mut text = format!(
        "{} {}",
        or_any(&rule.method, "any method"),
        or_any(&rule.path, "any path")
    );
    if let Some(host) = &rule.host {
        text.push_str(&format!(" at {host}"));
    }
    for header in &rule.headers {
        text.push_str(&format!(" with {}", header.name));
    }
    text
}

fn kafka(rule: &KafkaRule) -> String {
    let keys: Vec<String> = rule.api_keys.iter().map(ToString::to_string).collect();
    let mut text = match keys.is_empty() {
        true => "any Kafka request".to_owned(),
        false => format!("Kafka request {}", keys.join("/")),
    };
    if let Some(topic) = &rule.topic {
        text.push_str(&format!(" of topic {topic}"));
    }
    if let Some(client) = &rule.client_id {
        text.push_str(&format!(" by {client}"));
    }
    text
}
