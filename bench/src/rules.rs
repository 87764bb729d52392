//! The rules by which kube-proxy serves services, as it structures them: what every
//! node has, and for each service its chains.
//!
//! ```text
//! iptables: KUBE-SERVICES ─ one rule a service ─> KUBE-SVC ─ by chance ─> KUBE-SEP ─> DNAT
//! nft:      services ─ one look-up in a map ─> the service's chain ─ by chance ─> endpoint ─> dnat
//! ```
//!
//! The service that is asked for is the last one: by iptables it is found after a walk
//! over all others, of which the average service pays half.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// Endpoints of each service.
pub(crate) const ENDPOINTS: usize = 3;

/// Services, and where the last one leads to.
pub(crate) struct Services {
    pub(crate) count: usize,
    pub(crate) last: [Ipv4Addr; ENDPOINTS],
    pub(crate) port: u16,
    /// Who is a pod: others' addresses are hidden.
    pub(crate) pods: &'static str,
    /// Whether all services but the last lead to the chains of the first: who walks
    /// past them, or looks one up, does not see these, and tools that take minutes for all chains take
    /// a second for the walk.
    pub(crate) shares_chains: bool,
}

/// What kube-proxy has in `filter`, however many services there are.
const FILTER: &str = "*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
";

/// What it has in `nat` beside services.
const NAT: &str = "*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
";
const NAT_RULES: &str = "-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
";

/// The table of kube-proxy's own mode for nft, beside services.
const NFT: &str = "table ip kube-proxy {
  map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
  chain masquerading {
    meta mark and 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random
  }
  chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
  chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
  chain nat-output { type nat hook output priority -100; jump services; }
  chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
}
";

impl Services {
    /// The address of a service, as the lab's topology gives it.
    pub(crate) fn address(n: usize) -> Ipv4Addr {
        let [.., high, low] = u32::try_from(n + 256).unwrap_or(0).to_be_bytes();
        Ipv4Addr::new(10, 96, high, low)
    }

    fn endpoints(&self, n: usize) -> [Ipv4Addr; ENDPOINTS] {
        if n == self.count {
            return self.last;
        }
        // Addresses that nobody has.
        let first = u32::from(Ipv4Addr::new(10, 112, 0, 0));
        std::array::from_fn(|e| {
            let place = u32::try_from(ENDPOINTS * n + e).unwrap_or(0);
            Ipv4Addr::from(first + place)
        })
    }

    /// For `iptables-restore`.
    pub(crate) fn iptables(&self) -> String {
        let mut chains = String::new();
        let mut walk = String::new();
        let mut rules = String::new();
        for n in 1..=self.count {
            self.iptables_of(n, &mut chains, &mut walk, &mut rules).ok();
        }
        walk += "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n";
        [FILTER, NAT, &chains, NAT_RULES, &walk, &rules, "COMMIT\n"].concat()
    }

    fn iptables_of(
        &self,
        n: usize,
        chains: &mut String,
        walk: &mut String,
        rules: &mut String,
    ) -> std::fmt::Result {
        let (vip, port) = (Self::address(n), self.port);
        let is_shared = self.shares_chains && n != self.count;
        let service = format!("KUBE-SVC-{:016}", if is_shared { 1 } else { n });
        let comment = format!("-m comment --comment \"further/s{n}");
        let meant = format!("-m tcp -p tcp -d {vip} --dport {port}");
        writeln!(
            walk,
            "-A KUBE-SERVICES {comment} cluster IP\" {meant} -j {service}"
        )?;
        if is_shared && n > 1 {
            return Ok(());
        }
        writeln!(chains, ":{service} - [0:0]")?;
        writeln!(
            rules,
            "-A {service} {comment} cluster IP\" {meant} ! -s {} -j KUBE-MARK-MASQ",
            self.pods
        )?;
        for (e, endpoint) in self.endpoints(n).into_iter().enumerate() {
            let chain = format!("KUBE-SEP-{:016}", ENDPOINTS * n + e);
            let left = ENDPOINTS - e;
            let chance = match left {
                1 => String::new(),
                _ => format!(
                    " -m statistic --mode random --probability {:.10}",
                    1.0 / left as f64
                ),
            };
            writeln!(chains, ":{chain} - [0:0]")?;
            writeln!(
                rules,
                "-A {service} {comment} -> {endpoint}:{port}\"{chance} -j {chain}"
            )?;
            writeln!(
                rules,
                "-A {chain} {comment}\" -s {endpoint} -j KUBE-MARK-MASQ"
            )?;
            writeln!(
                rules,
                "-A {chain} {comment}\" -m tcp -p tcp -j DNAT --to-destination {endpoint}:{port}"
            )?;
        }
        Ok(())
    }

