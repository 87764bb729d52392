//! What figures shall come to, and whether they do.
//!
//! A goal must be met: a run with `--gate` fails where one is missed. An aim is
//! what the named choice of design was made for: it is told, and fails nothing.

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// Rounds under which a gate would say nothing: with few of them the interval
/// of a ratio is so wide that every goal is met.
const GATE_ROUNDS: usize = 25;

/// On which side of a bound a figure is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sense {
    /// The more the better.
    AtLeast,
    /// The less the better.
    AtMost,
}

/// What a figure shall come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Goal {
    pub sense: Sense,
    /// What it must come to.
    pub goal: Option<f64>,
    /// What is hoped for.
    pub aim: Option<f64>,
}

/// A figure beside what it shall come to.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    /// What was measured, in words.
    pub what: String,
    pub goal: Goal,
    pub figure: f64,
    /// Between what the figure lies, if the run tells.
    pub interval: Option<(f64, f64)>,
}

impl Goal {
    /// A ratio or number that must not be above one bound, and is hoped to be
    /// below another.
    pub(crate) const fn at_most(goal: Option<f64>, aim: Option<f64>) -> Self {
        Self {
            sense: Sense::AtMost,
            goal,
            aim,
        }
    }

    /// The same of a figure of which more is better.
    pub(crate) const fn at_least(goal: Option<f64>, aim: Option<f64>) -> Self {
        Self {
            sense: Sense::AtLeast,
            goal,
            aim,
        }
    }
}

impl Judged {
    /// Whether the goal is met; nothing if there is none.
    pub(crate) fn met(&self) -> Option<bool> {
        self.goal.goal.map(|bound| self.reaches(bound))
    }

    /// Whether the aim is reached; nothing if there is none.
    pub(crate) fn aim_met(&self) -> Option<bool> {
        self.goal.aim.map(|bound| self.reaches(bound))
    }

    /// What was not measured reaches nothing.
    fn reaches(&self, bound: f64) -> bool {
        match self.goal.sense {
            Sense::AtLeast => self.figure >= bound,
            Sense::AtMost => self.figure <= bound,
        }
    }

    /// Whether a gate stops here: the goal is missed, and the good end of the
    /// interval does not leave it possible either.
    fn is_beyond(&self) -> bool {
        let (low, high) = self.interval.unwrap_or((self.figure, self.figure));
        let possible = |bound| match self.goal.sense {
            Sense::AtLeast => high >= bound,
            Sense::AtMost => low <= bound,
        };
        self.met() == Some(false) && !self.goal.goal.is_some_and(possible)
    }

    /// The figure with what it shall come to, as every section writes it.
    pub(crate) fn json(&self) -> Value {
        let (low, high) = self.interval.unzip();
        json!({
            "what": self.what,
            "sense": match self.goal.sense {
                Sense::AtLeast => "at least",
                Sense::AtMost => "at most",
            },
            "figure": self.figure, "low": low, "high": high,
            "goal": self.goal.goal, "met": self.met(),
            "aim": self.goal.aim, "aim_met": self.aim_met(),
        })
    }

    /// The same in a line.
    pub(crate) fn line(&self) -> String {
        let found = match self.interval {
            _ if self.figure.is_nan() => "not measured".to_owned(),
            Some((low, high)) => format!("{:.3} [{low:.3} {high:.3}]", self.figure),
            None => format!("{:.3}", self.figure),
        };
        let sign = match self.goal.sense {
            Sense::AtLeast => ">=",
            Sense::AtMost => "<=",
        };
        let bound = |name: &str, bound: Option<f64>, said: &str| {
            bound.map_or_else(String::new, |bound| format!("{name} {sign} {bound} {said}"))
        };
        let (met, aimed) = (self.met() == Some(true), self.aim_met() == Some(true));
        let goal = bound("goal", self.goal.goal, if met { "met" } else { "MISSED" });
        let aim = bound(
            "aim",
            self.goal.aim,
            if aimed { "reached" } else { "not yet" },
        );
        let line = format!("{:<34} {found:<22} {goal:<20} {aim}", self.what);
        line.trim_end().to_owned()
    }
}

