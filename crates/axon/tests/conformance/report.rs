//! What came of the cases: lines while they run, a table and JSON at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How many lines of what is wrong are told of a case.
const WRONG_MAX: usize = 8;

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Passed,
    /// It is not as expected; each line tells of one probe.
    Failed(Vec<String>),
    /// The same, and the case itself says that it is open.
    Unsure(Vec<String>),
    /// It cannot be played here, for this reason.
    Skipped(String),
}

/// A case that was played, or not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) group: String,
    pub(crate) outcome: Outcome,
    pub(crate) states: usize,
    pub(crate) probes: usize,
    /// Probes that were answered, but not the first time.
    pub(crate) late: usize,
    pub(crate) took: Duration,
}

impl Row {
    /// Tells of it as soon as it is over.
    pub(crate) fn tell(&self) {
        let word = match &self.outcome {
            Outcome::Passed => "ok",
            Outcome::Failed(_) => "FAILED",
            Outcome::Unsure(_) => "unsure",
            Outcome::Skipped(_) => "skipped",
        };
        println!(
            "{word:<8} {:<28} {:>2} states {:>5} probes {:>6.1} s  {}",
            self.name,
            self.states,
            self.probes,
            self.took.as_secs_f64(),
            self.title
        );
        if let Outcome::Failed(wrong) | Outcome::Unsure(wrong) = &self.outcome {
            for line in wrong.iter().take(WRONG_MAX) {
                println!("             {line}");
            }
            if wrong.len() > WRONG_MAX {
                println!("             ... and {} more", wrong.len() - WRONG_MAX);
            }
        }
    }

    fn json(&self) -> Value {
        let (word, wrong, reason) = match &self.outcome {
            Outcome::Passed => ("passed", Vec::new(), None),
            Outcome::Failed(wrong) => ("failed", wrong.clone(), None),
            Outcome::Unsure(wrong) => ("unsure", wrong.clone(), None),
            Outcome::Skipped(reason) => ("skipped", Vec::new(), Some(reason)),
        };
        json!({
            "name": self.name, "title": self.title, "group": self.group, "outcome": word,
            "wrong": wrong, "reason": reason, "states": self.states, "probes": self.probes,
            "late": self.late, "seconds": self.took.as_secs_f64(),
        })
    }
}

/// All rows as JSON.
pub(crate) fn json(rows: &[Row], took: Duration) -> Value {
    let rows: Vec<Value> = rows.iter().map(Row::json).collect();
    json!({"cases": rows, "seconds": took.as_secs_f64()})
}

/// Counts of a group.
#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
    unsure: usize,
    skipped: usize,
    states: usize,
    probes: usize,
}

impl Counts {
    fn add(&mut self, row: &Row) {
        match row.outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed(_) => self.failed += 1,
            Outcome::Unsure(_) => self.unsure += 1,
            Outcome::Skipped(_) => self.skipped += 1,
        }
        self.states += row.states;
        self.probes += row.probes;
    }

    fn line(&self, name: &str) -> String {
        let Self {
            passed,
            failed,
            unsure,
            skipped,
            states,
            probes,
        } = self;
        format!(
            "{name:<18} {passed:>6} {failed:>6} {unsure:>6} {skipped:>7} {states:>6} {probes:>6}\n"
        )
    }
}

/// The table of groups, the cases that were skipped by their reasons, and
/// those that failed.
pub(crate) fn table(rows: &[Row]) -> String {
    let (mut groups, mut all) = (BTreeMap::<&str, Counts>::new(), Counts::default());
    let mut skipped = BTreeMap::<&str, Vec<&str>>::new();
    for row in rows {
        groups.entry(&row.group).or_default().add(row);
        all.add(row);
        if let Outcome::Skipped(reason) = &row.outcome {
            skipped.entry(reason).or_default().push(&row.name);
        }
    }
    let mut text = format!(
        "{:<18} {:>6} {:>6} {:>6} {:>7} {:>6} {:>6}\n",
        "GROUP", "PASSED", "FAILED", "UNSURE", "SKIPPED", "STATES", "PROBES"
    );
    for (name, counts) in &groups {
        text += &counts.line(name);
    }
    text += &all.line("all");
    let late: usize = rows.iter().map(|row| row.late).sum();
    if late > 0 {
        text += &format!("\n{late} probes were answered at a later try only\n");
    }
    for (reason, names) in skipped {
        text += &format!("\nskipped: {reason}\n  {}\n", names.join(" "));
    }
    let failed = rows
        .iter()
        .filter(|row| matches!(row.outcome, Outcome::Failed(_)));
    let failed: Vec<&str> = failed.map(|row| row.name.as_str()).collect();
    if !failed.is_empty() {
        text += &format!("\nFAILED: {}\n", failed.join(" "));
    }
    text
}

#[test]
fn the_table_names_what_failed_and_why_others_were_skipped() {
    let row = |name: &str, outcome| Row {
        name: name.to_owned(),
        title: String::new(),
        group: name[..3].to_owned(),
        outcome,
        states: 1,
        probes: 2,
        late: usize::from(name == "k8s-1"),
        took: Duration::ZERO,
    };
    let rows = [
        row("k8s-1", Outcome::Passed),
        row("k8s-2", Outcome::Failed(vec!["a -> b".to_owned()])),
        row("cnp-1", Outcome::Skipped("needs a proxy".to_owned())),
    ];
    let table = table(&rows);
    for line in [
        "k8s                     1      1      0       0      2      4",
        "all                     1      1      0       1      3      6",
        "1 probes were answered at a later try only",
        "skipped: needs a proxy\n  cnp-1",
        "FAILED: k8s-2",
    ] {
        assert!(table.contains(line), "{line}\n{table}");
    }
    let json = json(&rows, Duration::ZERO);
    assert_eq!(json["cases"][1]["wrong"][0], "a -> b");
}
