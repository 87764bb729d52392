//! The agent's HTTP API, on a Unix socket, under `/v1`.
//!
//! Paths are Cilium's where it has them; bodies are JSON in kebab-case as
//! Cilium's are.
//!
//! | Method and path | Body | Answer |
//! |---|---|---|
//! | `GET /v1/healthz` | | [`Status`] |
//! | `GET /v1/config` | | [`ConfigView`] |
//! | `PUT /v1/endpoint` | [`EndpointCreate`] | 201 [`EndpointCreated`] when policy is enforced; again with the same attachment: the same answer |
//! | `GET /v1/endpoint` | | list of [`EndpointView`] |
//! | `GET /v1/endpoint/{id}` | | [`EndpointView`]; `id` is `123`, `cep-name:ns/pod`, `container-id:`, `ipv4:`, `ipv6:`, `cni-attachment-id:ID:IF` |
//! | `DELETE /v1/endpoint` | [`EndpointDelete`] | 200, also if there is none |
//! | `POST /v1/endpoint/check` | [`EndpointCheck`] | 200, or 409 [`Problem`] that names what differs |
//! | `POST /v1/endpoint/gc` | [`EndpointGc`] | 200 list of the attachments removed |
//! | `GET /v1/identity`, `GET /v1/identity/{id}` | | [`IdentityView`] |
//! | `GET /v1/ip` | | list of [`IpView`] |
//! | `GET /v1/policy` | | [`PolicyView`] |
//! | `GET /v1/cluster` | | [`crate::cluster::ClusterView`]: what the agent knows of the cluster, and the policies in force |
//! | `GET /v1/policy/selectors` | | list of [`SelectorView`] |
//! | `POST /v1/policy/host-confirm` | | 200, or 409 [`Problem`] if nothing is on trial |
//! | `GET /v1/map/{name}` | | list of rows of a kernel map, see [`crate::maps`] |
//! | `GET /v1/debug/state?…` | | [`crate::state::NodeState`]: what a packet is replayed over; with `source` and `destination` only the flows between these addresses |
//! | `GET /v1/metrics` | | Prometheus text |
//! | `GET /v1/monitor?…` | | stream of JSON lines, one `axon_hubble::Response` each; the query is `axon_hubble::Query`'s |
//!
//! Every error has a [`Problem`] as its body.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axon_model::{Labels, Mac};
use serde::{Deserialize, Serialize};

/// The agent's socket unless configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/axon/axon.sock";
/// The environment variable that names the agent's socket to its clients.
pub const SOCKET_ENV: &str = "AXON_SOCKET";
/// The agent's directory of run-time state unless configuration says
/// otherwise.
pub const DEFAULT_STATE_DIR: &str = "/run/axon";
/// Beside the agent's socket: the directory of what the CNI plugin was told to
/// take away while the agent was not there; files
/// `<container>-<interface>.json`, each an [`EndpointDelete`].
pub const DELETE_QUEUE: &str = "deleteQueue";
/// Letters of a container's id, at most. The specification has no bound; with
/// the device's name it becomes the name of a file, which has 255.
pub const CONTAINER_ID_MAX: usize = 200;
/// The root of the pins in the BPF file system unless configuration says
/// otherwise.
pub const DEFAULT_BPF_ROOT: &str = "/sys/fs/bpf/axon";

/// Why a request was refused: HTTP 400 (the request), 404 (no such thing), 409
/// (not in this state), 429 (no more of it), 500 (the node), 503 (not yet).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Problem {
    /// What is wrong, in a sentence that names the thing.
    pub error: String,
    /// What to do about it; empty if nothing is known.
    #[serde(default)]
    pub remedy: String,
}

/// Asks for an endpoint: CNI ADD, or `axon run`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EndpointCreate {
    /// The container (CNI_CONTAINERID).
    pub container_id: String,
    /// Name of the device to make inside (CNI_IFNAME).
    pub interface: String,
    /// Path of the network namespace (CNI_NETNS), as the agent sees it.
    pub netns: String,
    /// Namespace of the pod; of a plain process the one whose policies select
    /// it, empty for none.
    #[serde(default)]
    pub namespace: String,
    /// Name of the pod; empty for a plain process.
    #[serde(default)]
    pub pod_name: String,
    /// Name of a plain process, as lists and flows have it; empty for a pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub process_name: String,
    /// Unique id of the pod; empty if not known.
    #[serde(default)]
    pub pod_uid: String,
    /// Labels of a plain process; a pod's come from its manifest.
    #[serde(default)]
    pub labels: Labels,
    /// An address asked for (CNI_ARGS `IP`), of either family.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// Whether it is to have these alone, and none of a family that it asks no address
    /// of (CNI_ARGS `IP_ONLY`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ips_only: bool,
    /// MTU asked for by the network configuration; 0 is the node's.
    #[serde(default)]
    pub mtu: u32,
}

