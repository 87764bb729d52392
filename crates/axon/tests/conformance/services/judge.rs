//! Whether what came of a probe is what was expected.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::ask::Told;
use super::case::{Continues, Expected, Reply};

/// An error that comes later than this is no refusal.
const AT_ONCE: Duration = Duration::from_millis(500);
/// With so many connections for each backend, each must be seen.
const ENOUGH: usize = 20;

/// Addresses that say whose a packet is.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    /// Of the client.
    pub(crate) own: BTreeSet<IpAddr>,
    /// Of nodes, inside and out.
    pub(crate) nodes: BTreeSet<IpAddr>,
}

/// What is wrong, if anything. `before` is the backend that it is compared with.
pub(crate) fn wrong(
    told: &[Told],
    expected: &Expected,
    addresses: &Addresses,
    before: Option<&str>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(result) = expected.result.filter(|_| expected.continues.is_none()) {
        let odd = told.iter().filter(|one| !is(one, result)).count();
        if let Some(one) = told.iter().find(|one| !is(one, result)) {
            wrong.push(format!(
                "expected {result:?}, {odd} of {} got {one:?}",
                told.len()
            ));
        }
    }
    let seen = backends(told);
    if let Some(may) = expected
        .backends
        .as_ref()
        .filter(|_| expected.continues.is_none())
    {
        wrong.extend(of_backends(&seen, may, expected, told.len()));
    }
    match expected.exactly_one {
        Some(true) if seen.len() > 1 => wrong.push(format!("expected one backend, got {seen:?}")),
        Some(false) if seen.len() == 1 => {
            wrong.push(format!("expected several backends, got {seen:?}"));
        }
        _ => {}
    }
    for (backend, [low, high]) in &expected.share {
        let share = seen.get(backend.as_str()).copied().unwrap_or(0) as f64 / told.len() as f64;
        if !(*low..=*high).contains(&share) {
            wrong.push(format!(
                "{backend} has {share:.2}; expected {low} to {high}"
            ));
        }
    }
    for one in told {
        if let Told::Answered { said, peer } = one {
            let word = expected
                .source
                .as_str()
                .or_else(|| expected.source[&said.backend].as_str());
            let ip = said.peer.ip();
            let is_right = match word {
                Some("preserved") => addresses.own.contains(&ip),
                Some("node") => addresses.nodes.contains(&ip),
                _ => true,
            };
            if !is_right {
                let word = word.unwrap_or_default();
                wrong.push(format!("{} saw {ip}; expected {word}", said.backend));
            }
            if expected
                .peer
                .as_ref()
                .is_some_and(|wanted| peer.to_string() != *wanted)
            {
                wrong.push(format!(
                    "the client saw {peer}; expected {:?}",
                    expected.peer
                ));
            }
        }
    }
    let own = seen.keys().next().copied();
    match (expected.same_as.as_deref(), before, own) {
        (Some("must"), Some(before), Some(own)) if before != own => {
            wrong.push(format!("answered by {own}; expected {before} again"));
        }
        (Some("must_not"), Some(before), Some(own)) if before == own => {
            wrong.push(format!("answered by {own} again"));
        }
        (Some("must" | "must_not"), None, _) => wrong.push("nothing to compare it with".into()),
        _ => {}
    }
    wrong.dedup();
    wrong
}

/// What is wrong with a connection that was open before. `new` is a connection that
/// the client opens if its own reports an error.
pub(crate) fn continues(told: &Told, new: Option<&Told>, expected: &Expected) -> Option<String> {
    let is_of = |told: &Told| match (told, &expected.backends) {
        (Told::Answered { said, .. }, Some(may)) => may.contains(&said.backend),
        (Told::Answered { .. }, None) => true,
        (Told::Refused(..) | Told::Silent, _) => false,
    };
    let is_right = match expected.continues {
        Some(Continues::Yes) => is_of(told),
        Some(Continues::Moves) => is_of(told) || new.is_some_and(is_of),
        Some(Continues::No) => !matches!(told, Told::Answered { .. }),
        None => true,
    };
    let what = expected.continues;
    (!is_right).then(|| format!("expected the connection to continue: {what:?}, got {told:?}"))
}

fn is(told: &Told, wanted: Reply) -> bool {
    match (told, wanted) {
        (Told::Answered { .. }, Reply::Answer) | (Told::Silent, Reply::Dropped) => true,
        (Told::Refused(after, _), Reply::Refused) => *after <= AT_ONCE,
        (Told::Refused(..) | Told::Silent, Reply::None) => true,
        _ => false,
    }
}

/// How many each backend has answered.
pub(crate) fn backends(told: &[Told]) -> BTreeMap<&str, usize> {
    let mut seen = BTreeMap::new();
    for one in told {
        if let Told::Answered { said, .. } = one {
            *seen.entry(said.backend.as_str()).or_default() += 1;
        }
    }
    seen
}

