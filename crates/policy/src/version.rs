//! A set version: its number, its classes, and who is in them.
//!
//! The number stands for what the set says ([`Shape`]) and for how its classes
//! are numbered, not for who exists. The number of a class follows from its
//! vector alone, so that identities come and go without another class, or the
//! same one after a restart, meaning something else: a row of the class table
//! can be added, changed and removed while endpoints use the version. Two
//! vectors that nobody has at the same time may have one number: the rows of one
//! are to be gone before the other's first identity is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axon_abi::{ClassKey, ClassRow, Identity, class};
use axon_model::PolicyRows;

use crate::rows::{Shape, Vector};
use crate::{Numbers, PolicySet};

/// A class that somebody is in.
#[derive(Clone, Copy, Debug)]
struct Class {
    number: u32,
    members: usize,
}

/// Vectors whose number another one has: hardly ever any, as there are 2^32
/// numbers. It follows from which vectors there are.
#[derive(Clone, Debug, Default)]
struct Detours {
    /// The least salt, not 0, under which each has a number of its own.
    salts: BTreeMap<Vector, u32>,
    /// Numbers that were found taken.
    taken: BTreeSet<u32>,
}

impl Detours {
    fn find(vectors: &BTreeSet<&Vector>, class_bits: u32) -> Self {
        let mut detours = Self::default();
        let mut numbers = BTreeSet::new();
        let mut late = Vec::new();
        for vector in vectors {
            let number = class_number(0, vector, class_bits);
            if !numbers.insert(number) {
                detours.taken.insert(number);
                late.push(*vector);
            }
        }
        for vector in late {
            let is_free = |salt: &u32| {
                let number = class_number(*salt, vector, class_bits);
                let free = numbers.insert(number);
                if !free {
                    detours.taken.insert(number);
                }
                free
            };
            let salt = (1..=u32::MAX).find(is_free).unwrap_or_default();
            detours.salts.insert(vector.clone(), salt);
        }
        detours
    }

    fn number_of(&self, vector: &Vector, class_bits: u32) -> u32 {
        let salt = self.salts.get(vector).copied().unwrap_or_default();
        class_number(salt, vector, class_bits)
    }

    /// Whether they are others without this vector, which has this number.
    fn rest_on(&self, vector: &Vector, number: u32) -> bool {
        self.taken.contains(&number) || self.salts.contains_key(vector)
    }
}

/// The version of a set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Version {
    number: u32,
    rows: PolicyRows,
    rules: Arc<[u32]>,
    detours: Detours,
    class_bits: u32,
    classes: BTreeMap<Vector, Class>,
    vectors: BTreeMap<u32, Vector>,
}

impl Version {
    /// Builds every row. `special` are the identities that are selected
    /// differently from their scope's stand-in; those that are selected alike
    /// share a class.
    pub(crate) fn build(
        shape: &Shape,
        class_bits: u32,
        special: &BTreeMap<Identity, Vector>,
        numbers: &mut Numbers,
    ) -> Self {
        let vectors: BTreeSet<&Vector> = special.values().collect();
        let detours = Detours::find(&vectors, class_bits);
        let number = numbers.sets.number_of(&(shape, class_bits, &detours.salts));
        let mut version = Self {
            number,
            rules: shape.compiled.rules.as_slice().into(),
            detours,
            class_bits,
            ..Self::default()
        };
        let mut entries = shape.fixed_entries(number);
        for (id, vector) in special {
            let class = version.classes.entry(vector.clone()).or_insert_with(|| {
                let class = version.detours.number_of(vector, class_bits);
                entries.extend(shape.entries_of(number, class, vector));
                version.vectors.insert(class, vector.clone());
                Class {
                    number: class,
                    members: 0,
                }
            });
            class.members += 1;
            let row = ClassRow {
                class: class.number,
            };
            version.rows.classes.insert(version.key(*id), row);
        }
        version.rows.set = shape.set_row();
        version.rows.entries = entries.into_iter().collect();
        version
    }

