//! The peers of Cilium's rules: labels, entities, addresses.

use axon_model::{EntityError, Peer, Peers, Requirement, Selector, source};

use super::policy::CidrRule;
use super::rule::not_supported;
use crate::k8s::{LabelSelector, is_label_key};
use crate::manifest::FieldError;
use crate::select::{NAMESPACE, NAMESPACE_LABELS, prefix, prefix_or_address, requirements};

/// Where a rule's selectors look.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    /// The policy's namespace; empty for a clusterwide one.
    pub(super) namespace: &'a str,
    /// Whether the rule is about endpoints whose labels are not known yet:
    /// those have no namespace either.
    pub(super) init: bool,
}

/// Source and key of a selector's key: `source:key`, or a key of any source.
pub(super) fn key(text: &str) -> Result<(String, String), String> {
    let (source, key) = text.split_once(':').unwrap_or((source::ANY, text));
    if source.is_empty() || !is_label_key(key) {
        return Err(format!(
            "{text:?} is no label key; expected key or source:key as k8s:app"
        ));
    }
    Ok((source.to_owned(), key.to_owned()))
}

/// Peers by labels. Who names no namespace means the policy's own, or in a
/// clusterwide policy whatever has one.
pub(super) fn endpoints(
    selector: &LabelSelector,
    path: &str,
    scope: Scope<'_>,
) -> Result<Peer, FieldError> {
    let mut list = requirements(selector, path, key)?;
    let named = |key: &dyn Fn(&str) -> bool| {
        list.iter()
            .any(|r| (r.source == source::K8S || r.source == source::ANY) && key(&r.key))
    };
    let reserved = list.iter().any(|r| r.source == source::RESERVED);
    let namespace = named(&|key| key == NAMESPACE);
    let namespace_label = named(&|key| key.starts_with(NAMESPACE_LABELS));
    if !reserved && !namespace {
        if scope.namespace.is_empty() {
            if !scope.init {
                list.push(Requirement::exists(source::K8S, NAMESPACE));
            }
        } else if !namespace_label {
            list.push(Requirement::equals(source::K8S, NAMESPACE, scope.namespace));
        }
    }
    Ok(Peer::Endpoints(Selector::new(list)))
}

/// The peers of one item: what is known of each list that is there.
#[derive(Default)]
pub(super) struct PeerLists {
    peers: Vec<Peer>,
    /// The lists that name somebody.
    named: Vec<&'static str>,
    /// Whether a list is there at all, and whether one is there but empty.
    present: bool,
    empty: bool,
}

impl PeerLists {
    pub(super) fn add<T>(
        &mut self,
        field: &'static str,
        list: Option<&Vec<T>>,
        path: &str,
        convert: impl Fn(&T, &str) -> Result<Peer, FieldError>,
    ) -> Result<(), FieldError> {
        let Some(list) = list else {
            return Ok(());
        };
        self.present = true;
        if list.is_empty() {
            self.empty = true;
            return Ok(());
        }
        self.named.push(field);
        for (n, item) in list.iter().enumerate() {
            self.peers
                .push(convert(item, &format!("{path}.{field}[{n}]"))?);
        }
        Ok(())
    }

    /// A list of what is not enforced.
    pub(super) fn add_unsupported<T>(
        &mut self,
        field: &'static str,
        list: Option<&Vec<T>>,
        path: &str,
    ) -> Result<(), FieldError> {
        self.add(field, list, path, |_, _| {
            Err(not_supported(&format!("{path}.{field}")))
        })
    }

    pub(super) fn finish(self, path: &str) -> Result<Option<Peers>, FieldError> {
        if let [first, second, ..] = self.named.as_slice() {
            return Err(FieldError::new(
                format!("{path}.{second}"),
                format!("stands beside {first}; expected one kind of peers in a rule"),
            ));
        }
        Ok(match (self.present, self.empty) {
            (false, _) => None,
            (true, true) => Some(Peers::List(Vec::new())),
            (true, false) => Some(Peers::List(self.peers)),
        })
    }
}

pub(super) fn entity(text: &str, path: &str) -> Result<Peer, FieldError> {
    text.parse()
        .map(Peer::Entity)
        .map_err(|error: EntityError| FieldError::new(path, error.to_string()))
}

pub(super) fn cidr(text: &str, path: &str) -> Result<Peer, FieldError> {
    Ok(Peer::Cidr {
        cidr: prefix_or_address(text, path)?,
        except: Vec::new(),
    })
}

pub(super) fn cidr_rule(rule: &CidrRule, path: &str) -> Result<Peer, FieldError> {
    let group = rule.cidr_group_ref.is_some() || rule.cidr_group_selector.is_some();
    let Some(text) = &rule.cidr else {
        return Err(match (&rule.cidr_group_ref, group) {
            (Some(_), _) => not_supported(&format!("{path}.cidrGroupRef")),
            (None, true) => not_supported(&format!("{path}.cidrGroupSelector")),
            (None, false) => FieldError::new(path, "names no addresses; expected cidr"),
        });
    };
    if group {
        return Err(FieldError::new(
            path,
            "a group stands beside cidr; expected one of them",
        ));
    }
    let cidr = prefix(text, &format!("{path}.cidr"))?;
    let mut except = Vec::new();
    for (n, text) in rule.except.iter().enumerate() {
        let path = format!("{path}.except[{n}]");
        let inner = prefix(text, &path)?;
        if !cidr.contains(&inner.addr()) {
            return Err(FieldError::new(
                path,
                format!("{text:?} is not within {cidr}"),
            ));
        }
        except.push(inner);
    }
    Ok(Peer::Cidr { cidr, except })
}
