//! The peers of Cilium's rules: labels, entities, addresses.

use axon_model::{EntityError, GroupRef, ObjectKey, Peer, Peers, Requirement, Selector, source};

use super::l7::{NameField, name_pattern};
use super::policy::{CidrRule, ServiceRule};
use super::rule::not_supported;
use crate::k8s::{LabelSelector, check_name, check_namespace, is_label_key};
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
        self.add_all(field, list, path, |item, path| {
            Ok(vec![convert(item, path)?])
        })
    }

    /// As [`Self::add`], where an item may be several peers, or none.
    pub(super) fn add_all<T>(
        &mut self,
        field: &'static str,
        list: Option<&Vec<T>>,
        path: &str,
        convert: impl Fn(&T, &str) -> Result<Vec<Peer>, FieldError>,
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
                .extend(convert(item, &format!("{path}.{field}[{n}]"))?);
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

/// Other nodes by their labels.
pub(super) fn nodes(selector: &LabelSelector, path: &str) -> Result<Peer, FieldError> {
    let list = requirements(selector, path, key)?;
    Ok(Peer::Nodes(Selector::new(list)))
}

/// Addresses that are given for names.
pub(super) fn name(field: &NameField, path: &str) -> Result<Peer, FieldError> {
    name_pattern(field, path).map(Peer::Name)
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
    let of = match (&rule.cidr, &rule.cidr_group_ref, &rule.cidr_group_selector) {
        (Some(text), None, None) => return cidr_but(text, &rule.except, path),
        (None, Some(name), None) => {
            check_name(name, &format!("{path}.cidrGroupRef"))?;
            GroupRef::CidrGroup(name.clone())
        }
        (None, None, Some(selector)) => {
            let key = |text: &str| {
                let (_, key) = key(text)?;
                Ok((source::CIDR_GROUP.to_owned(), key))
            };
            let path = format!("{path}.cidrGroupSelector");
            GroupRef::CidrGroups(Selector::new(requirements(selector, &path, key)?))
        }
        (None, None, None) => {
            return Err(FieldError::new(
                path,
                "names no addresses; expected cidr, cidrGroupRef or cidrGroupSelector",
            ));
        }
        _ => {
            return Err(FieldError::new(
                path,
                "a group stands beside cidr or another group; expected one of cidr, cidrGroupRef \
                 and cidrGroupSelector",
            ));
        }
    };
    let except = rule.except.iter().enumerate();
    let except = except.map(|(n, text)| prefix(text, &format!("{path}.except[{n}]")));
    Ok(Peer::Group {
        of,
        except: except.collect::<Result<_, _>>()?,
    })
}

fn cidr_but(text: &str, except: &[String], path: &str) -> Result<Peer, FieldError> {
    let cidr = prefix(text, &format!("{path}.cidr"))?;
    let mut holes = Vec::new();
    for (n, text) in except.iter().enumerate() {
        let path = format!("{path}.except[{n}]");
        let inner = prefix(text, &path)?;
        if !cidr.contains(&inner.addr()) {
            return Err(FieldError::new(
                path,
                format!("{text:?} is not within {cidr}"),
            ));
        }
        holes.push(inner);
    }
    Ok(Peer::Cidr {
        cidr,
        except: holes,
    })
}

pub(super) fn services(rule: &ServiceRule, path: &str) -> Result<Vec<Peer>, FieldError> {
    let mut refs = Vec::new();
    if let Some(service) = &rule.k8s_service {
        let path = format!("{path}.k8sService");
        check_name(&service.service_name, &format!("{path}.serviceName"))?;
        check_namespace(&service.namespace, &format!("{path}.namespace"))?;
        let key = ObjectKey::new(&service.namespace, &service.service_name);
        refs.push(GroupRef::Service(key));
    }
    if let Some(services) = &rule.k8s_service_selector {
        let path = format!("{path}.k8sServiceSelector");
        check_namespace(&services.namespace, &format!("{path}.namespace"))?;
        let list = requirements(&services.selector, &format!("{path}.selector"), key)?;
        refs.push(GroupRef::Services {
            namespace: services.namespace.clone(),
            selector: Selector::new(list),
        });
    }
    if refs.is_empty() {
        return Err(FieldError::new(
            path,
            "names no service; expected k8sService or k8sServiceSelector",
        ));
    }
    let peer = |of| Peer::Group {
        of,
        except: Vec::new(),
    };
    Ok(refs.into_iter().map(peer).collect())
}
