//! Sets that mostly have one member.

use std::collections::BTreeSet;

/// A set; one member takes no memory beside it. Far sides and identities are
/// known to each other by hundreds of thousands of these.
#[derive(Clone, Debug, Default)]
pub(crate) enum Few<T> {
    #[default]
    None,
    One(T),
    /// Two and more; or fewer, where there once were.
    #[expect(clippy::box_collection, reason = "a pointer is a third of a set")]
    Many(Box<BTreeSet<T>>),
}

impl<T: Copy + Ord> Few<T> {
    pub(crate) fn insert(&mut self, member: T) {
        match self {
            Self::None => *self = Self::One(member),
            Self::One(one) if *one == member => {}
            Self::One(one) => *self = Self::Many(Box::new([*one, member].into())),
            Self::Many(many) => {
                many.insert(member);
            }
        }
    }

    pub(crate) fn remove(&mut self, member: T) {
        match self {
            Self::One(one) if *one == member => *self = Self::None,
            Self::None | Self::One(_) => {}
            Self::Many(many) => {
                many.remove(&member);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::None => true,
            Self::One(_) => false,
            Self::Many(many) => many.is_empty(),
        }
    }

    /// Every member, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = T> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(one) => (Some(*one), None),
            Self::Many(many) => (None, Some(many.iter().copied())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

impl<T: Copy + Ord> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(members: I) -> Self {
        let mut few = Self::default();
        for member in members {
            few.insert(member);
        }
        few
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::Few;

    proptest! {
        #[test]
        fn it_is_a_set(edits in prop::collection::vec((0..4_u8, any::<bool>()), 0..20)) {
            let (mut few, mut set) = (Few::default(), BTreeSet::new());
            for (member, comes) in edits {
                if comes {
                    few.insert(member);
                    set.insert(member);
                } else {
                    few.remove(member);
                    set.remove(&member);
                }
                prop_assert_eq!(few.iter().collect::<Vec<_>>(), Vec::from_iter(set.clone()));
                prop_assert_eq!(few.is_empty(), set.is_empty());
                let again: Few<u8> = few.iter().collect();
                prop_assert!(again.iter().eq(few.iter()));
            }
        }
    }
}
