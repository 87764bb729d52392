//! `axon metrics`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::client::Asking;
use crate::failure::Failure;
use crate::output::{or_dash, print, table};

/// Arguments of `axon metrics`.
pub(crate) type Args = Asking<Verb>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Every metric with its labels and value.
    List {
        /// Only those whose name matches a regular expression.
        #[arg(short = 'p', long, value_name = "REGEX")]
        match_pattern: Option<regex::Regex>,
    },
}

/// One sample, as Cilium's CLI writes it.
#[derive(Debug, PartialEq, Serialize)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let Verb::List { match_pattern } = &args.verb;
    let text = args.common.client().get_text("/v1/metrics")?;
    let mut samples = samples(&text);
    if let Some(pattern) = match_pattern {
        samples.retain(|sample| pattern.is_match(&sample.name));
    }
    print(args.common.output, &samples, |samples| render(samples))
}

fn render(samples: &[Sample]) -> String {
    let rows = samples.iter().map(|sample| {
        let labels: Vec<String> = sample
            .labels
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        [
            sample.name.clone(),
            or_dash(&labels.join(" ")),
            sample.value.to_string(),
        ]
    });
    table(["METRIC", "LABELS", "VALUE"], rows)
}

/// The samples of Prometheus' text format; lines of another form are passed
/// over.
fn samples(text: &str) -> Vec<Sample> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(sample)
        .collect()
}

fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at_checked(name_end)?;
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    // A time stamp may follow the value.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (key, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => value.push(match chars.next()? {
                    'n' => '\n',
                    other => other,
                }),
                other => value.push(other),
            }
        }
        rest = chars.as_str();
        labels.insert(key.trim().to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn prometheus_text_is_read() {
        let text = r#"
# HELP axon_x Something.
# TYPE axon_x counter
axon_x_total{reason="Policy denied",direction="INGRESS"} 12
axon_y 1.5 1700000000
axon_z{a="b\"c\\d\ne{,}"} 3
broken{a="b} 1
also broken
# EOF
"#;
        let samples = super::samples(text);
        let names: Vec<&str> = samples.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["axon_x_total", "axon_y", "axon_z"]);
        assert_eq!(samples[2].labels["a"], "b\"c\\d\ne{,}");
        assert_eq!(
            super::render(&samples[..2]),
            "\
METRIC        LABELS                                  VALUE
axon_x_total  direction=INGRESS reason=Policy denied  12
axon_y        -                                       1.5
"
        );
    }
}
