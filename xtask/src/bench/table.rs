//! The figures of a run as Markdown.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde_json::Value;

/// What a run leaves, besides what it says of itself.
pub(super) const SECTIONS: [&str; 8] = [
    "cost",
    "policy",
    "cni",
    "agent",
    "change",
    "programming",
    "services",
    "pods",
];
/// Load average above which a machine is not at rest.
pub(super) const AT_REST: f64 = 0.3;

const BEGIN: &str = "<!-- bench:begin -->\n";
const END: &str = "<!-- bench:end -->\n";

/// A column: what is above it, and the field below.
type Column = (&'static str, &'static str);

const COST: &[Column] = &[
    ("stage", "stage"),
    ("ns", "net_ns"),
    ("budget ns", "budget_ns"),
    ("to its floor", "ratio"),
    ("goal", "goal"),
    ("aim", "aim"),
];
const LOOKS: &[Column] = &[
    ("look-up", "stage"),
    ("ns", "ns"),
    ("more than beside one row", "more_ns"),
    ("in look-ups of one key", "more_to_one"),
    ("goal ns", "goal_ns"),
];
const CNI: &[Column] = &[
    ("plugin", "plugin"),
    ("ADD p50 ms", "add_p50_ms"),
    ("ADD p99 ms", "add_p99_ms"),
    ("DEL p50 ms", "del_p50_ms"),
    ("to the first", "ratio"),
    ("at once", "parallel"),
    ("all added ms", "all_added_ms"),
];
const AGENT: &[Column] = &[
    ("pods", "pods"),
    ("RSS MiB", "rss_mib"),
    ("own MiB", "anon_mib"),
    ("CPU % at rest", "idle_percent"),
    ("wake-ups/s", "wakeups_per_s"),
    ("ready after kill -9, ms", "ready_after_kill_ms"),
];
const MANY: &[Column] = &[
    ("policies come", "way"),
    ("last row ms", "last_row_ms"),
    ("worst ms", "worst_ms"),
    ("agent's CPU ms", "cpu_ms"),
    ("entries", "entries"),
];
const ONE: &[Column] = &[
    ("by", "way"),
    ("changes", "changes"),
    ("p50 ms", "p50_ms"),
    ("p99 ms", "p99_ms"),
    ("worst ms", "worst_ms"),
];
const PODS: &[Column] = &[
    ("load", "mode"),
    ("topology", "topology"),
    ("median", "rate"),
    ("of", "unit"),
    ("p50 us", "p50_us"),
    ("p99 us", "p99_us"),
    ("CPU s/GB", "cpu_s_per_gb"),
    ("to raw", "ratio_to.raw.figure"),
];
const PROGRAMMING: &[Column] = &[
    ("services", "services"),
    ("endpoints each", "endpoints"),
    ("what", "way"),
    ("ms", "ms"),
    ("control ms", "control_ms"),
    ("disk ms", "disk_ms"),
    ("kernel ms", "kernel_ms"),
    ("rows", "rows"),
];
const BEHIND: &[Column] = &[
    ("load", "mode"),
    ("path", "topology"),
    ("median", "rate"),
    ("of", "unit"),
    ("p50 us", "p50_us"),
    ("p99 us", "p99_us"),
    ("to direct", "ratio_to.direct.figure"),
];
const SET_UP: &[Column] = &[("path", "topology"), ("s", "set_up_s")];
const CHURN: &[Column] = &[
    ("while", "change"),
    ("changes", "changes"),
    ("p50 us", "p50_us"),
    ("p99 us", "p99_us"),
    ("p99.9 us", "p999_us"),
    ("longest us", "longest_us"),
];
const GOALS: &[Column] = &[
    ("what", "what"),
    ("found", "figure"),
    ("from", "low"),
    ("to", "high"),
    ("must be", "sense"),
    ("goal", "goal"),
    ("met", "met"),
    ("aim", "aim"),
    ("reached", "aim_met"),
];

/// Puts a table where the page has one.
pub(super) fn replace(page: &str, table: &str) -> Result<String> {
    let (before, rest) = page
        .split_once(BEGIN)
        .context("the page has no bench:begin")?;
    let (_, after) = rest.split_once(END).context("the page has no bench:end")?;
    Ok(format!("{before}{BEGIN}{table}{END}{after}"))
}

