//! Maglev tables: for each place the index of a slot of a list.
//!
//! Eisenbud et al., "Maglev", NSDI 2016, with Cilium's permutation (offset and
//! skip from the two halves of MurmurHash3 x64 128 under the seed's first word)
//! and order of turns (by the backends' texts), so that the table depends on
//! who the backends are and on nothing that a node gives out.

/// The sizes that a table may have: primes below powers of two.
pub const TABLE_SIZES: [u32; 10] = [
    251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071,
];
/// First word of Cilium's default seed, `JLfvgnHc2kaSUFaI`.
pub const SEED: u32 = 0x24b7_ef82;

/// The table of `size` places over backends with a text and a weight each: the
/// backends' indexes as they are given. Empty if there is no backend of weight.
pub fn table(backends: &[(String, u16)], size: u32, seed: u32) -> Vec<u16> {
    let weighed = backends.iter().enumerate();
    let weighed = weighed.filter(|(_, (_, weight))| *weight > 0);
    let mut turns: Vec<Turn> = weighed
        .map(|(index, (text, weight))| Turn::new(index, text, *weight, (size, seed)))
        .collect();
    turns.sort_by(|a, b| a.text.cmp(b.text));
    turns.truncate(usize::from(u16::MAX));
    let Some(heaviest) = turns.iter().map(|turn| turn.weight).max() else {
        return Vec::new();
    };
    let mut places: Vec<Option<u16>> = vec![None; size as usize];
    let mut left = size;
    while left > 0 {
        for turn in &mut turns {
            // Who weighs half as much as the heaviest has every second turn.
            turn.credit += u32::from(turn.weight);
            if turn.credit < u32::from(heaviest) {
                continue;
            }
            turn.credit -= u32::from(heaviest);
            // A skip that is no multiple of a prime leads to every place.
            loop {
                let at = turn.next as usize;
                turn.next =
                    ((u64::from(turn.next) + u64::from(turn.skip)) % u64::from(size)) as u32;
                if let Some(place) = places.get_mut(at).filter(|place| place.is_none()) {
                    *place = Some(turn.index);
                    break;
                }
            }
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    places.into_iter().flatten().collect()
}

/// A backend that takes its turns.
struct Turn<'a> {
    index: u16,
    text: &'a str,
    weight: u16,
    credit: u32,
    next: u32,
    skip: u32,
}

impl<'a> Turn<'a> {
    fn new(index: usize, text: &'a str, weight: u16, (size, seed): (u32, u32)) -> Self {
        let (h1, h2) = murmur3(text.as_bytes(), seed);
        Self {
            index: u16::try_from(index).unwrap_or(u16::MAX),
            text,
            weight,
            credit: 0,
            next: (h1 % u64::from(size)) as u32,
            skip: (h2 % u64::from(size - 1)) as u32 + 1,
        }
    }
}

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

/// MurmurHash3 x64 128.
fn murmur3(data: &[u8], seed: u32) -> (u64, u64) {
    let (mut h1, mut h2) = (u64::from(seed), u64::from(seed));
    let k1_of = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
    let k2_of = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
    let mut blocks = data.chunks_exact(16);
    for block in &mut blocks {
        let (low, high) = halves(block);
        h1 = (h1 ^ k1_of(low)).rotate_left(27).wrapping_add(h2);
        h1 = h1.wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 = (h2 ^ k2_of(high)).rotate_left(31).wrapping_add(h1);
        h2 = h2.wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let (low, high) = halves(blocks.remainder());
    h1 ^= k1_of(low) ^ data.len() as u64;
    h2 ^= k2_of(high) ^ data.len() as u64;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    (h1, h2) = (finished(h1), finished(h2));
    h1 = h1.wrapping_add(h2);
    (h1, h2.wrapping_add(h1))
}

/// Up to sixteen bytes as two numbers, zeros behind them.
fn halves(bytes: &[u8]) -> (u64, u64) {
    let mut whole = [0; 16];
    for (to, from) in whole.iter_mut().zip(bytes) {
        *to = *from;
    }
    let whole = u128::from_le_bytes(whole);
    (whole as u64, (whole >> 64) as u64)
}

fn finished(mut k: u64) -> u64 {
    k = (k ^ (k >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    k = (k ^ (k >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}

#[cfg(test)]
mod tests {
    use super::{SEED, TABLE_SIZES, murmur3, table};

    fn backends(count: usize) -> Vec<(String, u16)> {
        let text = |n| format!("[10.0.{}.{}:80/TCP,State:active]", n / 250, n % 250);
        (0..count).map(|n| (text(n), 1)).collect()
    }

    /// By an implementation of another's.
    #[test]
    fn the_hash_is_murmur3() {
        for (text, seed, expected) in [
            ("", 0, (0, 0)),
            ("hello", 0, (0xcbd8_a7b3_41bd_9b02, 0x5b1e_906a_48ae_1d19)),
            (
                "The quick brown fox jumps over the lazy dog",
                0,
                (0xe34b_bc7b_bc07_1b6c, 0x7a43_3ca9_c49a_9347),
            ),
        ] {
            assert_eq!(murmur3(text.as_bytes(), seed), expected, "{text}");
        }
    }

    /// Of the flows of those that stay, in parts of a thousand: what moves grows
    /// as places for each backend become few.
    #[test]
    fn one_of_a_hundred_goes_and_the_others_flows_stay() {
        let before = backends(100);
        for (size, bound) in [(16_381, 19), (65_521, 9), (131_071, 9)] {
            let all = table(&before, size, SEED);
            let mut most = 0;
            for gone in [0, 13, 37, 62, 99] {
                let mut after = before.clone();
                after.remove(gone);
                let left = table(&after, size, SEED);
                let name = |list: &[(String, u16)], n: u16| list[usize::from(n)].0.clone();
                let stays = all.iter().zip(&left);
                let stays = stays.filter(|(a, _)| usize::from(**a) != gone);
                let stays: Vec<_> = stays.collect();
                let moved = stays
                    .iter()
                    .filter(|(a, b)| name(&before, **a) != name(&after, **b))
                    .count();
                most = most.max(moved * 1000 / stays.len());
            }
            assert!(most <= bound, "{size}: {most} of 1000");
        }
    }

    #[test]
    fn all_nodes_agree_in_whatever_order_they_know_the_backends() {
        let one = backends(7);
        let mut other = one.clone();
        other.reverse();
        let names = |list: &[(String, u16)]| -> Vec<String> {
            let places = table(list, 1021, SEED);
            places
                .iter()
                .map(|n| list[usize::from(*n)].0.clone())
                .collect()
        };
        assert_eq!(names(&one), names(&other));
    }

    #[test]
    fn tables_are_full_and_even_and_weights_count() {
        for size in TABLE_SIZES {
            let places = table(&backends(10), size, SEED);
            assert_eq!(places.len() as u32, size);
            for n in 0..10 {
                let has = places.iter().filter(|at| **at == n).count() as u32;
                assert!(has.abs_diff(size / 10) <= 1, "{has} of {size}");
            }
        }
        let mut weighed = backends(3);
        (weighed[0].1, weighed[1].1, weighed[2].1) = (90, 10, 0);
        let places = table(&weighed, 16_381, SEED);
        let first = places.iter().filter(|at| **at == 0).count();
        assert!((14_700..14_800).contains(&first), "{first}");
        assert!(!places.contains(&2), "weight 0 gets nothing");
        assert!(table(&[], 251, SEED).is_empty());
    }
}
