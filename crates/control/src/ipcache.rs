//! Who every address is: claims of several owners, of which one counts.
//!
//! ```text
//! endpoints, nodes, CiliumEndpoints, pods, pod CIDRs, policies ── claim ──> Claims ── strongest ──> rows
//! ```
//!
//! Only prefixes whose strongest claim may have changed are looked at again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use axon_abi::{Identity, IpKey, IpcacheRow, LpmKey};
use ipnet::{IpNet, Ipv6Net};

use crate::views::{IpEntry, IpSource};

/// Who claims: an object of a source. Sources are in the order of strength,
/// and of two objects of one source the first by name counts.
pub(crate) type Owner = (IpSource, String);

/// What is claimed of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) identity: Identity,
    /// [`axon_abi::IpcacheFlags`].
    pub(crate) flags: u32,
    /// The node that serves it.
    pub(crate) node: Option<IpAddr>,
    /// The pod (`namespace/name`).
    pub(crate) pod: String,
}

impl Claim {
    /// A claim of an identity and nothing else.
    pub(crate) fn of(identity: Identity) -> Self {
        Self {
            identity,
            flags: 0,
            node: None,
            pod: String::new(),
        }
    }

    pub(crate) fn row(&self) -> IpcacheRow {
        IpcacheRow {
            identity: self.identity,
            flags: self.flags,
            node: self.node.map_or(IpKey::UNSPECIFIED, IpKey::from),
        }
    }
}

/// The claims of all owners.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    by_owner: BTreeMap<Owner, BTreeMap<IpNet, Claim>>,
    by_prefix: BTreeMap<IpNet, BTreeMap<Owner, Claim>>,
    /// Claimed prefixes of one address.
    single: usize,
    /// Prefixes whose strongest claim may have changed.
    dirty: BTreeSet<IpNet>,
}

impl Claims {
    /// Puts an owner's claims in place of those it had. Claims of
    /// IPv4-mapped addresses count for nothing: their rows would be those of
    /// the IPv4 addresses, which are somebody else.
    pub(crate) fn set(&mut self, owner: &Owner, mut claims: BTreeMap<IpNet, Claim>) {
        claims.retain(|prefix, _| !is_mapped(prefix));
        let old = self.by_owner.remove(owner).unwrap_or_default();
        for (prefix, claim) in &claims {
            if old.get(prefix) != Some(claim) {
                let of_prefix = self.by_prefix.entry(*prefix).or_default();
                self.single += usize::from(of_prefix.is_empty() && is_single(prefix));
                of_prefix.insert(owner.clone(), claim.clone());
                self.dirty.insert(*prefix);
            }
        }
        for prefix in old.keys().filter(|prefix| !claims.contains_key(prefix)) {
            if let Some(of_prefix) = self.by_prefix.get_mut(prefix) {
                of_prefix.remove(owner);
                if of_prefix.is_empty() {
                    self.by_prefix.remove(prefix);
                    self.single -= usize::from(is_single(prefix));
                }
            }
            self.dirty.insert(*prefix);
        }
        if !claims.is_empty() {
            self.by_owner.insert(owner.clone(), claims);
        }
    }

    /// Takes away the claims of a source's objects that are not in `names`.
    pub(crate) fn retain(&mut self, source: IpSource, keep: impl Fn(&str) -> bool) {
        let gone: Vec<Owner> = self
            .by_owner
            .range((source, String::new())..)
            .take_while(|((s, _), _)| *s == source)
            .filter(|((_, name), _)| !keep(name))
            .map(|(owner, _)| owner.clone())
            .collect();
        for owner in gone {
            self.set(&owner, BTreeMap::new());
        }
    }

    /// The prefixes that an owner claims.
    pub(crate) fn of(&self, owner: &Owner) -> impl Iterator<Item = &IpNet> {
        self.by_owner
            .get(owner)
            .into_iter()
            .flat_map(BTreeMap::keys)
    }

    /// The claims of an owner.
    pub(crate) fn claimed_by(&self, owner: &Owner) -> impl Iterator<Item = &Claim> + use<'_> {
        let prefixes = self.by_owner.get(owner);
        prefixes.into_iter().flat_map(BTreeMap::values)
    }

    /// The strongest claim of a prefix.
    pub(crate) fn strongest(&self, prefix: &IpNet) -> Option<(&Owner, &Claim)> {
        self.by_prefix.get(prefix)?.first_key_value()
    }

    /// Prefixes to look at again; they are forgotten.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<IpNet> {
        std::mem::take(&mut self.dirty)
    }

    /// Keeps a prefix for later.
    pub(crate) fn put_off(&mut self, prefix: IpNet) {
        self.dirty.insert(prefix);
    }

    /// How many prefixes are claimed: single addresses, and others.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.single, self.by_prefix.len() - self.single)
    }

    /// Every prefix with its strongest claim.
    pub(crate) fn entries(&self) -> Vec<IpEntry> {
        let prefixes = self.by_prefix.keys();
        prefixes.filter_map(|prefix| self.entry(prefix)).collect()
    }

    /// A prefix with its strongest claim.
    pub(crate) fn entry(&self, prefix: &IpNet) -> Option<IpEntry> {
        let ((source, _), claim) = self.strongest(prefix)?;
        Some(IpEntry {
            prefix: *prefix,
            identity: claim.identity,
            node: claim.node,
            pod: claim.pod.clone(),
            source: *source,
        })
    }
}

/// Whether a prefix is one address.
pub(crate) fn is_single(prefix: &IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

/// A prefix of one address.
pub(crate) fn single(addr: IpAddr) -> IpNet {
    IpNet::from(addr)
}

/// ::ffff:0:0/96, by which kernel rows know IPv4 addresses.
const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);

