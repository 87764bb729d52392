//! Finds the place of a field in a text: reads the document again along the
//! field's path and lets the parser fail there, for its errors know the line.

use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Line and column, from 1, of the field at `path`; of the nearest field above
/// it if the text does not have it; zeros if the text cannot be read.
pub(super) fn locate(chunk: &str, first_line: usize, path: &str) -> (usize, usize) {
    let error = Step { path }
        .deserialize(serde_norway::Deserializer::from_str(chunk))
        .err();
    error
        .and_then(|error| error.location())
        .map_or((0, 0), |place| {
            (place.line() + first_line - 1, place.column())
        })
}

/// One step along the path; it always ends in an error.
#[derive(Clone, Copy)]
struct Step<'a> {
    path: &'a str,
}

/// The rest of a path below a key, if the path leads there.
fn below<'a>(path: &'a str, key: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(key)?;
    match rest.as_bytes().first() {
        None | Some(b'[') => Some(rest),
        Some(b'.') => rest.get(1..),
        Some(_) => None,
    }
}

/// The index at the start of a path, and the rest.
fn index(path: &str) -> Option<(usize, &str)> {
    let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
    Some((index.parse().ok()?, rest.strip_prefix('.').unwrap_or(rest)))
}

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = ();

    /// Whatever else comes is the place, or as near as the text gets to it:
    /// the type error that follows from here names it.
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the place")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        if !self.path.is_empty() {
            while let Some(below) = entries.next_key_seed(Key { path: self.path })? {
                match below {
                    Some(path) => return entries.next_value_seed(Step { path }),
                    None => {
                        entries.next_value::<IgnoredAny>()?;
                    }
                }
            }
        }
        Err(A::Error::custom("here"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if let Some((index, path)) = index(self.path) {
            for _ in 0..index {
                items.next_element::<IgnoredAny>()?;
            }
            items.next_element_seed(Step { path })?;
        }
        Err(A::Error::custom("here"))
    }
}

/// A key on the way; an error if the path ends with it.
struct Key<'a> {
    path: &'a str,
}

impl<'de, 'a> DeserializeSeed<'de> for Key<'a> {
    type Value = Option<&'a str>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Key<'a> {
    type Value = Option<&'a str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        match below(self.path, key) {
            Some("") => Err(E::custom("here")),
            rest => Ok(rest),
        }
    }
}
