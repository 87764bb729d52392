//! The programs' configuration, and the epoch of identities in it.

use std::net::IpAddr;

use axon_abi::{ConfigFlags, IpKey, RuntimeConfig};
use axon_model::Node;

use crate::config::Config;

/// How long new addresses may wait for an epoch of their own.
const COALESCE_MS: u64 = 500;

/// Decides when verdicts kept in conntrack must be made again because who an
/// address is has changed.
///
/// The epoch grows by one in a step in which
/// - a prefix or address that had an identity has another or none, or a known
///   identity has other labels or named ports, or is known no more: at once;
/// - a prefix or address has an identity of its own where it was told by a
///   wider prefix before, or the cluster tells the labels of a number: at most [`COALESCE_MS`] later, one epoch for all;
/// - the tables are complete for the first time in the agent's life: what has
///   changed while it was away is not known.
///
/// What policy says needs no epoch: it changes the number of the endpoint's
/// set, which conntrack keeps too. A known identity that another class of the
/// same set holds from now on (its pods declare other ports by name) does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Epoch {
    changed: bool,
    due_ms: Option<u64>,
}

impl Epoch {
    /// Somebody known is somebody else now.
    pub(crate) fn note_change(&mut self) {
        self.changed = true;
    }

    /// Somebody is known who was not.
    pub(crate) fn note_addition(&mut self, now_ms: u64) {
        self.due_ms.get_or_insert(now_ms + COALESCE_MS);
    }

    /// Whether it grows in this step.
    pub(crate) fn take(&mut self, now_ms: u64) -> bool {
        let grows = self.changed || self.due_ms.is_some_and(|due| due <= now_ms);
        if grows {
            *self = Self::default();
        }
        grows
    }

    /// When it will grow.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.due_ms
    }
}

/// What the node's devices say of its addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceAddresses {
    /// Of each family the one with which packets leave.
    pub(crate) leaving: Vec<IpAddr>,
    /// All that there are; none if that is not known.
    pub(crate) present: Vec<IpAddr>,
}

/// The programs' configuration on this node. That the node reaches its
/// endpoints is an entry of their sets, so that a deny of the host counts;
/// [`ConfigFlags::ALLOW_LOCALHOST`], which asks no set at all, stays off.
///
/// The node's own address is what its object says, unless no device has it any
/// more; else the one with which packets leave.
pub(crate) fn runtime_config(
    config: &Config,
    node: Option<&Node>,
    devices: &DeviceAddresses,
    epoch: u32,
) -> RuntimeConfig {
    let address = |v6| {
        let told = node.and_then(|node| node.internal_ip(v6));
        let DeviceAddresses { leaving, present } = devices;
        let gone = |addr: &IpAddr| !present.is_empty() && !present.contains(addr);
        let seen = || leaving.iter().copied().find(|addr| addr.is_ipv6() == v6);
        let lasting = told.filter(|addr| !gone(addr));
        lasting.or_else(seen).or(told).map(IpKey::from)
    };
    let flags = [
        // From the start: what there is of rows decides, those of an earlier agent too.
        (true, ConfigFlags::SERVICES),
        (config.ipv4, ConfigFlags::IPV4),
        (config.ipv6, ConfigFlags::IPV6),
        (
            config.ipv4 && config.masquerade_ipv4,
            ConfigFlags::MASQUERADE_IPV4,
        ),
        (
            config.ipv6 && config.masquerade_ipv6,
            ConfigFlags::MASQUERADE_IPV6,
        ),
        (config.audit, ConfigFlags::AUDIT),
        (config.host_firewall, ConfigFlags::HOST_FIREWALL),
        (config.deny_response, ConfigFlags::DENY_RESPONSE),
        (config.event_verdict, ConfigFlags::EVENT_VERDICT),
        (config.event_trace, ConfigFlags::EVENT_TRACE),
        (config.event_received, ConfigFlags::EVENT_RECEIVED),
        (config.event_drop, ConfigFlags::EVENT_DROP),
    ];
    RuntimeConfig {
        flags: flags
            .iter()
            .filter(|(on, _)| *on)
            .fold(0, |all, (_, flag)| all | flag),
        epoch,
        mtu: config.mtu,
        trace_interval_s: config.trace_interval_s,
        ct_quota: config.ct_quota,
        trace_tcp_flags: config.trace_tcp_flags,
        node_ipv4: address(false)
            .and_then(|key| key.to_v4())
            .unwrap_or_default(),
        nat_port_min: config.nat_port_min,
        nat_port_max: config.nat_port_max,
        node_ipv6: address(true).unwrap_or_default(),
        timeouts: config.timeouts,
    }
}
