//! Options of agents that services depend on, by the names that agents know.

use axon_control::services::{MAGLEV_TABLE_SIZES, Mode, ServicesConfig};
use axon_model::Algorithm;
use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::Problem;

/// What agents with these options do, and the options that nothing here asks.
///
/// # Errors
/// A value that an option cannot have, by the option's path.
pub(super) fn read(options: &Map<String, Value>) -> Result<(ServicesConfig, Vec<String>), Problem> {
    let mut config = ServicesConfig::default();
    let mut unknown = Vec::new();
    for (name, value) in options {
        let given = Given { name, value };
        if flag(&mut config, &given)? {
            continue;
        }
        match name.as_str() {
            "bpf-lb-mode" => {
                let modes = [Mode::Snat, Mode::Dsr, Mode::Hybrid];
                config.mode = given.word(["snat", "dsr", "hybrid"], modes)?;
            }
            "bpf-lb-algorithm" => {
                let algorithms = [Algorithm::Random, Algorithm::Maglev];
                config.algorithm = given.word(["random", "maglev"], algorithms)?;
            }
            "service-no-backend-response" => {
                config.drop_without_backends = given.word(["reject", "drop"], [false, true])?;
            }
            "bpf-lb-maglev-table-size" => config.maglev_table_size = given.table_size()?,
            "node-port-range" => config.node_port_range = given.port_range()?,
            "nodeport-addresses" => config.node_port_addresses = given.prefixes()?,
            "k8s-service-proxy-name" => given.text()?.clone_into(&mut config.proxy_name),
            // How packets travel, and where sockets are turned: who answers is the same.
            "bpf-lb-sock-hostns-only" | "bpf-lb-dsr-dispatch" | "routing-mode" => {}
            _ => unknown.push(name.clone()),
        }
    }
    Ok((config, unknown))
}

/// Sets an option that is on or off; tells whether it is one.
fn flag(config: &mut ServicesConfig, given: &Given<'_>) -> Result<bool, Problem> {
    let option = match given.name {
        "bpf-lb-mode-annotation" => &mut config.mode_annotation,
        "bpf-lb-algorithm-annotation" => &mut config.algorithm_annotation,
        "bpf-lb-external-clusterip" => &mut config.external_cluster_ip,
        "bpf-lb-source-range-all-types" => &mut config.source_range_all_types,
        "enable-session-affinity" => &mut config.session_affinity,
        "enable-service-topology" => &mut config.topology,
        "enable-health-check-nodeport" => &mut config.health_checks,
        "disable-external-ip-mitigation" => &mut config.external_ips_inside,
        "enable-local-redirect-policy" => &mut config.local_redirects,
        "enable-ipv6" => &mut config.ipv6,
        _ => return Ok(false),
    };
    *option = given.boolean()?;
    Ok(true)
}

/// An option and its value.
struct Given<'a> {
    name: &'a str,
    value: &'a Value,
}

impl Given<'_> {
    fn wrong(&self, expected: &str) -> Problem {
        let message = format!("{}; expected {expected}", self.value);
        Problem::new(format!("config.{}", self.name), message)
    }

    /// On or off; a ConfigMap has it as a text.
    fn boolean(&self) -> Result<bool, Problem> {
        match self.value {
            Value::Bool(is) => Ok(*is),
            Value::String(text) if text == "true" => Ok(true),
            Value::String(text) if text == "false" => Ok(false),
            _ => Err(self.wrong("true or false")),
        }
    }

    fn text(&self) -> Result<&str, Problem> {
        self.value.as_str().ok_or_else(|| self.wrong("a text"))
    }

    fn word<T, const N: usize>(&self, words: [&str; N], values: [T; N]) -> Result<T, Problem> {
        let found = words.iter().zip(values);
        let mut found = found.filter(|(word, _)| self.value.as_str() == Some(**word));
        let found = found.next().map(|(_, value)| value);
        found.ok_or_else(|| self.wrong(&words.join(" or ")))
    }

    fn table_size(&self) -> Result<u32, Problem> {
        let size = self.value.as_u64().and_then(|size| size.try_into().ok());
        size.filter(|size| MAGLEV_TABLE_SIZES.contains(size))
            .ok_or_else(|| {
                let sizes = MAGLEV_TABLE_SIZES.map(|size| size.to_string());
                self.wrong(&format!("one of {}", sizes.join(", ")))
            })
    }

    fn port_range(&self) -> Result<(u16, u16), Problem> {
        let [first, last]: [u16; 2] = serde_json::from_value(self.value.clone())
            .map_err(|_| self.wrong("the first and the last port, as [30000, 32767]"))?;
        if first == 0 || first > last {
            return Err(self.wrong("a first port that is not behind the last"));
        }
        Ok((first, last))
    }

    fn prefixes(&self) -> Result<Vec<IpNet>, Problem> {
        serde_json::from_value(self.value.clone())
            .map_err(|_| self.wrong("a list of prefixes as 192.0.2.0/24"))
    }
}

#[cfg(test)]
mod tests {
    use axon_control::services::Mode;
    use serde_json::json;

    use super::read;

    #[test]
    fn options_are_read_and_what_is_wrong_is_named() {
        let given = json!({
            "bpf-lb-mode": "hybrid",
            "enable-ipv6": "false",
            "node-port-range": [31000, 31009],
            "nodeport-addresses": ["192.0.2.0/24"],
            "bpf-lb-dsr-dispatch": "opt",
            "debug": true,
        });
        let (config, unknown) = read(given.as_object().expect("a map")).expect("options");
        assert_eq!((config.mode, config.ipv6), (Mode::Hybrid, false));
        assert_eq!(config.node_port_range, (31_000, 31_009));
        assert_eq!(config.node_port_addresses.len(), 1);
        assert_eq!(unknown, ["debug"]);
        for (name, value, expected) in [
            ("bpf-lb-mode", json!("nat"), "snat or dsr or hybrid"),
            ("bpf-lb-algorithm", json!(1), "random or maglev"),
            ("bpf-lb-maglev-table-size", json!(1000), "one of 251"),
            ("enable-ipv6", json!("yes"), "true or false"),
            ("node-port-range", json!([32_000, 31_000]), "not behind"),
            ("node-port-range", json!([0, 70_000]), "[30000, 32767]"),
            ("nodeport-addresses", json!(["192.0.2.1"]), "prefixes"),
            (
                "service-no-backend-response",
                json!("rst"),
                "reject or drop",
            ),
            ("k8s-service-proxy-name", json!(7), "a text"),
        ] {
            let options = json!({ name: value });
            let error = read(options.as_object().expect("a map")).expect_err(name);
            assert_eq!(error.path, format!("config.{name}"));
            assert!(error.message.contains(expected), "{error}");
        }
    }
}