/// Figures beside what they shall come to, by their names in the JSON.
pub(crate) fn by_name(judged: Vec<(&'static str, Judged)>) -> Value {
    let named = |(name, one): (&str, Judged)| (name.to_owned(), one.json());
    judged.into_iter().map(named).collect()
}

/// Prints figures beside what they shall come to.
pub(crate) fn print(judged: &[Judged]) {
    for one in judged {
        println!("  {}", one.line());
    }
}

/// Refuses a gate that could not fail.
pub(crate) fn check_rounds(gate: bool, rounds: usize) -> Result<()> {
    if gate && rounds < GATE_ROUNDS {
        bail!("a gate takes at least {GATE_ROUNDS} rounds, not {rounds}");
    }
    Ok(())
}

/// Fails, with a gate, where a goal is missed beyond what chance could do.
pub(crate) fn check(gate: bool, judged: &[Judged]) -> Result<()> {
    let missed: Vec<&str> = judged
        .iter()
        .filter(|one| one.is_beyond())
        .map(|one| one.what.as_str())
        .collect();
    if gate && !missed.is_empty() {
        bail!("goals are missed: {}", missed.join("; "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Goal, Judged, check, check_rounds};

    fn judged(goal: Goal, figure: f64, interval: Option<(f64, f64)>) -> Judged {
        Judged {
            what: "rr of axon to floor".to_owned(),
            goal,
            figure,
            interval,
        }
    }

    #[test]
    fn a_goal_is_missed_by_its_figure_and_a_gate_stops_by_its_whole_interval() {
        let least = Goal::at_least(Some(0.97), Some(0.99));
        let most = Goal::at_most(Some(1.0), Some(0.4));
        let nan = f64::NAN;
        for (name, goal, figure, interval, (met, aimed, stops)) in [
            (
                "above",
                least,
                0.98,
                Some((0.97, 0.985)),
                (true, false, false),
            ),
            (
                "reached",
                least,
                0.99,
                Some((0.97, 0.995)),
                (true, true, false),
            ),
            (
                "possible",
                least,
                0.96,
                Some((0.95, 0.971)),
                (false, false, false),
            ),
            (
                "below",
                least,
                0.95,
                Some((0.94, 0.969)),
                (false, false, true),
            ),
            ("no interval", least, 0.96, None, (false, false, true)),
            ("small", most, 0.3, Some((0.2, 0.5)), (true, true, false)),
            (
                "still small",
                most,
                1.1,
                Some((0.9, 1.3)),
                (false, false, false),
            ),
            ("great", most, 1.2, Some((1.1, 1.3)), (false, false, true)),
            ("not measured", most, nan, None, (false, false, true)),
            (
                "of no round",
                least,
                nan,
                Some((nan, nan)),
                (false, false, true),
            ),
        ] {
            let one = judged(goal, figure, interval);
            assert_eq!(one.met(), Some(met), "{name}");
            assert_eq!(one.aim_met(), Some(aimed), "{name}");
            assert_eq!(check(true, &[one]).is_err(), stops, "{name}");
        }
    }

    #[test]
    fn json_and_line_tell_goal_aim_and_whether_they_are_met() {
        let one = judged(Goal::at_least(Some(0.97), None), 0.95, Some((0.94, 0.96)));
        let json = one.json();
        assert_eq!(json["goal"], 0.97);
        assert_eq!(json["met"], false);
        assert_eq!(json["high"], 0.96);
        assert!(json["aim"].is_null() && json["aim_met"].is_null());
        assert!(
            one.line()
                .ends_with("0.950 [0.940 0.960]    goal >= 0.97 MISSED")
        );
        let hope = judged(Goal::at_most(None, Some(0.72)), 0.7, None);
        assert!(hope.json()["met"].is_null());
        assert_eq!(hope.json()["aim_met"], true);
        assert!(hope.line().ends_with("aim <= 0.72 reached"));
    }

    #[test]
    fn only_a_gate_fails_and_only_for_goals() {
        let missed = judged(Goal::at_least(Some(0.97), None), 0.9, None);
        let hoped = judged(Goal::at_least(Some(0.8), Some(0.97)), 0.9, None);
        assert!(check(false, std::slice::from_ref(&missed)).is_ok());
        assert!(check(true, &[hoped]).is_ok());
        let told = check(true, &[missed]).expect_err("a goal is missed");
        assert!(told.to_string().contains("rr of axon to floor"));
        assert!(check_rounds(true, 24).is_err());
        assert!(check_rounds(true, 25).is_ok() && check_rounds(false, 3).is_ok());
    }
}