    /// Puts an identity into the class of its vector, or into none (`None`:
    /// it is selected like its scope's stand-in, or not known). Says whether
    /// that changes a row.
    pub(crate) fn tell(
        &mut self,
        shape: &Shape,
        id: Identity,
        vector: Option<Vector>,
        numbers: &mut Numbers,
    ) -> bool {
        let old = self.vector_of(id).cloned();
        if old == vector {
            return false;
        }
        let stays = old.as_ref().is_none_or(|old| self.may_leave(old));
        let fits = vector.as_ref().is_none_or(|v| self.has_number_for(v));
        if !stays || !fits {
            let mut special = self.special();
            special.remove(&id);
            special.extend(vector.map(|vector| (id, vector)));
            *self = Self::build(shape, self.class_bits, &special, numbers);
            return true;
        }
        if let Some(vector) = vector {
            let class = self.enter(shape, vector);
            let row = ClassRow { class };
            self.rows.classes.insert(self.key(id), row);
        } else {
            self.rows.classes.remove(&self.key(id));
        }
        if let Some(old) = old {
            self.leave(shape, &old);
        }
        true
    }

    /// The version as it is now.
    pub(crate) fn set(&self) -> PolicySet {
        PolicySet {
            number: self.number,
            rows: self.rows.clone(),
            rules: Arc::clone(&self.rules),
        }
    }

    fn key(&self, identity: Identity) -> ClassKey {
        ClassKey {
            set: self.number,
            identity,
        }
    }

    fn vector_of(&self, id: Identity) -> Option<&Vector> {
        let row = self.rows.classes.get(&self.key(id))?;
        self.vectors.get(&row.class)
    }

    fn special(&self) -> BTreeMap<Identity, Vector> {
        let vector = |row: &ClassRow| self.vectors.get(&row.class).cloned();
        self.rows
            .classes
            .iter()
            .filter_map(|(key, row)| Some((key.identity, vector(row)?)))
            .collect()
    }

    fn has_number_for(&self, vector: &Vector) -> bool {
        let number = class_number(0, vector, self.class_bits);
        self.classes.contains_key(vector) || !self.vectors.contains_key(&number)
    }

    /// Whether the other vectors keep their numbers when somebody leaves this one.
    fn may_leave(&self, vector: &Vector) -> bool {
        let class = self.classes.get(vector);
        class.is_none_or(|class| class.members > 1 || !self.detours.rest_on(vector, class.number))
    }

    fn enter(&mut self, shape: &Shape, vector: Vector) -> u32 {
        if let Some(class) = self.classes.get_mut(&vector) {
            class.members += 1;
            return class.number;
        }
        let number = class_number(0, &vector, self.class_bits);
        for (key, entry) in shape.entries_of(self.number, number, &vector) {
            self.rows.entries.insert(key, entry);
        }
        self.vectors.insert(number, vector.clone());
        self.classes.insert(vector, Class { number, members: 1 });
        number
    }

    fn leave(&mut self, shape: &Shape, vector: &Vector) {
        let Some(class) = self.classes.get_mut(vector) else {
            return;
        };
        class.members -= 1;
        if class.members > 0 {
            return;
        }
        let number = class.number;
        for key in shape.entries_of(self.number, number, vector).keys() {
            self.rows.entries.remove(key);
        }
        self.vectors.remove(&number);
        self.classes.remove(vector);
    }
}

/// The number of a vector's class: FNV-1a, which no version of a library
/// changes, folded to the bits there are.
fn class_number(salt: u32, vector: &[usize], class_bits: u32) -> u32 {
    let indices = vector.iter().map(|n| *n as u64);
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for word in std::iter::once(u64::from(salt)).chain(indices) {
        for byte in word.to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    let room = (1_u64 << class_bits.clamp(5, 32)) - u64::from(class::FIRST);
    // Below 2^32, by the remainder.
    class::FIRST + ((hash ^ hash >> 32) % room) as u32
}

#[cfg(test)]
mod tests {
    use super::class_number;

    /// Class numbers live in pinned rows under numbers that outlive an agent.
    #[test]
    fn numbers_of_classes_never_change() {
        for (salt, vector, expected) in [
            (0, vec![], 0x0d5d_45d7),
            (0, vec![0], 0x6ae1_780c),
            (1, vec![0], 0x06e8_e535),
            (0, vec![1, 7, 300], 0x9498_b061),
        ] {
            assert_eq!(
                class_number(salt, &vector, 32),
                expected,
                "{salt} {vector:?}"
            );
        }
    }
}
