//! Policies written out as a manifest, with the line of each of their fields.

use std::collections::BTreeMap;

use serde_json::Value;

/// A manifest of some policies.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) text: String,
    /// For each policy, the lines of its fields.
    lines: Vec<BTreeMap<String, usize>>,
}

impl Written {
    pub(crate) fn new(policies: &[Value]) -> Self {
        let mut written = Self::default();
        let mut lines: Vec<String> = Vec::new();
        for policy in policies {
            lines.push("---".to_owned());
            let mut places = BTreeMap::new();
            let document = write(policy, "", lines.len() + 1, &mut places);
            lines.extend(document);
            written.lines.push(places);
        }
        written.text = lines.join("\n");
        written
    }

    /// The line on which a field of a policy is written.
    pub(crate) fn line(&self, policy: usize, path: &str) -> Option<usize> {
        self.lines.get(policy)?.get(path).copied()
    }
}

/// The lines of a value, of which the first is `line` of the file.
fn write(
    value: &Value,
    path: &str,
    line: usize,
    places: &mut BTreeMap<String, usize>,
) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let dot = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{dot}{key}");
                let here = line + lines.len();
                places.insert(path.clone(), here);
                let name = Value::from(key.as_str());
                if is_plain(value) {
                    lines.push(format!("{name}: {value}"));
                } else {
                    lines.push(format!("{name}:"));
                    let below = write(value, &path, here + 1, places);
                    lines.extend(below.into_iter().map(|text| format!("  {text}")));
                }
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (n, value) in list.iter().enumerate() {
                let path = format!("{path}[{n}]");
                let here = line + lines.len();
                places.insert(path.clone(), here);
                let below = write(value, &path, here, places).into_iter();
                let indented = below.enumerate().map(|(n, text)| match n {
                    0 => format!("- {text}"),
                    _ => format!("  {text}"),
                });
                lines.extend(indented);
            }
        }
        plain => lines.push(plain.to_string()),
    }
    lines
}

fn is_plain(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}
