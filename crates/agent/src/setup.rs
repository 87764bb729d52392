//! Options into the parts' own configurations.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use axon_abi::{HOST_DEVICE, MAPS};
use axon_control::services::Numbers;
use axon_control::{Adopted, Capacity, Controller, IdentityMode, Persisted};
use axon_linux::{Datapath, DatapathConfig, KernelReconciler, Maps, ReconcilerConfig, SocketMode};
use axon_model::Observed;

use crate::Config;
use crate::clock::monotonic_zero_ns;
use crate::config::{Aggregation, Allocation, Enforcement};
use crate::endpoints::Records;
use crate::engine::EngineHandle;
use crate::problem::chain;
use crate::services;
use crate::store::{SERVICES, Store};
use crate::trials;
use crate::uplinks::Uplinks;

/// Ports of the node that masquerading uses: those that no service has.
const NAT_PORTS: (u16, u16) = (32768, 65535);

/// Adopts what is pinned and loads the programs; `fill` may write rows before
/// they are asked at the uplinks.
pub(crate) fn datapath(
    config: &Config,
    uplinks: &Uplinks,
    fill: impl FnOnce(&Maps),
) -> anyhow::Result<Datapath> {
    let own = DatapathConfig {
        bpf_root: config.paths.bpf.clone(),
        node: config.node_name.clone(),
        devices: uplinks.names(),
        map_sizes: sizes(config),
        sockets: sockets(config),
        ..DatapathConfig::default()
    };
    let datapath = Datapath::open_with(&own, fill)?;
    let adoption = datapath.adoption();
    tracing::info!(
        generation = adoption.generation,
        resumed = adoption.resumed,
        programs = adoption.programs,
        adopted = adoption.adopted.len(),
        created = adoption.created.len(),
        links = adoption.links,
        stale_links = adoption.stale_links,
        "datapath is loaded"
    );
    for map in &adoption.recreated {
        tracing::warn!(
            map = map.map,
            field = map.field,
            found = map.found,
            expected = map.expected,
            carried = map.carried,
            lost = map.lost,
            "a pinned map does not fit and is made anew"
        );
    }
    if let Some(problem) = datapath.socket_problem() {
        tracing::error!(problem, "sockets are not led from services to backends");
    }
    if !adoption.dropped.is_empty() {
        tracing::warn!(
            maps = adoption.dropped.join(","),
            "pinned maps of another version are let go; what a newer one kept in them is lost"
        );
    }
    if !adoption.foreign.is_empty() {
        tracing::warn!(
            bpf_root = %config.paths.bpf.display(),
            pins = adoption.foreign.join(","),
            "what is not the agent's in its bpf-root is left alone"
        );
    }
    Ok(datapath)
}

fn sockets(config: &Config) -> SocketMode {
    let own = &config.sockets;
    if !own.enabled {
        return SocketMode::Off;
    }
    SocketMode::At {
        cgroup: own.cgroup(),
        host_only: own.host_only,
        bind_protection: own.bind_protection,
    }
}

fn sizes(config: &Config) -> BTreeMap<String, u32> {
    let sizes = &config.sizes.maps;
    sizes
        .iter()
        .map(|(name, entries)| ((*name).to_owned(), *entries))
        .collect()
}

/// A controller that knows what its predecessor has numbered.
pub(crate) fn controller(
    config: &Config,
    uplinks: &Uplinks,
    maps: &Maps,
    (persisted, numbers): (Persisted, Numbers),
    (records, host_id): (&Records, u16),
) -> Controller {
    let own = axon_control::Config {
        host_id,
        ..control_config(config, uplinks.mtu)
    };
    let mut controller = Controller::new(own, persisted);
    if numbers.lost() > 0 {
        let lost = numbers.lost();
        tracing::error!(lost, file = SERVICES, "numbers of services make no sense");
    }
    controller.set_service_numbers(numbers);
    let sets = maps.policy_set.dump().unwrap_or_else(|error| {
        tracing::warn!(%error, "pinned policy sets cannot be read");
        Vec::new()
    });
    let identities = maps.identity.dump().unwrap_or_else(|error| {
        tracing::warn!(%error, "pinned identities cannot be read");
        Vec::new()
    });
    let pinned = maps.config.get(&0).unwrap_or_default();
    controller.adopt(Adopted {
        last_set: sets.iter().map(|(set, _)| *set).max().unwrap_or(0),
        epoch: pinned.map_or(0, |config| config.epoch),
        identities: identities.into_iter().map(|(id, _)| id).collect(),
        labels: records
            .all()
            .into_iter()
            .filter(|record| !record.endpoint.labels.is_empty())
            .map(|record| (record.endpoint.identity, record.endpoint.labels))
            .collect(),
        host: maps.endpoint.get(&HOST_DEVICE).unwrap_or_else(|error| {
            tracing::warn!(%error, "the node's pinned row cannot be read");
            None
        }),
        services: services::seen(maps),
    });
    controller.set_local_addresses(uplinks.addresses.clone());
    controller.set_leaving_addresses(uplinks.leaving.clone(), uplinks.present.clone());
    controller
}