    /// For `nft -f`.
    pub(crate) fn nft(&self) -> String {
        let mut text = format!("{NFT}table ip kube-proxy {{\n");
        let mut elements = Vec::new();
        for n in 1..=self.count {
            let (vip, port) = (Self::address(n), self.port);
            let is_shared = self.shares_chains && n != self.count;
            let chain = if is_shared { 1 } else { n };
            elements.push(format!("{vip} . tcp . {port} : goto service-{chain}"));
            if is_shared && n > 1 {
                continue;
            }
            let mut choice = Vec::new();
            for (e, endpoint) in self.endpoints(n).into_iter().enumerate() {
                writeln!(
                    text,
                    "  chain endpoint-{n}-{e} {{ ip saddr {endpoint} jump mark-for-masquerade; \
                     meta l4proto tcp dnat to {endpoint}:{port}; }}"
                )
                .ok();
                choice.push(format!("{e} : goto endpoint-{n}-{e}"));
            }
            writeln!(
                text,
                "  chain service-{n} {{ ip daddr {vip} tcp dport {port} ip saddr != {} jump \
                 mark-for-masquerade; numgen random mod {ENDPOINTS} vmap {{ {} }}; }}",
                self.pods,
                choice.join(", ")
            )
            .ok();
        }
        text += "}\n";
        // What is larger does not go into one message.
        for some in elements.chunks(500) {
            let some = some.join(", ");
            writeln!(text, "add element ip kube-proxy service-ips {{ {some} }}").ok();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{ENDPOINTS, Services};

    fn services(count: usize) -> Services {
        Services {
            count,
            last: [2, 3, 4].map(|n| Ipv4Addr::new(10, 201, 2, n)),
            port: 5201,
            pods: "10.201.0.0/16",
            shares_chains: false,
        }
    }

    #[test]
    fn chains_that_are_shared_leave_the_walk_as_it_is() {
        let shares = |shares_chains| Services {
            shares_chains,
            ..services(100)
        };
        let (whole, shared) = (shares(false).iptables(), shares(true).iptables());
        let walk = |text: &str| text.matches("-A KUBE-SERVICES -m comment").count();
        assert_eq!((walk(&whole), walk(&shared)), (100, 100));
        assert_eq!(shared.matches(":KUBE-SVC-").count(), 2);
        let last = |text: &str| text.lines().filter(|l| l.contains("further/s100")).count();
        assert_eq!(last(&whole), last(&shared));
        let (whole, shared) = (shares(false).nft(), shares(true).nft());
        let found = |text: &str| text.matches(" . tcp . 5201 : goto service-").count();
        assert_eq!((found(&whole), found(&shared)), (100, 100));
        assert_eq!(shared.matches("chain service-").count(), 2);
        assert!(shared.contains("10.96.1.100 . tcp . 5201 : goto service-100 "));
    }

    #[test]
    fn the_walk_has_a_rule_a_service_and_the_last_one_leads_to_the_server() {
        let text = services(100).iptables();
        let walk = text
            .lines()
            .filter(|l| l.starts_with("-A KUBE-SERVICES -m comment"));
        let walk: Vec<&str> = walk.collect();
        assert_eq!(walk.len(), 100);
        assert!(
            walk[99].contains("-d 10.96.1.100 --dport 5201"),
            "{}",
            walk[99]
        );
        let leads = |addr: &str| {
            text.matches(&format!("--to-destination {addr}:5201\n"))
                .count()
        };
        assert_eq!(
            ["10.201.2.2", "10.201.2.3", "10.201.2.4"].map(leads),
            [1; 3]
        );
        assert_eq!(text.matches("DNAT").count(), 100 * ENDPOINTS);
        // Each chain that a rule jumps to is there.
        for jump in text.lines().filter_map(|l| l.rsplit_once("-j KUBE-")) {
            assert!(text.contains(&format!(":KUBE-{} - ", jump.1)), "{}", jump.1);
        }
    }

    #[test]
    fn the_map_has_an_element_a_service() {
        let text = services(1001).nft();
        assert_eq!(text.matches("add element").count(), 3);
        assert_eq!(text.matches(" . tcp . 5201 : goto service-").count(), 1001);
        assert!(text.contains("10.96.4.233 . tcp . 5201 : goto service-1001 "));
        assert_eq!(text.matches("dnat to 10.201.2.").count(), ENDPOINTS);
    }

    #[test]
    fn no_two_services_have_an_address_in_common() {
        let all: std::collections::BTreeSet<_> = (1..=60_000).map(Services::address).collect();
        assert_eq!(all.len(), 60_000);
        let inside = |ip: &Ipv4Addr| ip.octets()[..2] == [10, 96] && ip.octets()[2] > 0;
        assert!(all.iter().all(inside));
    }
}
