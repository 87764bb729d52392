//! `axon policy`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use axon_api::agent::{PolicySetView, PolicyView, SelectorView};
use axon_api::manifest::UnknownFields;
use axon_model::{PolicyObject, Tier};

use super::validate::{Unknown, validate};
use super::{diff, evaluate, suggest};
use crate::client::Asking;
use crate::failure::{ABSENT, Failure};
use crate::output::{Format, or_dash, print, table};

/// Arguments of `axon policy`.
pub(crate) type Args = Asking<Verb>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// The policies in force, and the endpoints that each one selects; and those
    /// that are staged, with the endpoints that they would select.
    ///
    /// With `-o json`: the rules as the agent understands them.
    Get {
        /// Only this policy: `namespace/name`, or the name of a clusterwide one.
        policy: Option<String>,
    },
    /// The policy sets in the kernel: which endpoints share one, and what each
    /// takes.
    ///
    /// Endpoints for which the same rules say the same share a set. It takes a row
    /// for itself, one for each identity that its rules tell apart (CLASSES), and
    /// one for each group of identities and port prefix that they name (ENTRIES);
    /// how many endpoints share it, and how many identities there are that no rule
    /// tells apart, does not matter.
    Sets,
    /// The selectors that policies use, and the identities that each selects.
    Selectors,
    /// What would these policies say of these connections? No agent is needed.
    ///
    /// Reads questions from standard input, one line of JSON each: `config`,
    /// `cluster` (nodes, namespaces, pods, services, ...), `policies` (whole
    /// objects) and `probes` (from, to, protocol, port, what is said). Writes an
    /// answer for each, in the same order: which policies are accepted, and what
    /// becomes of each connection at both ends. What is wrong with a question, or
    /// with a connection, stands in its answer under `error`.
    Evaluate,
    /// Keeps the policy for the node itself that is on trial, which is taken back
    /// otherwise (option host-firewall-confirm-timeout).
    HostConfirm,
    /// Holds a node that was started anew to the policy that was in force on it
    /// last, before there is an agent: for a unit that runs before the network.
    ///
    /// Takes the agent's options. Where nothing is kept, or the kernel holds the
    /// node already, nothing is done.
    HostRestore(Box<axon_agent::AgentArgs>),
    /// Would these files be accepted? No agent is needed.
    ///
    /// Exit status 1 if anything in them would not be, or if a file holds nothing
    /// that is read.
    Validate {
        /// YAML or JSON files with any number of objects.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// What becomes of fields that nobody knows.
        #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
        unknown_fields: Unknown,
    },
    /// What would change if these policies were applied?
    ///
    /// Compared is with what this node's agent knows and has in force, or, without
    /// an agent, with what --current describes.
    ///
    /// For every pair of workloads, and between them and nodes and parts of the
    /// world: what becomes of connections now and then, on every port that a
    /// policy names and on one that none does, and which policy decides. With
    /// --flows the same for recorded flows. Exit status 0 if nothing changes, 1 if
    /// something does, 2 if that cannot be told, 3 if no agent answers.
    Diff(diff::DiffArgs),
    /// Which policies would allow what was recorded, and nothing else?
    ///
    /// CiliumNetworkPolicies, one for each workload that flows are about, with
    /// what each rule rests upon in comments. What policy denied is left out. Lines
    /// that nothing can be learned from are told by number. Exit status 1 if there
    /// is nothing to suggest.
    Suggest(suggest::SuggestArgs),
    /// The CustomResourceDefinitions of CiliumNetworkPolicy,
    /// CiliumClusterwideNetworkPolicy and CiliumCIDRGroup, for `kubectl apply
    /// -f -`. No agent is needed.
    ///
    /// They hold what this version reads. With `-o json`: a List.
    Crds,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let client = args.common.client();
    let format = args.common.output;
    match &args.verb {
        Verb::Get { policy } => {
            let mut view: PolicyView = client.get("/v1/policy")?;
            if let Some(name) = policy {
                only(&mut view, name)?;
            }
            print(format, &view, policies)?;
        }
        Verb::Sets => {
            let view: PolicyView = client.get("/v1/policy")?;
            print(format, &view.sets, |sets| shared_sets(sets))?;
        }
        Verb::Selectors => {
            let view: Vec<SelectorView> = client.get("/v1/policy/selectors")?;
            print(format, &view, |view| selectors(view))?;
        }
        Verb::Evaluate => {
            evaluate::run(evaluate::POLICY, io::stdin().lock(), io::stdout().lock())?;
        }
        Verb::HostConfirm => {
            client.done("POST", "/v1/policy/host-confirm", None::<&()>)?;
        }
        Verb::HostRestore(args) => return Ok(axon_agent::restore(args)),
        Verb::Validate {
            files,
            unknown_fields,
        } => {
            let unknown = match unknown_fields {
                Unknown::Refuse => UnknownFields::Refuse,
                Unknown::Warn => UnknownFields::Warn,
            };
            return validate(files, unknown, format);
        }
        Verb::Diff(compared) => return diff::run(compared, &args.common),
        Verb::Suggest(suggested) => return suggest::run(suggested, &args.common),
        Verb::Crds => crds(format)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn crds(format: Format) -> Result<(), Failure> {
    let list = serde_json::json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": axon_api::cilium::crds(),
    });
    let yaml = axon_api::cilium::crds_yaml().map_err(|error| Failure::new(error.to_string()))?;
    print(format, &list, |_| yaml)
}

