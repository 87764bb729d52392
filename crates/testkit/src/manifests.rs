//! Manifests of a node full of pods, for tests and benchmarks of a whole agent.

use std::fmt::Write as _;

/// A node `n1` at 192.0.2.1 with pods in the namespace `default`.
#[derive(Clone, Copy, Debug)]
pub struct NodeOfPods<'a> {
    /// How many pods: `p0`, `p1`, …
    pub pods: usize,
    /// How many kinds the pods are of: pod `pN` has the label `kind: kM`, where
    /// M is N modulo this. At least 1.
    pub kinds: usize,
    /// The pods' prefixes, of both families.
    pub pod_cidrs: [&'a str; 2],
    /// The `spec` of the CiliumNetworkPolicy `web`, as one line of YAML.
    pub policy: &'a str,
}

/// The manifests of such a node, as YAML documents.
#[must_use]
pub fn node_manifests(node: &NodeOfPods<'_>) -> String {
    let [v4, v6] = node.pod_cidrs;
    let mut text = format!(
        "\
apiVersion: v1
kind: Node
metadata: {{name: n1}}
spec: {{podCIDRs: ['{v4}', '{v6}']}}
status: {{addresses: [{{type: InternalIP, address: 192.0.2.1}}]}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: default}}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: web, namespace: default}}
spec: {}
",
        node.policy
    );
    for pod in 0..node.pods {
        let kind = pod % node.kinds.max(1);
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "---
apiVersion: v1
kind: Pod
metadata: {{name: p{pod}, namespace: default, labels: {{kind: k{kind}}}}}
spec: {{nodeName: n1, containers: [{{name: c, image: none}}]}}
"
        );
    }
    text
}
