//! What to do about neighbours that stand in the way.

use axon_linux::firewall::{ChainHook, ClosedChain, Family, Tool};
use axon_linux::{Hanging, OtherProgram};

/// The commands that let pods' traffic through a chain.
pub(super) fn rules_for(chain: &ClosedChain) -> String {
    if chain.family == Family::Netdev {
        return format!(
            "let pods' traffic through in chain {0} (nft list chain netdev {1} {0})",
            chain.chain, chain.table
        );
    }
    let sides: &[&str] = match chain.hook {
        ChainHook::Input => &["i"],
        ChainHook::Output => &["o"],
        _ => &["i", "o"],
    };
    let commands: Vec<String> = sides.iter().map(|side| command(chain, side)).collect();
    format!(
        "{}, or, if it shall stay closed to pods, a rule that names lxc* and drops",
        commands.join(" && ")
    )
}

fn command(chain: &ClosedChain, side: &str) -> String {
    let name = chain.rules_go_to.as_deref().unwrap_or(&chain.chain);
    let program = match (chain.tool, chain.family) {
        (Tool::Nft, family) => {
            let table = &chain.table;
            let family = family.name();
            return format!("nft insert rule {family} {table} {name} {side}ifname 'lxc*' accept");
        }
        (Tool::Iptables, Family::Ipv6) => "ip6tables",
        (Tool::Iptables, _) => "iptables",
        (Tool::IptablesLegacy, Family::Ipv6) => "ip6tables-legacy",
        (Tool::IptablesLegacy, _) => "iptables-legacy",
    };
    let table = match chain.table.as_str() {
        "filter" => String::new(),
        table => format!(" -t {table}"),
    };
    format!("{program}{table} -I {name} -{side} lxc+ -j ACCEPT")
}

pub(super) fn kind(program: &OtherProgram) -> &'static str {
    match (program.hanging, program.id) {
        (Hanging::Tcx { .. }, _) => "tcx program",
        (Hanging::Clsact { .. }, Some(_)) => "tc program",
        (Hanging::Clsact { .. }, None) => "tc filter",
    }
}

/// The commands that take programs away.
pub(super) fn programs_go<'a>(
    programs: impl Iterator<Item = &'a OtherProgram>,
) -> impl Iterator<Item = String> {
    programs.map(|program| {
        let device = &program.device;
        let side = if program.ingress { "ingress" } else { "egress" };
        match program.hanging {
            Hanging::Tcx { link: Some(link) } => format!(
                "have it attached behind ours (BPF_F_AFTER), or bpftool link detach id {link}"
            ),
            Hanging::Tcx { link: None } => format!(
                "have it attached behind ours (BPF_F_AFTER), or bpftool net detach tcx_{side} dev \
                 {device}"
            ),
            Hanging::Clsact { priority } => format!(
                "give it a higher pref, or tc filter del dev {device} {side} pref {priority}"
            ),
        }
    })
}