/// Keeps one policy and the sets that it is in.
fn only(view: &mut PolicyView, name: &str) -> Result<(), Failure> {
    view.policies
        .retain(|policy| policy.origin.to_string() == name);
    view.sets
        .retain(|set| set.policies.iter().any(|p| p == name));
    view.staged
        .retain(|staged| staged.policy.to_string() == name);
    view.conditions
        .retain(|condition| condition.policies.iter().any(|p| p == name));
    if view.policies.is_empty() {
        return Err(Failure::new(format!("no policy {name:?} is in force"))
            .remedy("`axon policy get` lists those that are; `axon status` tells what was refused")
            .code(ABSENT));
    }
    Ok(())
}

fn policies(view: &PolicyView) -> String {
    // As they are asked; inside the Normal tier that decides nothing.
    let mut in_order: Vec<&PolicyObject> = view.policies.iter().collect();
    in_order.sort_by_cached_key(|policy| (tier(policy), policy.origin.to_string()));
    let rows = in_order.into_iter().map(|policy| {
        [
            tier_name(tier(policy)),
            policy.origin.to_string(),
            policy.origin.kind.to_string(),
            match policy.staged {
                true => "staged".to_owned(),
                false => "enforced".to_owned(),
            },
            policy.rules.len().to_string(),
            or_dash(&selected(view, policy)),
            or_dash(&labels(policy)),
        ]
    });
    let policies = table(
        [
            "TIER",
            "POLICY",
            "KIND",
            "STATE",
            "RULES",
            "ENDPOINTS",
            "LABELS",
        ],
        rows,
    );
    let rows = view.sets.iter().map(|set| {
        [
            set.set.to_string(),
            or_dash(&numbers(&set.endpoints)),
            set.classes.to_string(),
            set.entries.to_string(),
            or_dash(&set.policies.join(", ")),
        ]
    });
    let sets = table(["SET", "ENDPOINTS", "CLASSES", "ENTRIES", "POLICIES"], rows);
    let mut text = format!("Revision: {}\n\n{policies}\n{sets}", view.revision);
    for condition in &view.conditions {
        let _ = writeln!(text, "\n{}: {}", condition.kind, condition.message);
        if !condition.remedy.is_empty() {
            let _ = writeln!(text, "  {}", condition.remedy);
        }
    }
    text
}

/// When a policy is asked: one tier holds all its rules.
fn tier(policy: &PolicyObject) -> Tier {
    let tiers = policy.rules.iter().map(|rule| rule.tier);
    tiers.min().unwrap_or_default()
}

fn tier_name(tier: Tier) -> String {
    match tier {
        Tier::Admin(priority) => format!("Admin {priority}"),
        Tier::Normal => "Normal".to_owned(),
        Tier::Baseline(priority) => format!("Baseline {priority}"),
    }
}

/// The endpoints that a policy is about; those of a staged one are marked, for
/// nothing comes of it there.
fn selected(view: &PolicyView, policy: &PolicyObject) -> String {
    let name = policy.origin.to_string();
    let sets = view.sets.iter().filter(|set| set.policies.contains(&name));
    let enforced = sets.flat_map(|set| &set.endpoints);
    let staged = view.staged.iter().filter(|s| s.policy == policy.origin);
    let would_be = staged.flat_map(|staged| &staged.endpoints);
    let endpoints: BTreeSet<u16> = match policy.staged {
        true => would_be.copied().collect(),
        false => enforced.copied().collect(),
    };
    let endpoints = numbers(&Vec::from_iter(endpoints));
    match policy.staged && !endpoints.is_empty() {
        true => format!("{endpoints} (staged)"),
        false => endpoints,
    }
}

fn shared_sets(sets: &[PolicySetView]) -> String {
    let rows = sets.iter().map(|set| {
        [
            set.set.to_string(),
            or_dash(&numbers(&set.endpoints)),
            set.classes.to_string(),
            set.entries.to_string(),
            set.bytes.to_string(),
            or_dash(&set.policies.join(", ")),
        ]
    });
    let rows = table(
        [
            "SET",
            "ENDPOINTS",
            "CLASSES",
            "ENTRIES",
            "BYTES",
            "POLICIES",
        ],
        rows,
    );
    let sum = |of: fn(&PolicySetView) -> usize| sets.iter().map(of).sum::<usize>();
    let (classes, entries) = (sum(|set| set.classes), sum(|set| set.entries));
    format!(
        "{rows}\nRows: {} sets + {classes} identities told apart + {entries} entries of ports = {}, \
         {} bytes of keys and values\n",
        sets.len(),
        sets.len() + classes + entries,
        sum(|set| set.bytes),
    )
}

