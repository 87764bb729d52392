//! Cilium's rules as the model's.

use std::sync::Arc;

use axon_abi::Direction;
use axon_model::{
    Action, Auth, L7, Label, Operator, Peers, Ports, Requirement, Rule, RuleEntry, Selector,
    Subject, Tier, source,
};

use serde_json::Value;

use super::peers::{
    PeerLists, Scope, cidr, cidr_rule, endpoints, entity, key, name, nodes, services,
};
use super::policy::{
    Authentication, CiliumNetworkPolicy, EgressRule, IcmpRule, IngressRule, PolicyRule, ToPorts,
};
use super::ports::ports;
use crate::k8s::LabelSelector;
use crate::manifest::FieldError;
use crate::select::{NAMESPACE, requirements};

/// Regular expressions of a policy: their sizes are bounded one by one.
const PATTERNS_MAX: usize = 1024;
/// Printable letters of what is logged with a verdict.
const LOG_CHARS_MAX: usize = 32;

impl CiliumNetworkPolicy {
    /// The policy as rules; `namespace` is empty for a clusterwide one.
    ///
    /// # Errors
    /// What Cilium would refuse and what is not enforced yet, by its path.
    pub fn to_model(&self, namespace: &str) -> Result<Vec<Rule>, FieldError> {
        check_patterns(self.spec.iter().chain(self.specs.iter().flatten()))?;
        let specs = self.specs.iter().flatten().enumerate();
        let specs = specs.map(|(n, rule)| (format!("specs[{n}]"), rule));
        let spec = self.spec.iter().map(|rule| ("spec".to_owned(), rule));
        let rules: Vec<Rule> = spec
            .chain(specs)
            .map(|(path, rule)| rule_to_model(rule, &path, namespace))
            .collect::<Result<_, _>>()?;
        if rules.is_empty() {
            return Err(FieldError::new(
                "spec",
                "is missing; expected spec or specs",
            ));
        }
        Ok(rules)
    }
}

/// The refusal of what is known but not enforced.
pub(crate) fn not_supported(path: &str) -> FieldError {
    FieldError::new(
        path,
        "not supported yet; the policy is not applied, not even in part",
    )
}

fn rule_to_model(rule: &PolicyRule, path: &str, namespace: &str) -> Result<Rule, FieldError> {
    let at = |field: &str, message: &str| FieldError::new(format!("{path}.{field}"), message);
    let (selector, of_nodes) = match (&rule.endpoint_selector, &rule.node_selector) {
        (Some(selector), None) => (selector, false),
        (None, Some(_)) if !namespace.is_empty() => {
            return Err(at(
                "nodeSelector",
                "only a CiliumClusterwideNetworkPolicy may select nodes",
            ));
        }
        (None, Some(selector)) => (selector, true),
        (Some(_), Some(_)) => {
            return Err(at("nodeSelector", "stands beside endpointSelector"));
        }
        (None, None) => return Err(at("endpointSelector", "is missing")),
    };
    if rule.ingress.is_none()
        && rule.ingress_deny.is_none()
        && rule.egress.is_none()
        && rule.egress_deny.is_none()
    {
        return Err(FieldError::new(
            path,
            "says nothing; expected ingress, ingressDeny, egress or egressDeny",
        ));
    }
    check_log(rule, path)?;
    let subject = if of_nodes {
        check_of_nodes(rule, path)?;
        let path = format!("{path}.nodeSelector");
        Subject::Nodes(Selector::new(requirements(selector, &path, key)?))
    } else {
        subject(selector, &format!("{path}.endpointSelector"), namespace)?
    };
    let scope = Scope {
        namespace,
        init: !of_nodes && is_about_init(selector),
    };
    let mut entries = Vec::new();
    for (field, action, list) in [
        ("ingress", Action::Allow, &rule.ingress),
        ("ingressDeny", Action::Deny, &rule.ingress_deny),
    ] {
        for (n, item) in list.iter().flatten().enumerate() {
            entries.extend(ingress(
                item,
                action,
                &format!("{path}.{field}[{n}]"),
                scope,
            )?);
        }
    }
    for (field, action, list) in [
        ("egress", Action::Allow, &rule.egress),
        ("egressDeny", Action::Deny, &rule.egress_deny),
    ] {
        for (n, item) in list.iter().flatten().enumerate() {
            entries.extend(egress(
                item,
                action,
                &format!("{path}.{field}[{n}]"),
                scope,
            )?);
        }
    }
    let ingress = some(rule.ingress.as_ref()) || some(rule.ingress_deny.as_ref());
    let egress = some(rule.egress.as_ref()) || some(rule.egress_deny.as_ref());
    Ok(Rule {
        subject,
        tier: Tier::Normal,
        default_deny_ingress: rule.enable_default_deny.ingress.unwrap_or(ingress),
        default_deny_egress: rule.enable_default_deny.egress.unwrap_or(egress),
        entries,
        description: rule.description.clone(),
        labels: labels(&rule.labels, &format!("{path}.labels"))?,
        log: field(&rule.log, "value").to_owned(),
    })
}

