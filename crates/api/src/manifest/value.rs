//! YAML text to a tree, within bounds.
//!
//! The tree is JSON's: what Kubernetes stores. Keys that are numbers or
//! booleans become text, as Kubernetes' own reader makes them.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, EnumAccess, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::ManifestError;

/// A text may have this many bytes.
pub const TEXT_BYTES_MAX: usize = 4 << 20;
/// Nodes of all trees of a text, aliases expanded.
const NODES_MAX: usize = 1_000_000;
/// Bytes of all scalars of a text, aliases expanded.
const SCALAR_BYTES_MAX: usize = 16 << 20;
/// Maps and lists within each other.
const DEPTH_MAX: usize = 64;
/// Flow collections within each other before the parser is let near them: its
/// time grows with the square.
const FLOW_DEPTH_MAX: usize = 1000;
/// Maps whose values are text: there `null` is an error, not absence, because
/// a selector that loses a label selects more.
const TEXT_MAPS: [&str; 4] = ["labels", "matchLabels", "annotations", "selector"];

/// What is left of a text's bounds, and the error that ended the reading.
#[derive(Default)]
pub(super) struct Bounds {
    nodes: Cell<usize>,
    scalar_bytes: Cell<usize>,
    path: RefCell<Vec<String>>,
    error: RefCell<Option<(String, String)>>,
}

impl Bounds {
    fn node(&self) -> Result<(), String> {
        self.nodes.set(self.nodes.get() + 1);
        if self.nodes.get() > NODES_MAX {
            return Err(format!(
                "holds more than {NODES_MAX} values once its aliases are expanded"
            ));
        }
        Ok(())
    }

    fn scalar(&self, text: &str) -> Result<(), String> {
        self.scalar_bytes.set(self.scalar_bytes.get() + text.len());
        if self.scalar_bytes.get() > SCALAR_BYTES_MAX {
            return Err(format!(
                "holds more than {SCALAR_BYTES_MAX} bytes of text once its aliases are expanded"
            ));
        }
        Ok(())
    }

    /// Keeps the error with its path: serde passes on a text only.
    fn fail<E: serde::de::Error>(&self, message: impl Into<String>) -> E {
        let message = message.into();
        let error = E::custom(&message);
        self.error
            .borrow_mut()
            .get_or_insert_with(|| (join(&self.path.borrow()), message));
        error
    }
}

fn join(path: &[String]) -> String {
    path.concat().trim_start_matches('.').to_owned()
}

/// Reads one document; nothing if it is empty. `first_line` is the line of the
/// text on which `chunk` starts, from 1.
pub(super) fn read(
    chunk: &str,
    first_line: usize,
    bounds: &Bounds,
) -> Result<Option<Value>, ManifestError> {
    if let Some(line) = super::split::too_deep(chunk, FLOW_DEPTH_MAX) {
        return Err(ManifestError {
            line: first_line + line - 1,
            ..ManifestError::of_text(format!(
                "is deeper than {DEPTH_MAX} maps and lists within each other"
            ))
        });
    }
    let seed = Node {
        bounds,
        depth: 0,
        text: false,
    };
    match seed.deserialize(serde_norway::Deserializer::from_str(chunk)) {
        Ok(Value::Null) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(error) => Err(explain(&error, chunk, first_line, bounds)),
    }
}

/// The error as the whole text's: the parser speaks of lines of the chunk.
fn explain(
    error: &serde_norway::Error,
    chunk: &str,
    first_line: usize,
    bounds: &Bounds,
) -> ManifestError {
    if let Some((path, message)) = bounds.error.take() {
        return located(error, first_line, path, message);
    }
    // Errors of syntax name further lines in their text: let the parser count
    // from the first line of the whole text.
    let padded = pad(chunk, first_line);
    let again = IgnoredAny::deserialize(serde_norway::Deserializer::from_str(&padded));
    match again {
        Err(error) => located(&error, 1, String::new(), String::new()),
        Ok(_) => located(error, first_line, String::new(), String::new()),
    }
}

