//! Policies as a person reads them: with comments.

use serde_json::{Map, Value};

use super::Suggestion;
use super::policy::{Policy, Rule};

/// Texts that YAML reads as something else.
const NO_TEXTS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

/// Documents, one for each policy.
pub(crate) fn manifest(suggestion: &Suggestion) -> String {
    let mut text = String::new();
    let count = suggestion.policies.len();
    text.push_str(&format!(
        "# {count} policies, from {} flows.\n",
        suggestion.flows
    ));
    for note in &suggestion.notes {
        text.push_str(&format!("# Note: {}\n", one_line(note)));
    }
    for policy in &suggestion.policies {
        write_policy(&mut text, policy);
    }
    text
}

/// What was read does not end a comment.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() || ('\u{2028}'..='\u{2029}').contains(&c) {
                ' '
            } else {
                c
            }
        })
        .collect()
}

fn write_policy(text: &mut String, policy: &Policy) {
    text.push_str(&format!(
        "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: {}\n  \
         namespace: {}\nspec:\n  endpointSelector:",
        scalar(&policy.name),
        scalar(&policy.namespace)
    ));
    write(text, &policy.selector, 4);
    for (key, rules, nobody) in [
        ("ingress", &policy.ingress, "nobody was seen to speak to it"),
        ("egress", &policy.egress, "it was seen to speak to nobody"),
    ] {
        match rules.as_deref() {
            None => {}
            Some([]) => text.push_str(&format!("  # {nobody}\n  {key}: [{{}}]\n")),
            Some(rules) => {
                text.push_str(&format!("  {key}:\n"));
                rules.iter().for_each(|rule| write_rule(text, rule));
            }
        }
    }
}

fn write_rule(text: &mut String, rule: &Rule) {
    let word = if rule.flows == 1 { "flow" } else { "flows" };
    text.push_str(&format!("  # {} {word}\n  -", rule.flows));
    if let Value::Object(map) = &rule.value {
        write_map(text, map, 4, true);
    }
}

/// What stands behind a key or a dash, and its line's end.
fn write(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if map.is_empty() => text.push_str(" {}\n"),
        Value::Array(list) if list.is_empty() => text.push_str(" []\n"),
        Value::Object(map) => {
            text.push('\n');
            write_map(text, map, indent, false);
        }
        Value::Array(list) => {
            text.push('\n');
            for item in list {
                text.push_str(&" ".repeat(indent.saturating_sub(2)));
                text.push('-');
                match item {
                    Value::Object(map) if !map.is_empty() => write_map(text, map, indent, true),
                    other => write(text, other, indent),
                }
            }
        }
        Value::String(string) => text.push_str(&format!(" {}\n", scalar(string))),
        other => text.push_str(&format!(" {other}\n")),
    }
}

/// A map's lines; the first one goes on behind a dash.
fn write_map(text: &mut String, map: &Map<String, Value>, indent: usize, behind: bool) {
    for (n, (key, value)) in map.iter().enumerate() {
        match n == 0 && behind {
            true => text.push(' '),
            false => text.push_str(&" ".repeat(indent)),
        }
        text.push_str(&format!("{}:", scalar(key)));
        write(text, value, indent + 2);
    }
}

/// A text as YAML reads it back.
fn scalar(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !text.ends_with(':')
        && !NO_TEXTS.contains(&lower.as_str())
        && text
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"-_./:".contains(&c));
    match plain {
        true => text.to_owned(),
        false => Value::from(text).to_string(),
    }
}