/// Each regular expression costs: of a policy there may only be so many.
fn check_patterns<'a>(rules: impl Iterator<Item = &'a PolicyRule>) -> Result<(), FieldError> {
    let to_ports = rules.flat_map(|rule| {
        let ingress = rule.ingress.iter().flatten().map(|item| &item.to_ports);
        let egress = rule.egress.iter().flatten().map(|item| &item.to_ports);
        ingress.chain(egress)
    });
    let rules = to_ports.flatten().flatten().flat_map(|item| &item.rules);
    let patterns = rules.flat_map(|rules| &rules.http).flat_map(|http| {
        let patterns = [&http.method, &http.path, &http.host];
        patterns.into_iter().filter(|text| !text.is_empty())
    });
    let count = patterns.count();
    if count > PATTERNS_MAX {
        return Err(FieldError::new(
            "spec",
            format!("asks for {count} regular expressions; expected at most {PATTERNS_MAX}"),
        ));
    }
    Ok(())
}

/// Nothing asks what is said to the node itself.
fn check_of_nodes(rule: &PolicyRule, path: &str) -> Result<(), FieldError> {
    let ingress = rule.ingress.iter().flatten().enumerate();
    let ingress = ingress.map(|(n, item)| (format!("ingress[{n}]"), &item.to_ports));
    let egress = rule.egress.iter().flatten().enumerate();
    let egress = egress.map(|(n, item)| (format!("egress[{n}]"), &item.to_ports));
    for (item, lists) in ingress.chain(egress) {
        for (n, ports) in lists.iter().flatten().enumerate() {
            if ports.rules.is_some() {
                return Err(FieldError::new(
                    format!("{path}.{item}.toPorts[{n}].rules"),
                    "stands in a rule with nodeSelector; expected ports without rules",
                ));
            }
        }
    }
    Ok(())
}

fn some<T>(list: Option<&Vec<T>>) -> bool {
    list.is_some_and(|list| !list.is_empty())
}

/// The labels of the rule itself: Cilium's maps of key, value and source, or
/// texts.
fn labels(tree: &Value, path: &str) -> Result<Vec<String>, FieldError> {
    let list = match tree {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        other => return Err(FieldError::new(path, format!("{other} is no list"))),
    };
    let label = |(n, item): (usize, &Value)| {
        let [source, key, value] = ["source", "key", "value"].map(|name| field(item, name));
        let label = match (item, source, key) {
            (Value::String(text), ..) => text.parse::<Label>().ok(),
            (_, _, "") => None,
            (_, "", key) => Some(Label::new(source::UNSPEC, key, value)),
            (_, source, key) => Some(Label::new(source, key, value)),
        };
        let expected = "expected a map of key, value and source, or source:key=value";
        label
            .map(|label| label.to_string())
            .ok_or_else(|| FieldError::new(format!("{path}[{n}]"), format!("{item}; {expected}")))
    };
    list.iter().enumerate().map(label).collect()
}

/// A text of a map; empty if there is none.
fn field<'a>(tree: &'a Value, name: &str) -> &'a str {
    tree.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn check_log(rule: &PolicyRule, path: &str) -> Result<(), FieldError> {
    let Some(log) = rule.log.as_object() else {
        return match rule.log.is_null() {
            true => Ok(()),
            false => Err(FieldError::new(
                format!("{path}.log"),
                format!("{}; expected a map with value", rule.log),
            )),
        };
    };
    let good = log.iter().all(|(key, value)| {
        let printable = |text: &str| {
            text.len() <= LOG_CHARS_MAX && text.bytes().all(|c| (0x20..0x7f).contains(&c))
        };
        key == "value" && value.as_str().is_some_and(printable)
    });
    if good {
        return Ok(());
    }
    Err(FieldError::new(
        format!("{path}.log"),
        format!(
            "{}; expected a value of at most {LOG_CHARS_MAX} printable letters",
            rule.log
        ),
    ))
}

fn is_about_init(selector: &LabelSelector) -> bool {
    let expressions = selector.match_expressions.iter().map(|e| &e.key);
    let mut keys = selector.match_labels.keys().chain(expressions);
    keys.any(|key| key == "reserved:init")
}

/// Whom a rule is about. In a namespaced policy that is its own namespace,
/// whatever `matchLabels` says of it.
fn subject(selector: &LabelSelector, path: &str, namespace: &str) -> Result<Subject, FieldError> {
    let mut list = requirements(selector, path, key)?;
    if !namespace.is_empty() {
        list.retain(|r| {
            !(r.source == source::K8S
                && r.key == NAMESPACE
                && matches!(r.operator, Operator::In(_)))
        });
        list.push(Requirement::equals(source::K8S, NAMESPACE, namespace));
    }
    Ok(Subject::Endpoints(Selector::new(list)))
}