/// Everything that a run measured; what it did not is told too.
pub(super) fn render(run: &Value, sections: &[(&str, Value)]) -> String {
    let mut text = about(run);
    let mut goals = Vec::new();
    for (_, section) in sections {
        collect(section, &mut goals);
    }
    text += &table("Goals and aims", goals.into_iter(), GOALS);
    for (name, section) in sections {
        let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
        let rows = list(section);
        text += &match *name {
            _ if section.is_null() => format!("\n**{name}**: not measured.\n"),
            "cost" => {
                let looks = |row: &&Value| !row["more_ns"].is_null();
                let stages = rows.iter().filter(|row| !looks(row));
                let stages = table("What a packet costs", stages, COST);
                let rows = rows.iter().filter(looks);
                stages + &table("Look-up beside many rule rows", rows, LOOKS)
            }
            "cni" => table("How long a pod waits for its network", rows.iter(), CNI),
            "agent" => {
                let rows = rows.iter().filter(|row| row["cold_start_ms"].is_null());
                table("What an agent takes", rows, AGENT)
            }
            "change" => {
                let of = |name| rows.iter().filter(move |row| row["section"] == name);
                let many = table("Many policies at once", of("policies"), MANY);
                many + &table("One policy, until packets feel it", of("policy"), ONE)
            }
            "programming" => {
                let rows = rows.iter().filter(|row| !row["way"].is_null());
                table(
                    "Services, until their last row is in the kernel",
                    rows,
                    PROGRAMMING,
                )
            }
            "services" => {
                let paths = table("Behind a service", list(&section["paths"]).iter(), BEHIND);
                let set_up = list(&section["set_up"]);
                paths + &table("Until a path is set up", set_up.iter(), SET_UP)
            }
            "pods" => {
                let pods = table("Pod to pod", list(&section["pods"]).iter(), PODS);
                let churn = list(&section["churn"]);
                pods + &table("Round trips while things change", churn.iter(), CHURN)
            }
            other => plain(other, section),
        };
    }
    text
}

fn about(run: &Value) -> String {
    let changed = run["changed"].as_bool() != Some(false);
    let load = run["load"].as_f64();
    format!(
        "\nCommit {}{} on {}, Linux {}, {} CPUs, load average {} before it{}.\n",
        cell(&run["commit"]),
        if changed { " with changes" } else { "" },
        cell(&run["date"]),
        cell(&run["kernel"]),
        cell(&run["cpus"]),
        load.map_or_else(|| "unknown".to_owned(), |load| load.to_string()),
        if load.is_some_and(|load| load <= AT_REST) {
            ""
        } else {
            ": **not at rest**"
        }
    )
}