/// The labels of a policy's rules, each once.
fn labels(policy: &PolicyObject) -> String {
    let labels = policy.rules.iter().flat_map(|rule| &rule.labels);
    let labels: BTreeSet<&str> = labels.map(String::as_str).collect();
    Vec::from_iter(labels).join(", ")
}

fn selectors(view: &[SelectorView]) -> String {
    let rows = view.iter().map(|selector| {
        [
            selector.selector.clone(),
            selector.users.to_string(),
            or_dash(&numbers(&selector.identities)),
        ]
    });
    table(["SELECTOR", "RULES", "IDENTITIES"], rows)
}

fn numbers<T: ToString>(numbers: &[T]) -> String {
    let texts: Vec<String> = numbers.iter().map(T::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use axon_api::agent::{PolicyCondition, PolicySetView, PolicyView, StagedPolicyView};
    use axon_model::{Origin, PolicyKind, PolicyObject, Rule, Selector, Subject, Tier};

    fn object(name: &str, staged: bool) -> PolicyObject {
        PolicyObject {
            origin: Origin {
                kind: PolicyKind::NetworkPolicy,
                namespace: "default".to_owned(),
                name: name.to_owned(),
            },
            uid: String::new(),
            staged,
            rules: Vec::new(),
        }
    }

    fn in_tier(tier: Tier) -> Rule {
        Rule {
            subject: Subject::Endpoints(Selector::default()),
            tier,
            default_deny_ingress: false,
            default_deny_egress: false,
            entries: Vec::new(),
            description: String::new(),
            labels: Vec::new(),
            log: String::new(),
        }
    }

    fn view() -> PolicyView {
        PolicyView {
            revision: 4,
            policies: vec![
                object("rule1", false),
                object("rule2", true),
                object("rule3", true),
            ],
            staged: vec![StagedPolicyView {
                policy: object("rule2", true).origin,
                endpoints: vec![11, 13],
            }],
            sets: vec![
                PolicySetView {
                    set: 2,
                    policies: vec!["default/rule1".to_owned()],
                    endpoints: vec![12, 13],
                    classes: 1,
                    entries: 3,
                    bytes: 104,
                },
                PolicySetView {
                    set: 1,
                    endpoints: vec![11],
                    ..PolicySetView::default()
                },
            ],
            conditions: vec![PolicyCondition {
                kind: "conflict".to_owned(),
                policies: vec!["first".to_owned(), "second".to_owned()],
                message: "first, second have one priority".to_owned(),
                remedy: "give them others".to_owned(),
            }],
        }
    }

    #[test]
    fn policies_name_those_they_select() {
        assert_eq!(
            super::policies(&view()),
            "\
Revision: 4

TIER    POLICY         KIND           STATE     RULES  ENDPOINTS        LABELS
Normal  default/rule1  NetworkPolicy  enforced  0      12, 13           -
Normal  default/rule2  NetworkPolicy  staged    0      11, 13 (staged)  -
Normal  default/rule3  NetworkPolicy  staged    0      -                -

SET  ENDPOINTS  CLASSES  ENTRIES  POLICIES
2    12, 13     1        3        default/rule1
1    11         0        0        -

conflict: first, second have one priority
  give them others
"
        );
        assert_eq!(
            super::shared_sets(&view().sets),
            "\
SET  ENDPOINTS  CLASSES  ENTRIES  BYTES  POLICIES
2    12, 13     1        3        104    default/rule1
1    11         0        0        0      -

Rows: 2 sets + 1 identities told apart + 3 entries of ports = 6, 104 bytes of keys and values
"
        );
        let mut one = view();
        one.policies = [
            ("base", Tier::Baseline(1)),
            ("late", Tier::Admin(200)),
            ("soon", Tier::Admin(30)),
            ("rule", Tier::Normal),
        ]
        .map(|(name, tier)| {
            let mut policy = object(name, false);
            policy.rules.push(in_tier(tier));
            policy
        })
        .to_vec();
        let shown = super::policies(&one);
        let order = ["Admin 30 ", "Admin 200 ", "Normal ", "Baseline 1 "];
        let found = order.map(|tier| shown.find(tier).expect(tier));
        assert!(found.is_sorted(), "{shown}");
        let mut one = view();
        super::only(&mut one, "default/rule1").expect("there");
        assert_eq!((one.sets.len(), one.conditions.len()), (1, 0));
        assert!(one.staged.is_empty());
        assert!(super::only(&mut view(), "rule1").is_err());
    }
}