fn ingress(
    item: &IngressRule,
    action: Action,
    path: &str,
    scope: Scope<'_>,
) -> Result<Vec<RuleEntry>, FieldError> {
    let mut lists = PeerLists::default();
    let list = item.from_endpoints.as_ref();
    lists.add("fromEndpoints", list, path, |s, path| {
        endpoints(s, path, scope)
    })?;
    lists.add("fromCIDR", item.from_cidr.as_ref(), path, |c, path| {
        cidr(c, path)
    })?;
    lists.add("fromCIDRSet", item.from_cidr_set.as_ref(), path, cidr_rule)?;
    lists.add(
        "fromEntities",
        item.from_entities.as_ref(),
        path,
        |e, path| entity(e, path),
    )?;
    lists.add_unsupported("fromGroups", item.from_groups.as_ref(), path)?;
    lists.add("fromNodes", item.from_nodes.as_ref(), path, nodes)?;
    lists.add_unsupported("fromRequires", item.from_requires.as_ref(), path)?;
    let peers = lists.finish(path)?;
    let auth = authentication(item.authentication.as_ref(), action, path)?;
    let lists = (item.to_ports.as_ref(), item.icmps.as_ref());
    let ports = entry_ports(lists, Direction::Ingress, action, path)?;
    Ok(entries((Direction::Ingress, action, auth), peers, ports))
}

fn egress(
    item: &EgressRule,
    action: Action,
    path: &str,
    scope: Scope<'_>,
) -> Result<Vec<RuleEntry>, FieldError> {
    let mut lists = PeerLists::default();
    let list = item.to_endpoints.as_ref();
    lists.add("toEndpoints", list, path, |s, path| {
        endpoints(s, path, scope)
    })?;
    lists.add("toCIDR", item.to_cidr.as_ref(), path, |c, path| {
        cidr(c, path)
    })?;
    lists.add("toCIDRSet", item.to_cidr_set.as_ref(), path, cidr_rule)?;
    lists.add("toEntities", item.to_entities.as_ref(), path, |e, path| {
        entity(e, path)
    })?;
    lists.add_all("toServices", item.to_services.as_ref(), path, services)?;
    lists.add_unsupported("toGroups", item.to_groups.as_ref(), path)?;
    lists.add("toNodes", item.to_nodes.as_ref(), path, nodes)?;
    if action == Action::Deny && item.to_fqdns.is_some() {
        return Err(FieldError::new(
            format!("{path}.toFQDNs"),
            "can be allowed, not denied: which addresses will be given for a name is not known \
             before somebody asks",
        ));
    }
    lists.add("toFQDNs", item.to_fqdns.as_ref(), path, name)?;
    lists.add_unsupported("toRequires", item.to_requires.as_ref(), path)?;
    let peers = lists.finish(path)?;
    let auth = authentication(item.authentication.as_ref(), action, path)?;
    let lists = (item.to_ports.as_ref(), item.icmps.as_ref());
    let ports = entry_ports(lists, Direction::Egress, action, path)?;
    Ok(entries((Direction::Egress, action, auth), peers, ports))
}

/// An item without peers and without ports matches nothing: it is written to
/// have a default deny.
fn entries(
    (direction, action, auth): (Direction, Action, Auth),
    peers: Option<Peers>,
    mut ports: Vec<(Ports, Option<L7>)>,
) -> Vec<RuleEntry> {
    if peers.is_some() && ports.is_empty() {
        ports.push((Ports::Any, None));
    }
    let peers = peers.unwrap_or(Peers::Any);
    let entry = |(ports, l7): (Ports, Option<L7>)| RuleEntry {
        direction,
        action,
        peers: peers.clone(),
        ports,
        l7: l7.map(Arc::new),
        auth,
    };
    ports.into_iter().map(entry).collect()
}

fn entry_ports(
    (to_ports, icmps): (Option<&Vec<ToPorts>>, Option<&Vec<IcmpRule>>),
    direction: Direction,
    action: Action,
    path: &str,
) -> Result<Vec<(Ports, Option<L7>)>, FieldError> {
    let to_ports = to_ports.map_or(&[][..], Vec::as_slice);
    let icmps = icmps.map_or(&[][..], Vec::as_slice);
    if action == Action::Deny {
        for (n, item) in to_ports.iter().enumerate() {
            let bare = ToPorts {
                ports: item.ports.clone(),
                ..ToPorts::default()
            };
            if *item != bare {
                return Err(FieldError::new(
                    format!("{path}.toPorts[{n}]"),
                    "a deny rule knows ports only; expected nothing beside them",
                ));
            }
        }
    }
    ports(to_ports, icmps, direction, path)
}

fn authentication(
    field: Option<&Authentication>,
    action: Action,
    path: &str,
) -> Result<Auth, FieldError> {
    let Some(Authentication { mode }) = field else {
        return Ok(Auth::Unsaid);
    };
    let path = format!("{path}.authentication");
    if action == Action::Deny {
        return Err(FieldError::new(path, "a deny rule has none"));
    }
    Auth::of_mode(mode).ok_or_else(|| {
        FieldError::new(
            format!("{path}.mode"),
            format!("{mode:?}; expected disabled, required or test-always-fail"),
        )
    })
}
