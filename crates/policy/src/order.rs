//! Who wins: the precedence of entries.
//!
//! ```text
//! 31      24 23             7 6         2 1      0
//! │  tier   │ place or rank  │ specificity │ remote │
//! ```
//!
//! In Admin and Baseline the first entry that matches decides: each has a place
//! of its own. In the Normal tier the rank decides. What is below decides nothing
//! but which of several agreeing entries is reported: the more specific one, by
//! port and then by remote.

use axon_abi::class;

use crate::ports::L4;

/// Numbers of the tiers, Cilium's: a lower one outranks a higher one. Before all
/// is what is never denied to the node itself.
const FAILSAFE: u32 = 0;
const ADMIN: u32 = 100;
const NORMAL: u32 = 200;
const BASELINE: u32 = 250;

const TIER_SHIFT: u32 = 24;
const PLACE_SHIFT: u32 = 7;
const SPECIFICITY_SHIFT: u32 = 2;

/// Places in an ordered tier, for entries of one set.
pub(crate) const PLACES: u32 = 1 << (TIER_SHIFT - PLACE_SHIFT);

/// What decides of a precedence: the higher wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Order(u32);

impl Order {
    /// What is never denied.
    pub(crate) const FAILSAFE: Self = Self::of(FAILSAFE, 0);

    /// The `n`th entry of the Admin tier, from 0.
    pub(crate) fn admin(n: u32) -> Self {
        Self::of(ADMIN, PLACES - 1 - n.min(PLACES - 1))
    }

    /// An entry of the Normal tier.
    pub(crate) fn normal(rank: u8) -> Self {
        Self::of(NORMAL, u32::from(rank))
    }

    /// The `n`th entry of the Baseline tier, from 0.
    pub(crate) fn baseline(n: u32) -> Self {
        Self::of(BASELINE, PLACES - 1 - n.min(PLACES - 1))
    }

    const fn of(tier: u32, place: u32) -> Self {
        Self(((u8::MAX as u32 - tier) << TIER_SHIFT) | (place << PLACE_SHIFT))
    }

    /// Whether it is one of the Admin tier.
    pub(crate) fn is_admin(self) -> bool {
        self.0 >> TIER_SHIFT == Self::of(ADMIN, 0).0 >> TIER_SHIFT
    }

    /// Whether it is one of the Normal tier.
    pub(crate) fn is_normal(self) -> bool {
        self.0 >> TIER_SHIFT == Self::of(NORMAL, 0).0 >> TIER_SHIFT
    }

    /// Whether it is one of a tier that Admin may hand on to.
    pub(crate) fn is_below_admin(self) -> bool {
        self < Self::of(ADMIN, 0)
    }

    /// The precedence of an entry under a key of these ports and this class.
    pub(crate) fn precedence(self, l4: L4, class: u32) -> u32 {
        let remote = match class {
            class::ANY => 0,
            _ if class < class::FIRST => 1,
            _ => 2,
        };
        self.0 | (l4.specificity() << SPECIFICITY_SHIFT) | remote
    }
}

#[cfg(test)]
mod tests {
    use axon_abi::class;

    use super::{Order, PLACES};
    use crate::ports::L4;

    #[test]
    fn tiers_then_places_then_ranks() {
        let orders = [
            Order::FAILSAFE,
            Order::admin(0),
            Order::admin(1),
            Order::admin(PLACES - 1),
            Order::normal(3),
            Order::normal(0),
            Order::baseline(0),
            Order::baseline(PLACES - 1),
        ];
        let port = L4 {
            protocol: 6,
            port: 80,
            bits: 16,
        };
        for (higher, lower) in orders.iter().zip(&orders[1..]) {
            let least = higher.precedence(L4::ANY, class::ANY);
            assert!(
                least > lower.precedence(port, class::FIRST),
                "{higher:?} {lower:?}"
            );
            assert_eq!(lower.is_admin(), orders[1..4].contains(lower));
            assert_eq!(lower.is_below_admin(), orders[4..].contains(lower));
            assert_eq!(lower.is_normal(), orders[4..6].contains(lower));
        }
        assert!(orders[7].precedence(L4::ANY, class::ANY) > 0);
    }
}