fn of_backends(
    seen: &BTreeMap<&str, usize>,
    may: &[String],
    expected: &Expected,
    count: usize,
) -> Option<String> {
    let is_strange = |backend: &&&str| !may.iter().any(|known| known == **backend);
    if let Some(strange) = seen.keys().find(is_strange) {
        return Some(format!("answered by {strange}; expected {may:?}"));
    }
    let is_enough = count >= ENOUGH * may.len() && expected.exactly_one != Some(true);
    let missing = may
        .iter()
        .find(|backend| !seen.contains_key(backend.as_str()));
    let missing = missing.filter(|_| is_enough)?;
    Some(format!(
        "{missing} did not answer once in {count}; seen {seen:?}"
    ))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::super::ask::Told;
    use super::super::echo::Said;
    use super::{Addresses, continues, wrong};

    fn by(backend: &str) -> Told {
        Told::Answered {
            said: Said {
                backend: backend.into(),
                peer: "10.0.0.9:4000".parse().expect("an address"),
            },
            peer: "10.97.0.1:80".parse().expect("an address"),
        }
    }

    fn refused(after_ms: u64) -> Told {
        Told::Refused(
            Duration::from_millis(after_ms),
            ErrorKind::ConnectionRefused,
        )
    }

    #[test]
    fn each_expectation_is_held_to() {
        let addresses = Addresses {
            own: ["10.0.0.9".parse().expect("an address")].into(),
            nodes: ["192.168.77.11".parse().expect("an address")].into(),
        };
        let one = || vec![by("a/w:80")];
        let both = || -> Vec<Told> { (0..40).map(|n| by(["a/w:80", "a/x:80"][n % 2])).collect() };
        /// Name, what came of it, what is expected, what it is compared with, whether that is right.
        type Row<'a> = (&'a str, Vec<Told>, Value, Option<&'a str>, bool);
        let cases: Vec<Row<'_>> = vec![
            (
                "an answer",
                one(),
                json!({"result": "answer", "backends": ["a/w:80"]}),
                None,
                true,
            ),
            (
                "somebody else's",
                one(),
                json!({"result": "answer", "backends": ["a/x:80"]}),
                None,
                false,
            ),
            (
                "no answer",
                vec![Told::Silent],
                json!({"result": "answer"}),
                None,
                false,
            ),
            (
                "one of two silent",
                vec![by("a/w:80"), Told::Silent],
                json!({"result": "answer"}),
                None,
                false,
            ),
            (
                "refused",
                vec![refused(10)],
                json!({"result": "refused"}),
                None,
                true,
            ),
            (
                "refused late",
                vec![refused(900)],
                json!({"result": "refused"}),
                None,
                false,
            ),
            (
                "refused, not dropped",
                vec![refused(1)],
                json!({"result": "dropped"}),
                None,
                false,
            ),
            (
                "dropped",
                vec![Told::Silent],
                json!({"result": "dropped"}),
                None,
                true,
            ),
            (
                "nobody, refused",
                vec![refused(900)],
                json!({"result": "none"}),
                None,
                true,
            ),
            ("somebody", one(), json!({"result": "none"}), None, false),
            (
                "both seen",
                both(),
                json!({"backends": ["a/w:80", "a/x:80"]}),
                None,
                true,
            ),
            (
                "one of both not seen",
                (0..40).map(|_| by("a/w:80")).collect(),
                json!({"backends": ["a/w:80", "a/x:80"]}),
                None,
                false,
            ),
            (
                "too few to see both",
                one(),
                json!({"backends": ["a/w:80", "a/x:80"]}),
                None,
                true,
            ),
            ("not one", both(), json!({"exactly_one": true}), None, false),
            ("one", one(), json!({"exactly_one": true}), None, true),
            (
                "one, not several",
                one(),
                json!({"exactly_one": false}),
                None,
                false,
            ),
            (
                "a fair share",
                both(),
                json!({"share": {"a/w:80": [0.4, 0.6]}}),
                None,
                true,
            ),
            (
                "too much",
                both(),
                json!({"share": {"a/w:80": [0.0, 0.4]}}),
                None,
                false,
            ),
            (
                "preserved",
                one(),
                json!({"source": "preserved"}),
                None,
                true,
            ),
            (
                "not a node's",
                one(),
                json!({"source": "node"}),
                None,
                false,
            ),
            (
                "by backend",
                one(),
                json!({"source": {"a/w:80": "node"}}),
                None,
                false,
            ),
            (
                "by another backend",
                one(),
                json!({"source": {"a/x:80": "node"}}),
                None,
                true,
            ),
            (
                "the peer",
                one(),
                json!({"peer": "10.97.0.1:80"}),
                None,
                true,
            ),
            (
                "another peer",
                one(),
                json!({"peer": "10.97.0.2:80"}),
                None,
                false,
            ),
            (
                "the same",
                one(),
                json!({"same_as": "must"}),
                Some("a/w:80"),
                true,
            ),
            (
                "not the same",
                one(),
                json!({"same_as": "must"}),
                Some("a/x:80"),
                false,
            ),
            (
                "the same again",
                one(),
                json!({"same_as": "must_not"}),
                Some("a/w:80"),
                false,
            ),
            (
                "nothing to compare",
                one(),
                json!({"same_as": "must"}),
                None,
                false,
            ),
        ];
        for (name, told, expected, before, is_right) in cases {
            let expected = serde_json::from_value(expected).expect(name);
            let found = wrong(&told, &expected, &addresses, before);
            assert_eq!(found.is_empty(), is_right, "{name}: {found:?}");
        }
    }

    #[test]
    fn a_connection_goes_on_moves_or_ends() {
        let expected = |word: &str| {
            let tree = json!({"continues": word, "backends": ["a/w:80"]});
            serde_json::from_value(tree).expect("expectations")
        };
        for (told, new, word, is_right) in [
            (by("a/w:80"), None, "yes", true),
            (by("a/x:80"), None, "yes", false),
            (refused(1), None, "yes", false),
            (refused(1), Some(by("a/w:80")), "moves", true),
            (refused(1), Some(by("a/x:80")), "moves", false),
            (by("a/w:80"), None, "moves", true),
            (Told::Silent, None, "no", true),
            (by("a/w:80"), None, "no", false),
        ] {
            let found = continues(&told, new.as_ref(), &expected(word));
            assert_eq!(
                found.is_none(),
                is_right,
                "{told:?} {new:?} {word}: {found:?}"
            );
        }
    }
}
