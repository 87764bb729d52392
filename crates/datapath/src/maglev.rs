//! Which entry of a Maglev table a flow is: Jenkins' hash (lookup3) over the
//! client's address, both ports and the protocol. The frontend's address is not
//! in it: whatever address of a service a flow takes, it comes to one backend.

use axon_abi::{Be16, IpKey};

use crate::service::Ask;

/// Seeds of the hash over flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashSeeds {
    /// For IPv4.
    pub v4: u32,
    /// For IPv6.
    pub v6: u32,
}

impl HashSeeds {
    /// Those of Cilium's default seed, `JLfvgnHc2kaSUFaI`.
    pub const DEFAULT: Self = Self {
        v4: 0x71dc_da46,
        v6: 0x9250_5688,
    };
}

/// What every start value is made from.
const START: u32 = 0xdead_beef;

/// The hash of a flow.
#[inline(always)]
pub(crate) fn hash(ask: &Ask, seeds: &HashSeeds) -> u32 {
    let ports = (wire(ask.port) << 16) | wire(ask.source_port);
    let words = words(&ask.source);
    if ask.source.is_v4() {
        let seed = seeds.v4.wrapping_add(START).wrapping_add(3 << 2);
        let [.., address] = words;
        let state = [address, ports, u32::from(ask.protocol)];
        return last(state.map(|word| word.wrapping_add(seed)));
    }
    let [w1, w2, w3, w4] = words;
    let [a, b, c] = mix([w1, w2, w3]);
    let [a, b, c] = mix([
        a.wrapping_add(w4),
        b.wrapping_add(ports),
        c.wrapping_add(u32::from(ask.protocol)),
    ]);
    last([a.wrapping_add(seeds.v6), b, c])
}

/// A port as its bytes stand on the wire, read as a little-endian number.
#[inline(always)]
fn wire(port: Be16) -> u32 {
    u32::from(port.get().swap_bytes())
}

/// An address in words, likewise.
#[inline(always)]
fn words(addr: &IpKey) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr.0;
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
        u32::from_le_bytes([i, j, k, l]),
        u32::from_le_bytes([m, n, o, p]),
    ]
}

/// lookup3's reversible mixing of three words.
#[inline(always)]
fn mix([mut a, mut b, mut c]: [u32; 3]) -> [u32; 3] {
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    [a, b, c]
}

/// lookup3's last mixing, of which the third word is the hash.
#[inline(always)]
fn last([mut a, mut b, mut c]: [u32; 3]) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::{START, last, mix};

    /// The example that lookup3 was published with.
    #[test]
    fn the_mixing_is_lookup3s() {
        let text = *b"Four score and seven years ago\0\0";
        let mut state = [START + 30; 3];
        let mut words = text
            .chunks(4)
            .map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
        for round in 0..3 {
            for word in &mut state {
                *word = word.wrapping_add(words.next().unwrap_or(0));
            }
            if round < 2 {
                state = mix(state);
            }
        }
        assert_eq!(last(state), 0x1777_0551);
    }
}
