//! What a stage may cost: nanoseconds beside a reference program of the same run,
//! so that a slower machine moves both.
//!
//! ```text
//! budget of a run = budget_ns x what the reference takes in it / what it took for budget_ns
//! ```

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What every stage is held to unless it names another.
pub(crate) const REFERENCE: &str = "floor_full";

/// The budgets of a file.
pub(crate) struct Budgets {
    /// Nanoseconds of the references where the budgets were found.
    references: BTreeMap<String, f64>,
    stages: BTreeMap<String, Value>,
}

/// A stage beside what it shall cost.
pub(crate) struct Judged {
    pub(crate) net_ns: f64,
    pub(crate) ratio: f64,
    /// Nanoseconds that it may take in this run.
    pub(crate) budget_ns: Option<f64>,
    pub(crate) goal: Option<f64>,
    pub(crate) aim: Option<f64>,
}

impl Budgets {
    /// None at all.
    pub(crate) fn none() -> Self {
        Self {
            references: BTreeMap::new(),
            stages: BTreeMap::new(),
        }
    }

    /// Reads a file; a stage without a budget, or with one beside a reference that
    /// the file does not know, would never be over it.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let file: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let object = |name: &str| file[name].as_object().ok_or(format!("it has no {name}"));
        let references = object("references")?.iter();
        let references: BTreeMap<_, _> = references
            .filter_map(|(name, ns)| Some((name.clone(), ns.as_f64()?)))
            .collect();
        let stages = object("stages")?.iter();
        let stages: BTreeMap<_, _> = stages.map(|(n, v)| (n.clone(), v.clone())).collect();
        for (name, stage) in &stages {
            if stage["budget_ns"].as_f64().is_none() {
                return Err(format!("{name} has no budget_ns"));
            }
            let reference = stage["reference"].as_str().unwrap_or(REFERENCE);
            if !references.contains_key(reference) {
                return Err(format!("{reference}, which {name} is held to, is not told"));
            }
        }
        Ok(Self { references, stages })
    }

    /// What a stage comes to that takes so long, beside a reference that does.
    pub(crate) fn judge(&self, stage: &str, net_ns: f64, (to, to_ns): (&str, f64)) -> Judged {
        let allowed = self.stages.get(stage);
        let number = |name: &str| allowed.and_then(|stage| stage[name].as_f64());
        let scale = self.references.get(to).map(|then_ns| to_ns / then_ns);
        Judged {
            net_ns,
            ratio: net_ns / to_ns,
            budget_ns: number("budget_ns").and_then(|ns| Some(ns * scale?)),
            goal: number("goal"),
            aim: number("aim"),
        }
    }

    /// Stages of the file that a run has not measured.
    pub(crate) fn unmeasured<'a>(&'a self, measured: &'a [&str]) -> impl Iterator<Item = &'a str> {
        let names = self.stages.keys().map(String::as_str);
        names.filter(|name| !measured.contains(name))
    }
}

impl Judged {
    /// Whether it takes longer than its budget allows.
    pub(crate) fn is_over(&self) -> bool {
        self.budget_ns.is_some_and(|budget| self.net_ns > budget)
    }

    /// Whether it misses its goal.
    pub(crate) fn is_missed(&self) -> bool {
        self.goal.is_some_and(|goal| self.ratio > goal)
    }

    /// What shows in the table behind the figures.
    pub(crate) fn told(&self) -> &'static str {
        match (self.is_over(), self.is_missed()) {
            (true, true) => "OVER BUDGET, GOAL MISSED",
            (true, false) => "OVER BUDGET",
            (false, true) => "GOAL MISSED",
            (false, false) => "",
        }
    }

    /// The stage as it is written.
    pub(crate) fn json(&self, stage: &str, to: &str) -> Value {
        json!({
            "stage": stage, "what": format!("{stage} to {to}"), "sense": "at most",
            "net_ns": self.net_ns, "ratio": self.ratio, "figure": self.ratio,
            "budget_ns": self.budget_ns, "over": self.budget_ns.map(|_| self.is_over()),
            "goal": self.goal, "met": self.goal.map(|_| !self.is_missed()),
            "aim": self.aim, "aim_met": self.aim.map(|aim| self.ratio <= aim),
        })
    }
}