/// Whether every address of an IPv6 prefix is an IPv4-mapped one.
fn is_mapped(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V6(prefix) if MAPPED.contains(prefix))
}

/// A prefix without the IPv4-mapped addresses in it: in a trie that both
/// families share, an IPv6 prefix is to hold no IPv4 address.
pub(crate) fn without_mapped(prefix: IpNet) -> Vec<IpNet> {
    let mut rest = match prefix {
        IpNet::V6(prefix) if prefix.contains(&MAPPED) => prefix.trunc(),
        _ if is_mapped(&prefix) => return Vec::new(),
        _ => return vec![prefix],
    };
    let mut parts = Vec::new();
    while rest != MAPPED {
        let Ok(halves) = rest.subnets(rest.prefix_len() + 1) else {
            break;
        };
        for half in halves {
            if half.contains(&MAPPED) {
                rest = half;
            } else {
                parts.push(IpNet::V6(half));
            }
        }
    }
    parts
}

/// The key of a prefix in a longest-prefix-match table.
pub(crate) fn lpm_key(prefix: &IpNet) -> LpmKey {
    let prefix = prefix.trunc();
    let family_bits = match prefix {
        IpNet::V4(_) => 96,
        IpNet::V6(_) => 0,
    };
    LpmKey {
        prefix_bits: family_bits + u32::from(prefix.prefix_len()),
        addr: IpKey::from(prefix.addr()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axon_abi::Identity;
    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::{Claim, Claims, Owner, lpm_key, without_mapped};
    use crate::views::IpSource;

    #[test]
    fn prefixes_of_ipv4_are_those_of_mapped_addresses() {
        for (prefix, bits) in [
            ("0.0.0.0/0", 96),
            ("10.1.0.0/16", 112),
            ("10.1.2.3/32", 128),
            ("::/0", 0),
            ("fd00::/8", 8),
        ] {
            let prefix: IpNet = prefix.parse().expect("prefix");
            let key = lpm_key(&prefix);
            assert_eq!(key.prefix_bits, bits, "{prefix}");
            assert_eq!(key.addr, axon_abi::IpKey::from(prefix.addr()), "{prefix}");
        }
    }

    #[test]
    fn nobody_claims_an_ipv4_address_in_ipv6_clothes() {
        let mut claims = Claims::default();
        let owner = (IpSource::Policy, String::new());
        let of = |text: &str| (text.parse().expect("prefix"), Claim::of(Identity(300)));
        let wanted = ["::ffff:10.0.0.5/128", "::ffff:10.0.0.0/120", "fd00::5/128"];
        claims.set(&owner, wanted.map(of).into());
        let dirty: Vec<String> = claims.take_dirty().iter().map(IpNet::to_string).collect();
        assert_eq!(dirty, ["fd00::5/128"]);
        assert_eq!(claims.count(), (1, 0));
    }

    #[test]
    fn ipv6_without_ipv4_is_all_but_the_mapped_addresses() {
        let all: Vec<IpNet> = without_mapped("::/0".parse().expect("prefix"));
        let holding = |addr: &str| {
            let addr: std::net::IpAddr = addr.parse().expect("address");
            all.iter().filter(|part| part.contains(&addr)).count()
        };
        for (addr, times) in [
            ("::ffff:10.0.0.5", 0),
            ("::ffff:0.0.0.0", 0),
            ("::ffff:255.255.255.255", 0),
            ("::", 1),
            ("::fffe:ffff:ffff", 1),
            ("::1:0:0:0", 1),
            ("2001:db8::1", 1),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1),
        ] {
            assert_eq!(holding(addr), times, "{addr}");
        }
        for (prefix, parts) in [
            ("10.0.0.0/8", 1),
            ("fd00::/8", 1),
            ("::ffff:0:0/96", 0),
            ("::ffff:10.0.0.0/104", 0),
        ] {
            let prefix: IpNet = prefix.parse().expect("prefix");
            assert_eq!(without_mapped(prefix).len(), parts, "{prefix}");
        }
    }

    fn owner() -> impl Strategy<Value = Owner> {
        let source = prop::sample::select(vec![
            IpSource::Local,
            IpSource::Node,
            IpSource::CiliumEndpoint,
            IpSource::Pod,
            IpSource::Policy,
        ]);
        (source, "[ab]")
    }

    proptest! {
        /// Following what is dirty gives what a look at every claim gives.
        #[test]
        fn rows_follow_claims(
            edits in prop::collection::vec(
                (owner(), prop::collection::btree_map(0..6_u8, 256..260_u32, 0..3), any::<bool>()),
                1..60,
            ),
        ) {
            let prefix = |n: u8| -> IpNet { format!("10.0.0.{n}/32").parse().expect("prefix") };
            let mut claims = Claims::default();
            let mut rows: BTreeMap<IpNet, Identity> = BTreeMap::new();
            let mut model: BTreeMap<Owner, BTreeMap<u8, u32>> = BTreeMap::new();
            for (owner, wanted, look) in edits {
                let set = wanted.iter().map(|(n, id)| (prefix(*n), Claim::of(Identity(*id))));
                claims.set(&owner, set.collect());
                model.insert(owner, wanted);
                if !look {
                    continue;
                }
                for prefix in claims.take_dirty() {
                    match claims.strongest(&prefix) {
                        Some((_, claim)) => rows.insert(prefix, claim.identity),
                        None => rows.remove(&prefix),
                    };
                }
                let mut expected = BTreeMap::new();
                for (n, id) in model.values().rev().flatten() {
                    expected.insert(prefix(*n), Identity(*id));
                }
                prop_assert_eq!(&rows, &expected);
                prop_assert_eq!(claims.count(), (expected.len(), 0));
            }
        }
    }
}