fn located(
    error: &serde_norway::Error,
    first_line: usize,
    path: String,
    message: String,
) -> ManifestError {
    let place = error.location();
    let message = if message.is_empty() {
        let text = error.to_string();
        let here = place.as_ref().map_or(String::new(), |place| {
            format!(" at line {} column {}", place.line(), place.column())
        });
        match text.strip_suffix(&here).unwrap_or(&text) {
            "repetition limit exceeded" => {
                "its aliases expand to far more than is written".to_owned()
            }
            other => format!("no YAML: {other}"),
        }
    } else {
        message
    };
    ManifestError {
        line: place.as_ref().map_or(0, |p| p.line() + first_line - 1),
        column: place.as_ref().map_or(0, serde_norway::Location::column),
        path,
        message,
    }
}

/// The chunk on its own lines of the text.
pub(super) fn pad(chunk: &str, first_line: usize) -> String {
    let mut padded = "\n".repeat(first_line.saturating_sub(1));
    padded.push_str(chunk);
    padded
}

/// Reads one value of the tree.
#[derive(Clone, Copy)]
struct Node<'a> {
    bounds: &'a Bounds,
    depth: usize,
    /// Whether a map's values are text.
    text: bool,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.bounds
            .node()
            .map_err(|message| self.bounds.fail::<D::Error>(message))?;
        if self.depth > DEPTH_MAX {
            return Err(self.bounds.fail(format!(
                "is deeper than {DEPTH_MAX} maps and lists within each other"
            )));
        }
        deserializer.deserialize_any(self)
    }
}

impl Node<'_> {
    fn below(self, text: bool) -> Self {
        Self {
            depth: self.depth + 1,
            text,
            ..self
        }
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| self.bounds.fail(format!("{value} is no number of JSON")))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.bounds
            .scalar(value)
            .map_err(|message| self.bounds.fail::<E>(message))?;
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let mut path = self.bounds.path.borrow_mut();
            path.push(format!("[{}]", list.len()));
            drop(path);
            let Some(item) = items.next_element_seed(self.below(false))? else {
                break;
            };
            self.bounds.path.borrow_mut().pop();
            list.push(item);
        }
        self.bounds.path.borrow_mut().pop();
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        loop {
            let key = entries.next_key_seed(Key {
                bounds: self.bounds,
                map: &map,
            })?;
            let Some(key) = key else {
                break;
            };
            let text = TEXT_MAPS.contains(&key.as_str());
            let value = entries.next_value_seed(self.below(text))?;
            self.bounds.path.borrow_mut().pop();
            map.insert(key, value);
        }
        merge(&mut map).map_err(|message| self.bounds.fail::<A::Error>(message))?;
        if !self.text {
            map.retain(|_, value| !value.is_null());
        }
        Ok(Value::Object(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(self.bounds.fail("a tag (!name) is not expected here"))
    }
}

/// Reads a key of a map, and refuses it there if the map has it: so the error
/// knows the line.
struct Key<'a> {
    bounds: &'a Bounds,
    map: &'a Map<String, Value>,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        self.bounds
            .node()
            .map_err(|message| self.bounds.fail::<D::Error>(message))?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<String, E> {
        self.bounds
            .scalar(key)
            .map_err(|message| self.bounds.fail::<E>(message))?;
        self.bounds.path.borrow_mut().push(format!(".{key}"));
        if self.map.contains_key(key) {
            let message = format!("the key {key:?} is there twice");
            return Err(self.bounds.fail(message));
        }
        Ok(key.to_owned())
    }

    fn visit_bool<E: serde::de::Error>(self, key: bool) -> Result<String, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, key: i64) -> Result<String, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, key: u64) -> Result<String, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, key: f64) -> Result<String, E> {
        self.visit_str(&key.to_string())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<String, E> {
        Err(self.bounds.fail("a key is empty; expected text"))
    }
}

/// Carries out YAML's merge key: what the map does not say itself comes from
/// the maps under `<<`, the first that says it.
fn merge(map: &mut Map<String, Value>) -> Result<(), String> {
    let sources = match map.remove("<<") {
        None => return Ok(()),
        Some(Value::Array(sources)) => sources,
        Some(source) => vec![source],
    };
    for source in sources {
        let Value::Object(source) = source else {
            return Err(format!("<<: {source} is no map to merge"));
        };
        for (key, value) in source {
            map.entry(key).or_insert(value);
        }
    }
    Ok(())
}