/// What was made for an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EndpointCreated {
    /// Its number on the node.
    pub id: u16,
    /// Its identity.
    pub identity: u32,
    /// Its IPv4 address (a /32).
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address (a /128).
    pub ipv6: Option<Ipv6Addr>,
    /// The gateway of its IPv4 default route.
    pub ipv4_gateway: Option<Ipv4Addr>,
    /// The gateway of its IPv6 default route.
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// Name of the host-side device.
    pub host_interface: String,
    /// MAC address of the host-side device.
    pub host_mac: Mac,
    /// Name of the device inside.
    pub interface: String,
    /// MAC address of the device inside.
    pub mac: Mac,
    /// MTU of the devices.
    pub mtu: u32,
}

/// Takes an endpoint away: CNI DEL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EndpointDelete {
    /// The container.
    pub container_id: String,
    /// Name of the device inside; empty for every device of the container.
    #[serde(default)]
    pub interface: String,
}

impl EndpointDelete {
    /// The name of its file in the [`DELETE_QUEUE`].
    pub fn queue_file(&self) -> String {
        format!("{}-{}.json", self.container_id, self.interface)
    }
}

/// Asks whether an endpoint still is as it was made: CNI CHECK.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EndpointCheck {
    /// The container.
    pub container_id: String,
    /// Name of the device inside.
    pub interface: String,
    /// Path of the network namespace.
    pub netns: String,
    /// The addresses that ADD answered.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
}

/// Names the attachments that still exist; all others go: CNI GC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EndpointGc {
    /// Those that stay.
    pub valid: Vec<EndpointDelete>,
}

/// An endpoint as `GET /v1/endpoint` shows it (Cilium's shape).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Its number on the node.
    pub id: u16,
    /// What is known of it.
    pub status: EndpointStatus,
}

/// What is switched at an endpoint: the body of `PATCH /v1/endpoint/ID/config`
/// (Cilium's shape).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EndpointConfig {
    /// `Enabled` or `Disabled` by Cilium's names; there is `PolicyAuditMode`.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// `GET /v1/endpoint/ID/config` (Cilium's shape).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointConfigStatus {
    /// What is switched.
    pub realized: EndpointConfig,
}

/// The option of [`EndpointConfig`] that has policy only audited.
pub const POLICY_AUDIT_MODE: &str = "PolicyAuditMode";

/// What is known of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EndpointStatus {
    /// Cilium's word for where it stands (`ready`, …).
    pub state: String,
    /// Its identity.
    pub identity: IdentityView,
    /// Its addresses and devices.
    pub networking: EndpointNetworking,
    /// The policy in force.
    pub policy: EndpointPolicy,
    /// Who it is to others.
    pub external_identifiers: ExternalIdentifiers,
    /// The labels that it was given.
    #[serde(default)]
    pub labels: LabelConfiguration,
    /// Why it is not ready; empty if it is.
    #[serde(default)]
    pub message: String,
}

/// The labels of an endpoint that its identity does not tell yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelConfiguration {
    /// What counts.
    pub realized: LabelSpec,
}

/// Labels by who has given them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelSpec {
    /// Those of a plain process; a pod's come from its manifest.
    pub user: Labels,
}

/// Addresses and devices of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EndpointNetworking {
    /// One item with the addresses.
    pub addressing: Vec<EndpointAddressing>,
    /// Name of the host-side device.
    pub interface_name: String,
    /// Index of the host-side device.
    pub interface_index: u32,
    /// Name of the device inside.
    pub container_interface_name: String,
    /// MAC address of the device inside.
    pub mac: String,
    /// MAC address of the host-side device.
    pub host_mac: String,
}

/// The addresses of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointAddressing {
    /// IPv4; empty if none.
    #[serde(default)]
    pub ipv4: String,
    /// IPv6; empty if none.
    #[serde(default)]
    pub ipv6: String,
}

/// The policy in force at an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EndpointPolicy {
    /// Ingress that no rule allows is denied.
    pub ingress_enforced: bool,
    /// Egress that no rule allows is denied.
    pub egress_enforced: bool,
    /// Policy is only audited.
    pub audit: bool,
    /// The policies that select the endpoint.
    pub policies: Vec<String>,
    /// The set version in the kernel.
    pub set: u32,
    /// The revision of the policies that is enforced.
    pub revision: u64,
}

/// Who an endpoint is to others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExternalIdentifiers {
    /// The container.
    pub container_id: String,
    /// Name of a plain process.
    #[serde(default)]
    pub container_name: String,
    /// `container:interface`.
    pub cni_attachment_id: String,
    /// Namespace of the pod.
    pub k8s_namespace: String,
    /// Name of the pod.
    pub k8s_pod_name: String,
    /// `namespace/name`.
    pub pod_name: String,
}