/// Has changed policy for the node itself be confirmed, if the configuration says
/// so; where that is kept, over reboots too.
pub(crate) fn trials(
    config: &Config,
    controller: &mut Controller,
) -> anyhow::Result<Option<Store>> {
    let timeout = config.firewall.confirm_timeout;
    if !config.firewall.enabled || timeout.is_zero() {
        if let Err(error) = trials::forget(&config.paths.lib) {
            let error = chain(&error);
            tracing::warn!(
                error,
                "what was confirmed for the node itself cannot be forgotten"
            );
        }
        return Ok(None);
    }
    let store = Store::shared(&config.paths.lib)?;
    let known = trials::known(&store)?;
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let zero_unix_ms = monotonic_zero_ns() / 1_000_000;
    controller.have_host_policy_confirmed(timeout_ms, zero_unix_ms, known);
    Ok(Some(store))
}

pub(crate) fn control_config(config: &Config, mtu: u32) -> axon_control::Config {
    let network = &config.network;
    let monitor = &config.monitor;
    axon_control::Config {
        node_name: config.node_name.clone(),
        cluster_name: config.cluster_name.clone(),
        ipv4: network.ipv4,
        ipv6: network.ipv6,
        enforcement: match network.enforcement {
            Enforcement::Default => axon_policy::Enforcement::Default,
            Enforcement::Always => axon_policy::Enforcement::Always,
            Enforcement::Never => axon_policy::Enforcement::Never,
        },
        audit: network.audit,
        deny_response: network.deny_response,
        allow_localhost: network.allow_localhost,
        host_firewall: config.firewall.enabled,
        failsafe: config.firewall.failsafe.clone(),
        node_labels: network.node_labels,
        extended_protocols: network.extended_protocols,
        cidr_selects_nodes: network.cidr_selects_nodes,
        cidr_selects_pods: network.cidr_selects_pods,
        masquerade_ipv4: network.masquerade_ipv4,
        masquerade_ipv6: network.masquerade_ipv6,
        native_routing_cidrs: network.native.clone(),
        direct_node_routes: true,
        identity_mode: match network.allocation {
            Allocation::Local => IdentityMode::Local,
            Allocation::Crd => IdentityMode::Crd,
        },
        label_filter: network.label_filter.clone(),
        mtu,
        // 0 s: every packet.
        trace_interval_s: match monitor.aggregation {
            Aggregation::None | Aggregation::Low => 0,
            Aggregation::Medium | Aggregation::Maximum => monitor.interval_s,
        },
        trace_tcp_flags: match monitor.aggregation {
            Aggregation::Maximum => 0,
            Aggregation::None | Aggregation::Low | Aggregation::Medium => monitor.tcp_flags.into(),
        },
        event_received: monitor.aggregation == Aggregation::None,
        ct_quota: config.sizes.ct_quota,
        services: config.services.clone(),
        // Directories have no controller that makes them.
        makes_slices: true,
        nat_port_min: NAT_PORTS.0,
        nat_port_max: NAT_PORTS.1,
        timeouts: config.sizes.timeouts,
        capacity: capacity(config),
        ..axon_control::Config::default()
    }
}

fn capacity(config: &Config) -> Capacity {
    let of = |name: &str| {
        let configured = config.sizes.maps.iter().find(|(map, _)| *map == name);
        let own = MAPS.iter().find(|map| map.name == name);
        let entries = configured
            .map(|(_, entries)| *entries)
            .or(own.map(|map| map.max_entries));
        entries.unwrap_or(0) as usize
    };
    Capacity {
        policy_sets: of("axon_policy_set_v1"),
        classes: of("axon_class_v1"),
        entries: of("axon_policy_v1"),
        identities: of("axon_identity_v1"),
        ipcache: of("axon_ipcache_v1"),
        ipcache_cidrs: of("axon_ipcache_cidr_v1"),
    }
}

pub(crate) fn reconciler(maps: Maps) -> KernelReconciler {
    KernelReconciler::new(maps, ReconcilerConfig::default())
}

/// What is followed, and where its last good content is kept.
///
/// Services that the API was told of are manifests too, in a directory of their own.
pub(crate) fn source(config: &Config) -> anyhow::Result<axon_sources::Config> {
    let own = config.paths.services();
    let made = std::fs::create_dir_all(&own);
    made.with_context(|| format!("making directory {} failed", own.display()))?;
    let directories = config.manifests.iter().cloned().chain([own]).collect();
    Ok(axon_sources::Config {
        last_good: Some(config.paths.lib.join("sources")),
        settle: Duration::from_millis(30),
        ..axon_sources::Config::new(directories)
    })
}

/// Every observed table wakes the control loop.
pub(crate) fn wake_on_changes(observed: &Observed, engine: &EngineHandle) {
    let wake = || {
        let engine = engine.clone();
        move || engine.wake()
    };
    observed.namespaces.on_change(wake());
    observed.nodes.on_change(wake());
    observed.pods.on_change(wake());
    observed.policies.on_change(wake());
    observed.cidr_groups.on_change(wake());
    observed.services.on_change(wake());
    observed.endpoint_slices.on_change(wake());
    observed.local_redirects.on_change(wake());
    observed.cilium_endpoints.on_change(wake());
    observed.identities.on_change(wake());
    observed.names.on_change(wake());
    observed.endpoints.on_change(wake());
}
