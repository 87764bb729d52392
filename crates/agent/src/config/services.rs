//! Options of services.

use std::net::SocketAddr;

use axon_control::services::{MAGLEV_TABLE_SIZES, Mode, ServicesConfig};
use axon_model::Algorithm;
use ipnet::IpNet;

use super::read::Reader;

/// How services are read.
pub(super) fn read(reader: &mut Reader<'_>) -> ServicesConfig {
    ServicesConfig {
        mode: reader.word(
            "bpf-lb-mode",
            &[
                ("snat", Mode::Snat),
                ("dsr", Mode::Dsr),
                ("hybrid", Mode::Hybrid),
            ],
            Mode::Snat,
        ),
        mode_annotation: reader.boolean("bpf-lb-mode-annotation"),
        algorithm: reader.word(
            "bpf-lb-algorithm",
            &[("random", Algorithm::Random), ("maglev", Algorithm::Maglev)],
            Algorithm::Random,
        ),
        algorithm_annotation: reader.boolean("bpf-lb-algorithm-annotation"),
        maglev_table_size: table_size(reader),
        external_cluster_ip: reader.boolean("bpf-lb-external-clusterip"),
        source_range_all_types: reader.boolean("bpf-lb-source-range-all-types"),
        node_port_range: port_range(reader),
        node_port_addresses: prefixes(reader),
        session_affinity: reader.boolean("enable-session-affinity"),
        topology: reader.boolean("enable-service-topology"),
        health_checks: reader.boolean("enable-health-check-nodeport") && replaces(reader),
        drop_without_backends: reader.word(
            "service-no-backend-response",
            &[("reject", false), ("drop", true)],
            false,
        ),
        external_ips_inside: reader.boolean("disable-external-ip-mitigation"),
        local_redirects: reader.boolean("enable-local-redirect-policy"),
        proxy_name: reader.settings.text("k8s-service-proxy-name").to_owned(),
        ipv6: reader.boolean("enable-ipv6"),
    }
}

/// Beside kube-proxy, that is who is asked.
fn replaces(reader: &Reader<'_>) -> bool {
    reader.is_on("kube-proxy-replacement")
}

/// Where it is told whether services are in force.
pub(super) fn healthz(reader: &mut Reader<'_>) -> Option<SocketAddr> {
    let address = reader.listen_address("kube-proxy-replacement-healthz-bind-address");
    address.filter(|_| replaces(reader))
}

fn table_size(reader: &mut Reader<'_>) -> u32 {
    const NAME: &str = "bpf-lb-maglev-table-size";
    let size = reader.settings.text(NAME).parse().ok();
    let size = size.filter(|size| MAGLEV_TABLE_SIZES.contains(size));
    size.unwrap_or_else(|| {
        let sizes = MAGLEV_TABLE_SIZES.map(|size| size.to_string());
        reader.refuse(NAME, format!("one of {}", sizes.join(", ")));
        ServicesConfig::default().maglev_table_size
    })
}

/// As Cilium writes it: `30000,32767`.
fn port_range(reader: &mut Reader<'_>) -> (u16, u16) {
    const NAME: &str = "node-port-range";
    let ports: Option<Vec<u16>> = reader
        .settings
        .list(NAME)
        .iter()
        .map(|port| port.parse().ok())
        .collect();
    match ports.as_deref() {
        Some([first, last]) if *first != 0 && first <= last => (*first, *last),
        _ => {
            reader.refuse(NAME, "the first and the last port, as 30000,32767");
            ServicesConfig::default().node_port_range
        }
    }
}

fn prefixes(reader: &mut Reader<'_>) -> Vec<IpNet> {
    const NAME: &str = "nodeport-addresses";
    let texts = reader.settings.list(NAME);
    let prefixes: Option<Vec<IpNet>> = texts.iter().map(|text| text.parse().ok()).collect();
    prefixes.unwrap_or_else(|| {
        reader.refuse(NAME, "prefixes, as 192.0.2.0/24,2001:db8::/64");
        Vec::new()
    })
}
