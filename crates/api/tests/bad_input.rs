//! Whatever comes in: an answer or an error, never a panic.

use axon_api::cni::{NetConf, Success};
use axon_api::manifest::{Object, parse, to_yaml};
use proptest::prelude::*;

/// Good manifests to spoil.
const GOOD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: b, labels: {app: x}}
spec:
  containers:
  - {name: c, command: [sleep, '5'], ports: [{name: http, containerPort: 80, protocol: TCP}]}
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: &m {name: np}
spec:
  podSelector: {matchExpressions: [{key: a, operator: In, values: [x, y]}]}
  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 80, endPort: 90}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: *m
spec:
  endpointSelector: {matchLabels: {k8s:app: web}}
  ingress:
  - fromEndpoints: [{}]
    toPorts: [{ports: [{port: '80', endPort: 90, protocol: TCP}, {port: http}]}]
  - icmps: [{fields: [{type: EchoRequest, family: IPv6}]}]
  egressDeny:
  - toCIDRSet: [{cidr: 'fd00::/8', except: ['fd00:1::/32']}]
---
apiVersion: cilium.io/v2
kind: CiliumEndpoint
metadata: {name: e}
status: {identity: {id: 300}, networking: {addressing: [{ipv4: 10.0.0.1, ipv6: 'fd00::1'}], node: 192.0.2.1}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: c}
spec:
  tier: Admin
  priority: 10
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}}
  ingress: [{action: Pass, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]
  egress: [{name: n, action: Deny, to: [{networks: [10.0.0.0/8]}, {nodes: {}}]}]
";

/// Reads and, where it can be written, writes and reads again.
fn read(text: &[u8]) {
    match parse(text) {
        Ok(manifest) => {
            for object in manifest.documents.into_iter().filter_map(|d| d.object) {
                if matches!(object, Object::Policy(_)) {
                    continue;
                }
                let yaml = to_yaml(&object).expect("what was read can be written");
                let again = parse(yaml.as_bytes()).expect("what was written can be read");
                let again = again.documents.into_iter().find_map(|d| d.object);
                assert_eq!(again, Some(object), "{yaml}");
            }
        }
        Err(error) => {
            let lines = text.iter().filter(|byte| **byte == b'\n').count();
            assert!(error.line <= lines + 2, "{error}");
            assert!(!error.message.is_empty());
        }
    }
}

#[test]
fn the_good_one_is_good() {
    let error = parse(GOOD.as_bytes()).expect_err("anchors end with their document");
    assert_eq!(error.line, 18, "{error}");
    read(GOOD.replace("*m", "{name: p}").as_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        read(&bytes);
        let _ = NetConf::parse(&bytes);
    }

    #[test]
    fn random_yaml(text in "([a-c]: |- |\\[|\\]|\\{|\\}|, |&a|\\*a|<<: |\n|  |'|\"|#|---\n|!x |\\||>|1|~|:|\\?){0,60}") {
        read(text.as_bytes());
        read(format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {text}").as_bytes());
    }

    #[test]
    fn spoiled_manifests(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..20, "[ -~\n\t]{0,6}"), 1..5),
    ) {
        let mut text = GOOD.replace("*m", "{name: p}");
        for (place, length, insert) in cuts {
            let start = place.index(text.len());
            let end = (start + length).min(text.len());
            text.replace_range(start..end, &insert);
        }
        read(text.as_bytes());
    }

    #[test]
    fn spoiled_configurations(place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let good = br#"{"cniVersion":"0.4.0","name":"a","prevResult":{"ips":[{"version":"4","address":"10.0.0.1/8","interface":0}],"routes":[{"dst":"::/0","gw":"fd00::1"}]}}"#;
        let mut text = good.to_vec();
        let place = place.index(text.len());
        text[place] = byte;
        if let Ok(conf) = NetConf::parse(&text) {
            let body = conf.prev_result.unwrap_or_default().to_json(conf.cni_version);
            prop_assert!(Success::from_json(&body).is_ok());
        }
    }
}
