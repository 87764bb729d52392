//! Names of flows, by which one can be asked for again.

use std::fmt;
use std::str::FromStr;

use axon_abi::EventRecord;
use serde::{Deserialize, Serialize};
use zerocopy::IntoBytes as _;

/// The name of a flow: Hubble's `uuid`. It follows from the event and its node,
/// so that whoever has seen the event knows it by the same name (RFC 9562,
/// version 8). Zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uuid(u128);

/// Digits before each dash but the last.
const GROUPS: [usize; 4] = [8, 12, 16, 20];

impl Uuid {
    /// The name of an event of a node.
    pub fn new(record: &EventRecord, node: &str) -> Self {
        // FNV-1a of 128 bits: names are to differ, not to keep a secret.
        const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        const PRIME: u128 = 0x0100_0000_0000_0000_0000_013b;
        let bytes = record.as_bytes().iter().chain(node.as_bytes());
        let hash = bytes.fold(OFFSET, |hash, byte| {
            (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
        });
        let (version, variant) = (8_u128 << 76, 2_u128 << 62);
        Self(hash & !(0xf << 76) & !(3 << 62) | version | variant)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, digit) in format!("{:032x}", self.0).chars().enumerate() {
            if GROUPS.contains(&n) {
                f.write_str("-")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// A text that names no flow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no uuid; expected 32 hexadecimal digits as 8-4-4-4-12")]
pub struct UuidError {
    text: String,
}

impl FromStr for Uuid {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Self, UuidError> {
        let refused = || UuidError {
            text: text.chars().take(80).collect(),
        };
        let parts: Vec<&str> = text.split('-').collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        let digits = parts.concat();
        // A sign would be read as part of the number.
        let plain = digits.bytes().all(|c| c.is_ascii_hexdigit());
        if lengths != [8, 4, 4, 4, 12] || !plain {
            return Err(refused());
        }
        u128::from_str_radix(&digits, 16)
            .map(Self)
            .map_err(|_| refused())
    }
}

impl TryFrom<String> for Uuid {
    type Error = UuidError;

    fn try_from(text: String) -> Result<Self, UuidError> {
        text.parse()
    }
}

impl From<Uuid> for String {
    fn from(uuid: Uuid) -> Self {
        uuid.to_string()
    }
}

#[cfg(test)]
mod tests {
    use axon_abi::EventRecord;

    use super::Uuid;

    #[test]
    fn names_differ_and_are_read_back() {
        let record = EventRecord::default();
        let later = EventRecord {
            time_ns: 1,
            ..record
        };
        let names = [
            Uuid::new(&record, "a"),
            Uuid::new(&record, "b"),
            Uuid::new(&later, "a"),
        ];
        assert_eq!(names[0], Uuid::new(&record, "a"));
        assert!(names[0] != names[1] && names[0] != names[2]);
        for name in names {
            let text = name.to_string();
            assert_eq!(text.parse(), Ok(name));
            assert_eq!(text.as_bytes()[14], b'8', "the version: {text}");
            assert!(
                b"89ab".contains(&text.as_bytes()[19]),
                "the variant: {text}"
            );
        }
        for text in [
            "",
            "x",
            "12345678-1234-1234-1234-1234567890gg",
            "+2345678-1234-1234-1234-123456789012",
            "1234567-81234-1234-1234-123456789012",
        ] {
            assert!(text.parse::<Uuid>().is_err(), "{text}");
        }
    }
}