/// Every figure that is held to something, wherever it stands.
fn collect<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Array(list) => list.iter().for_each(|one| collect(one, found)),
        Value::Object(fields) => {
            let held = !value["goal"].is_null() || !value["aim"].is_null();
            if held && value["what"].is_string() {
                found.push(value);
            }
            fields.values().for_each(|one| collect(one, found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn table<'a>(title: &str, rows: impl Iterator<Item = &'a Value>, columns: &[Column]) -> String {
    let mut text = format!("\n**{title}**\n\n|");
    for (name, _) in columns {
        write!(text, " {name} |").ok();
    }
    text += "\n|";
    text += &"---|".repeat(columns.len());
    text.push('\n');
    for row in rows {
        text.push('|');
        if let Some(why) = row["failed"].as_str() {
            let names = columns.iter().map(|(_, field)| field_of(row, field));
            let named: Vec<String> = names.map(cell).filter(|name| !name.is_empty()).collect();
            let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
            writeln!(
                text,
                " {} | failed: {} |",
                named.join(" "),
                why.replace('|', "/")
            )
            .ok();
            continue;
        }
        for (_, field) in columns {
            write!(text, " {} |", cell(field_of(row, field))).ok();
        }
        text.push('\n');
    }
    text
}

/// The numbers of an object, and the lists of objects in it.
fn plain(name: &str, section: &Value) -> String {
    let mut text = format!("\n**{name}**\n\n| what | found |\n|---|---|\n");
    for (field, value) in section.as_object().into_iter().flatten() {
        match value {
            Value::Array(rows) => {
                for row in rows {
                    let fields = row.as_object().into_iter().flatten();
                    let told = fields.map(|(field, value)| format!("{field} {}", cell(value)));
                    let told = told.collect::<Vec<_>>().join(", ");
                    writeln!(text, "| {field} | {told} |").ok();
                }
            }
            value => {
                writeln!(text, "| {field} | {} |", cell(value)).ok();
            }
        }
    }
    text
}

/// A field, or one within it, by names with dots between.
fn field_of<'a>(row: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(row, |value, name| &value[name])
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "**no**".to_owned(),
        Value::String(text) => text.replace('|', "/"),
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            let digits = match number.abs() {
                n if n >= 100.0 => 0,
                n if n >= 10.0 => 1,
                _ => 3,
            };
            let text = format!("{number:.digits$}");
            if text.contains('.') {
                let text = text.trim_end_matches('0');
                return text.trim_end_matches('.').to_owned();
            }
            text
        }
        Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{render, replace};

    fn pods() -> Value {
        json!({
            "pods": [
                {"mode": "rr", "topology": "raw", "unit": "round trips/s", "rate": 77612.25,
                 "p50_us": 12.81, "p99_us": 14.25, "cpu_s_per_gb": 0.0,
                 "ratio_to": {"raw": {"what": "", "sense": "at least", "figure": 1.0, "goal": null, "aim": null}}},
                {"mode": "rr", "topology": "axon", "unit": "round trips/s", "rate": 72000.0,
                 "ratio_to": {
                    "raw": {"what": "rr of axon to raw", "sense": "at least", "figure": 0.9276,
                            "low": 0.92, "high": 0.93, "goal": null, "met": null,
                            "aim": 0.945, "aim_met": false},
                    "floor": {"what": "rr of axon to floor", "sense": "at least",
                              "figure": 0.98, "low": 0.97, "high": 0.99,
                              "goal": 0.97, "met": true, "aim": null, "aim_met": null}}},
                {"mode": "rr", "topology": "bridge", "failed": "no\n br_netfilter | here"},
            ],
            "churn": [{"change": "at rest", "changes": 1, "longest_us": 31.0}],
        })
    }

    fn run() -> Value {
        json!({"commit": "abc1234", "changed": false, "date": "2026-11-29",
               "kernel": "6.18", "cpus": 2, "load": 0.1})
    }

    #[test]
    fn figures_goals_and_failures_are_rows() {
        let cost = json!([{"stage": "hit_v4", "what": "hit_v4 to floor_full", "sense": "at most",
            "net_ns": 105.0, "budget_ns": 121.0, "ratio": 1.4, "figure": 1.4,
            "goal": 1.5, "met": true, "aim": 1.1, "aim_met": false}]);
        let policy = json!({"identities": 10000, "from_nothing_ms": 326.04,
                            "rules": [{"rules": 16384, "one_more_ms": 2.5}]});
        let sections = [
            ("cost", cost),
            ("policy", policy),
            ("agent", Value::Null),
            ("pods", pods()),
        ];
        let text = render(&run(), &sections);
        for line in [
            "Commit abc1234 on 2026-11-29, Linux 6.18, 2 CPUs, load average 0.1 before it.",
            "| hit_v4 to floor_full | 1.4 |  |  | at most | 1.5 | yes | 1.1 | **no** |",
            "| rr of axon to raw | 0.928 | 0.92 | 0.93 | at least |  |  | 0.945 | **no** |",
            "| rr of axon to floor | 0.98 | 0.97 | 0.99 | at least | 0.97 | yes |  |  |",
            "| hit_v4 | 105 | 121 | 1.4 | 1.5 | 1.1 |",
            "| from_nothing_ms | 326 |",
            "| rules | one_more_ms 2.5, rules 16384 |",
            "**agent**: not measured.",
            "| rr | raw | 77612 | round trips/s | 12.8 | 14.2 | 0 | 1 |",
            "| rr bridge | failed: no br_netfilter / here |",
            "| at rest | 1 |  |  |  | 31 |",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n in\n{text}");
        }
        // What is held to nothing is no goal.
        assert_eq!(text.matches("at least").count(), 2);
    }

    #[test]
    fn a_run_says_what_makes_its_figures_worth_less() {
        let mut busy = run();
        busy["load"] = json!(2.5);
        busy["changed"] = json!(true);
        let text = render(&busy, &[]);
        assert!(text.contains("abc1234 with changes on"), "{text}");
        assert!(
            text.contains("load average 2.5 before it: **not at rest**."),
            "{text}"
        );
    }

    #[test]
    fn only_what_stands_between_the_marks_is_written_anew() {
        let page = "# A\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nb\n";
        let once = replace(page, "new\n").expect("marks");
        assert_eq!(
            once,
            "# A\n<!-- bench:begin -->\nnew\n<!-- bench:end -->\nb\n"
        );
        assert_eq!(replace(&once, "new\n").expect("marks"), once);
        assert!(replace("# A\n<!-- bench:end -->\n", "new").is_err());
        assert!(replace("# A\n<!-- bench:begin -->\n", "new").is_err());
    }
}
