//! The groups of a cluster that policies refer to.

use std::collections::{BTreeMap, BTreeSet};

use axon_model::{EndpointSlice, GroupKey, GroupRef, ObjectKey};
use axon_policy::{Group, groups_in_use};

use crate::Cluster;

/// Those groups of the cluster that are referred to.
pub(crate) fn groups(cluster: &Cluster, refs: &BTreeSet<GroupRef>) -> BTreeMap<GroupKey, Group> {
    let cidr_groups = cluster
        .cidr_groups
        .iter()
        .map(|group| axon_model::CidrGroup {
            name: group.name.clone(),
            labels: group.labels.clone(),
            cidrs: group.cidrs.clone(),
        });
    let cidr_groups: Vec<_> = cidr_groups.collect();
    let services = cluster.services.iter().map(|service| axon_model::Service {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        labels: service.labels.clone(),
        selector: service.selector.clone(),
        ..axon_model::Service::default()
    });
    let services: Vec<_> = services.collect();
    let slices = cluster.services.iter().map(|service| {
        let slice = EndpointSlice {
            service: service.name.clone(),
            addresses: service.endpoints.clone(),
            ..EndpointSlice::default()
        };
        (ObjectKey::new(&service.namespace, &service.name), slice)
    });
    let slices: Vec<_> = slices.collect();
    let slices = slices.iter().map(|(key, slice)| (key, slice));
    groups_in_use(refs, cidr_groups.iter(), services.iter(), slices)
}