/// An identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IdentityView {
    /// Its number.
    pub id: u32,
    /// Its labels.
    pub labels: Labels,
}

/// Who an address is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IpView {
    /// The prefix.
    pub cidr: String,
    /// Its identity.
    pub identity: u32,
    /// The node that serves it; empty if this one or none.
    pub host_ip: String,
    /// The pod (`namespace/name`); empty if it is none.
    pub pod: String,
    /// Where the row comes from (`endpoint`, `cilium-endpoint`, `node`,
    /// `pod-cidr`, `fqdn`, `policy-cidr`, `world`).
    pub source: String,
}

/// The policies in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyView {
    /// Grows with every change of the policies.
    pub revision: u64,
    /// The policies, as rules.
    pub policies: Vec<axon_model::PolicyObject>,
    /// The policy sets in the kernel.
    pub sets: Vec<PolicySetView>,
    /// Whom staged policies would select.
    #[serde(default)]
    pub staged: Vec<StagedPolicyView>,
    /// What is wrong with policies that were accepted.
    #[serde(default)]
    pub conditions: Vec<PolicyCondition>,
}

/// What is wrong with policies that were accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyCondition {
    /// What kind of thing (`conflict`, `overflow`, `unsupported`, `trial`).
    pub kind: String,
    /// The policies.
    pub policies: Vec<String>,
    /// In a sentence.
    pub message: String,
    /// What to do about it; empty if nothing.
    pub remedy: String,
}

/// A policy set version in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicySetView {
    /// Its number.
    pub set: u32,
    /// The policies in it.
    pub policies: Vec<String>,
    /// Endpoints that have it.
    pub endpoints: Vec<u16>,
    /// Rows in the class map.
    pub classes: usize,
    /// Rows in the policy map.
    pub entries: usize,
    /// Bytes of its keys and values, without the kernel's own for each row.
    #[serde(default)]
    pub bytes: usize,
}

/// A staged policy, and whom it would select.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StagedPolicyView {
    /// The policy.
    pub policy: axon_model::Origin,
    /// Endpoints that it would be about if it were enforced.
    pub endpoints: Vec<u16>,
}

/// A selector and whom it selects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SelectorView {
    /// The selector.
    pub selector: String,
    /// The identities it selects.
    pub identities: Vec<u32>,
    /// How many rules use it.
    pub users: usize,
}

/// How a part is doing, in Cilium's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    /// It is off by configuration.
    Disabled,
    /// All is well.
    #[default]
    Ok,
    /// It works, but somebody should look.
    Warning,
    /// It does not work.
    Failure,
}

/// How one part is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PartStatus {
    /// How.
    pub state: State,
    /// What there is to say.
    pub msg: String,
    /// What to do about it; empty if nothing.
    #[serde(default)]
    pub remedy: String,
}

/// How the node is doing: `GET /v1/healthz`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// The whole, as bad as its worst part. Cilium's key.
    pub cilium: PartStatus,
    /// The node's name.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// The agent's process id.
    pub pid: u32,
    /// The parts by name (`sources`, `datapath`, `endpoints`, `policy`,
    /// `ipam`, `conntrack`, `events`, `cni`, …).
    pub parts: BTreeMap<String, PartStatus>,
    /// Kernel maps by name: entries and capacity.
    pub bpf_maps: BTreeMap<String, MapUse>,
    /// The revision of the policies.
    pub policy_revision: u64,
    /// The revision that every endpoint enforces.
    pub policy_enforced_revision: u64,
    /// What it remembers of flows. Cilium's key.
    #[serde(default)]
    pub hubble: HubbleStatus,
}

/// What is remembered of flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HubbleStatus {
    /// Who remembers them.
    pub observer: ObserverStatus,
}

/// How many flows are remembered, and from when on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct ObserverStatus {
    /// Flows that are remembered.
    pub current_flows: u64,
    /// How many can be.
    pub max_flows: u64,
    /// Flows that have ever been seen.
    pub seen_flows: u64,
    /// From when on all that were seen are remembered (RFC 3339): the agent's
    /// start, or the oldest one that is left.
    pub complete_since: String,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MapUse {
    /// Rows in it, if they are counted.
    pub entries: Option<u32>,
    /// Rows it can hold.
    pub capacity: u32,
}

/// The configuration in force: `GET /v1/config`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConfigView {
    /// Options by Cilium's names, each with its value.
    pub options: BTreeMap<String, String>,
    /// Where each value that is no default comes from (`flag`, `env`,
    /// `config-dir`).
    pub origins: BTreeMap<String, String>,
}
