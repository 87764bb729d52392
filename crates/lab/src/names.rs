//! The names of Services and pods, as Kubernetes' DNS specification has them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use crate::state::{Cluster, PodState};

/// The domain of the cluster.
pub(crate) const DOMAIN: &str = "cluster.local";

/// Names and what they stand for.
pub(crate) type Names = BTreeMap<String, Vec<IpAddr>>;

/// Every name of a cluster, in lower case, without the final dot.
///
/// A Service stands for the addresses of the ready pods that it selects.
pub(crate) fn names(cluster: &Cluster) -> Names {
    let mut names = Names::new();
    for pod in cluster.pods.values().filter(|p| !p.ips.is_empty()) {
        let namespace = &pod.plan.namespace;
        let under = |name: &str| format!("{name}.{namespace}.pod.{DOMAIN}");
        names.insert(under(&pod.plan.name), pod.ips.clone());
        for ip in &pod.ips {
            let dashed = ip.to_string().replace(['.', ':'], "-");
            names.insert(under(&dashed), vec![*ip]);
        }
    }
    for (id, service) in &cluster.plan.others {
        if id.kind != "Service" {
            continue;
        }
        let name = format!("{}.{}.svc.{DOMAIN}", id.name, id.namespace);
        let pods = cluster
            .pods
            .values()
            .filter(|pod| pod.plan.namespace == id.namespace && selects(service, pod));
        let unready = service["spec"]["publishNotReadyAddresses"] == true;
        let mut all = Vec::new();
        for pod in pods.filter(|pod| unready || pod.ready()) {
            all.extend(&pod.ips);
            let spec = &pod.plan.value["spec"];
            if let (Some(host), Some(subdomain)) =
                (spec["hostname"].as_str(), spec["subdomain"].as_str())
                && subdomain == id.name
            {
                names.insert(format!("{host}.{name}"), pod.ips.clone());
            }
        }
        names.insert(name, all);
    }
    names
}

fn selects(service: &Value, pod: &PodState) -> bool {
    let labels = &pod.plan.value["metadata"]["labels"];
    let selector = service["spec"]["selector"].as_object();
    selector.is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(key, value)| labels[key] == *value)
    })
}
