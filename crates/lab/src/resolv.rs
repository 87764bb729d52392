//! A pod's resolv.conf, as a kubelet writes it.

use std::net::IpAddr;

use serde_json::Value;

use crate::dns::DOMAIN;

/// So many name servers and no more does a resolver ask.
const SERVERS_MAX: usize = 3;

/// Where a pod's names are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// In the cluster.
    Cluster,
    /// Where the node looks them up.
    Node,
    /// Where the pod says, and nowhere else.
    Nowhere,
}

/// What the spec of a pod asks for.
pub(crate) fn policy(spec: &Value) -> Policy {
    match spec["dnsPolicy"].as_str() {
        Some("Default") => Policy::Node,
        Some("None") => Policy::Nowhere,
        Some("ClusterFirstWithHostNet") => Policy::Cluster,
        _ if spec["hostNetwork"] == true => Policy::Node,
        _ => Policy::Cluster,
    }
}

/// What a resolver is told.
#[derive(Debug, Default)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// The resolv.conf of a pod, from its spec and namespace, the addresses of the
/// cluster's name server and the node's own resolv.conf.
pub(crate) fn resolv_conf(
    (spec, namespace): (&Value, &str),
    servers: &[IpAddr],
    node: &str,
) -> String {
    let mut resolver = match policy(spec) {
        Policy::Nowhere => Resolver::default(),
        Policy::Node => Resolver::read(node),
        Policy::Cluster => Resolver {
            servers: servers.iter().map(ToString::to_string).collect(),
            searches: vec![
                format!("{namespace}.svc.{DOMAIN}"),
                format!("svc.{DOMAIN}"),
                DOMAIN.to_owned(),
            ],
            // A pod is not to wait long for an answer that was lost with an agent.
            options: ["ndots:5", "timeout:2", "attempts:3"]
                .map(str::to_owned)
                .into(),
        },
    };
    resolver.add(&spec["dnsConfig"]);
    resolver.write()
}

impl Resolver {
    fn read(text: &str) -> Self {
        let mut read = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => read.servers.extend(words.next()),
                // Of several the last one counts.
                Some("search" | "domain") => read.searches = words.collect(),
                Some("options") => read.options.extend(words),
                _ => {}
            }
        }
        read
    }

    /// What the pod itself asks for, beside what is there.
    fn add(&mut self, config: &Value) {
        let texts = |key: &str| {
            let list = config[key].as_array().into_iter().flatten();
            let list: Vec<String> = list.filter_map(Value::as_str).map(str::to_owned).collect();
            list
        };
        self.servers.extend(texts("nameservers"));
        self.searches.extend(texts("searches"));
        for option in config["options"].as_array().into_iter().flatten() {
            let Some(name) = option["name"].as_str() else {
                continue;
            };
            let word = match option["value"].as_str() {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            };
            let is_of = |word: &String| word.split(':').next() == Some(name);
            self.options.retain(|word| !is_of(word));
            self.options.push(word);
        }
    }

    fn write(&self) -> String {
        let mut text = String::new();
        let mut servers: Vec<&String> = Vec::new();
        for server in &self.servers {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        for server in servers.into_iter().take(SERVERS_MAX) {
            text.push_str(&format!("nameserver {server}\n"));
        }
        let mut searches: Vec<&str> = Vec::new();
        for search in &self.searches {
            if !searches.contains(&search.as_str()) {
                searches.push(search);
            }
        }
        for (word, list) in [
            ("search", searches.join(" ")),
            ("options", self.options.join(" ")),
        ] {
            if !list.is_empty() {
                text.push_str(&format!("{word} {list}\n"));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use serde_json::json;

    use super::resolv_conf;

    #[test]
    fn policy_and_config_of_a_pod_make_its_file() {
        let servers: Vec<IpAddr> = ["10.96.0.10", "fd00:10:96::a"]
            .map(|ip| ip.parse().expect("an address"))
            .into();
        let node =
            "# by hand\nnameserver 192.0.2.53\nsearch old\nsearch example.org\noptions edns0\n";
        let cluster = "nameserver 10.96.0.10\nnameserver fd00:10:96::a\n\
                       search shop.svc.cluster.local svc.cluster.local cluster.local\n\
                       options ndots:5 timeout:2 attempts:3\n";
        let of_node = "nameserver 192.0.2.53\nsearch example.org\noptions edns0\n";
        let config = json!({
            "nameservers": ["10.96.0.10", "192.0.2.1", "192.0.2.2"],
            "searches": ["a.test", "svc.cluster.local"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
        });
        for (name, spec, expected) in [
            ("nothing said", json!({}), cluster),
            (
                "ClusterFirst",
                json!({"dnsPolicy": "ClusterFirst"}),
                cluster,
            ),
            (
                "in the node's network",
                json!({"hostNetwork": true}),
                of_node,
            ),
            (
                "in the node's network, asking for the cluster's names",
                json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                cluster,
            ),
            ("Default", json!({"dnsPolicy": "Default"}), of_node),
            ("None", json!({"dnsPolicy": "None"}), ""),
            (
                "None, with a config",
                json!({"dnsPolicy": "None", "dnsConfig": config}),
                "nameserver 10.96.0.10\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n\
                 search a.test svc.cluster.local\noptions ndots:2 edns0\n",
            ),
            (
                "the cluster's, with a config",
                json!({"dnsConfig": config}),
                "nameserver 10.96.0.10\nnameserver fd00:10:96::a\nnameserver 192.0.2.1\n\
                 search shop.svc.cluster.local svc.cluster.local cluster.local a.test\n\
                 options timeout:2 attempts:3 ndots:2 edns0\n",
            ),
        ] {
            assert_eq!(
                resolv_conf((&spec, "shop"), &servers, node),
                expected,
                "{name}"
            );
        }
    }
}
