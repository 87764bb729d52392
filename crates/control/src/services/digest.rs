//! What a content is known by.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};

/// 128 bits of a content; the default is that of none.
///
/// Another version of the standard library may hash differently: then a content gets
/// a new number or generation, which costs a rewrite and changes no meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Digest(u128);

/// The bytes of a content: hashed together, they take less than each alone.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

impl Digest {
    /// That of a content.
    pub(super) fn of(content: &impl Hash) -> Self {
        let mut bytes = Bytes::default();
        content.hash(&mut bytes);
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u8(salt);
            hasher.write(&bytes.0);
            u128::from(hasher.finish())
        };
        Self(half(1) << 64 | half(2))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self == Self::default() {
            return serializer.serialize_str("");
        }
        let mut text = [0; 32];
        for (place, nibble) in text.iter_mut().rev().zip(0..) {
            let nibble = (self.0 >> (4 * nibble)) as u8 & 0xf;
            *place = match nibble {
                0..10 => b'0' + nibble,
                _ => b'a' + nibble - 10,
            };
        }
        serializer.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self::default());
        }
        let is_whole = text.len() == 32;
        let read = u128::from_str_radix(&text, 16).ok().filter(|_| is_whole);
        read.map(Self)
            .ok_or_else(|| D::Error::custom("a digest has 32 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::Digest;

    #[test]
    fn a_digest_is_read_as_it_was_written() {
        for digest in [Digest::default(), Digest::of(&[1, 2]), Digest(0xab << 96)] {
            let text = serde_json::to_string(&digest).expect("text");
            assert!(text.len() == 34 || digest == Digest::default(), "{text}");
            let read: Digest = serde_json::from_str(&text).expect("a digest");
            assert_eq!(read, digest, "{text}");
        }
        let text = serde_json::to_string(&Digest(0xab << 96)).expect("text");
        assert_eq!(text, "\"000000ab000000000000000000000000\"");
        for nonsense in ["\"ab\"", "7", "\"zz000000000000000000000000000000\""] {
            assert!(
                serde_json::from_str::<Digest>(nonsense).is_err(),
                "{nonsense}"
            );
        }
    }

    #[test]
    fn other_contents_have_other_digests() {
        assert_ne!(Digest::of(&[1_u32, 2]), Digest::of(&[2_u32, 1]));
        assert_ne!(Digest::of(&[[1_u32], [2]]), Digest::of(&[[1_u32, 2]]));
        assert_eq!(Digest::of(&"a"), Digest::of(&"a".to_owned()));
    }
}
