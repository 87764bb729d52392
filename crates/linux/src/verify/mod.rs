//! Loads every program and tells what the verifier said.

mod chain;
mod load;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use axon_abi::{Hook, MAPS, MapKind};
use aya::maps::Map;
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use aya_obj::Object;

use crate::datapath::{DatapathError, SocketHook, load_one, stub_name};
use crate::object::OBJECT;
use crate::probe::Features;
use crate::sys::ProgramKind;

/// Every program of the object, with what it is.
fn programs() -> BTreeMap<String, ProgramKind> {
    let hooks = Hook::ALL.into_iter();
    let at_devices = hooks.flat_map(|hook| [hook.program().to_owned(), stub_name(hook)]);
    let of_sockets = SocketHook::ALL.into_iter();
    at_devices
        .map(|name| (name, ProgramKind::CLASSIFIER))
        .chain(of_sockets.map(|hook| (hook.program().to_owned(), hook.kind())))
        .collect()
}

/// What the verifier said of one program.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// Instructions walked.
    pub instructions: u32,
    /// Bytes of stack of the deepest call chain, each frame rounded up to 32
    /// as kernels before 6.8 count; 512 is the kernel's limit.
    pub stack: u32,
    /// Bytes after translation.
    pub translated_bytes: u32,
    /// Bytes of machine code.
    pub jited_bytes: u32,
    /// Why the kernel refuses the program; empty if it does not.
    pub error: String,
}

/// The most a program may cost, by program.
pub type Budget = BTreeMap<String, ProgramBudget>;

/// The most one program may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramBudget {
    /// Instructions walked.
    pub instructions: u32,
    /// Bytes of stack.
    pub stack: u32,
}

/// Loads every program of the object with maps of the least size, pins
/// nothing, and tells what the verifier said.
///
/// # Errors
/// [`DatapathError::Object`] if not even the maps can be made.
pub fn verify() -> Result<BTreeMap<String, Verified>, DatapathError> {
    let constants = Features::probe().constants();
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    for spec in MAPS.iter().filter(|spec| spec.sizable) {
        let entries = if spec.kind == MapKind::RingBuf {
            4096
        } else {
            64
        };
        loader.map_max_entries(spec.name, entries);
    }
    for (name, value) in &constants {
        loader.override_global(name, value, false);
    }
    let mut ebpf = loader.load(OBJECT)?;
    let logged = logged(&ebpf);
    let mut found = BTreeMap::new();
    for name in programs().into_keys() {
        let mut verified = load(&mut ebpf, &name).unwrap_or_else(|error| Verified {
            error: in_full(&error),
            ..Verified::default()
        });
        if let Some(logged) = logged.get(&name).filter(|_| verified.error.is_empty()) {
            verified.stack = logged.stack;
            if verified.instructions == 0 {
                // Kernels before 5.16 tell it only in the log.
                verified.instructions = logged.instructions;
            }
        }
        found.insert(name, verified);
    }
    Ok(found)
}

fn load(ebpf: &mut Ebpf, name: &str) -> Result<Verified, ProgramError> {
    let program: &mut Program = ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?;
    load_one(program)?;
    let info = program.info()?;
    Ok(Verified {
        instructions: info.verified_instruction_count().unwrap_or(0),
        stack: 0,
        translated_bytes: info.size_translated().unwrap_or(0),
        jited_bytes: info.size_jitted(),
        error: String::new(),
    })
}

/// An error with its causes.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What the verifier's log tells of a program.
struct Logged {
    instructions: u32,
    stack: u32,
}

/// The log's facts by program; a program that does not load has none.
fn logged(ebpf: &Ebpf) -> BTreeMap<String, Logged> {
    let fds: BTreeMap<&str, RawFd> = ebpf
        .maps()
        .filter_map(|(name, map)| Some((name, fd(map)?)))
        .collect();
    let Some(object) = link(&fds) else {
        return BTreeMap::new();
    };
    let kinds = programs();
    object
        .programs
        .iter()
        .filter_map(|(name, program)| {
            let kind = *kinds.get(name)?;
            let function = object.functions.get(&program.function_key())?;
            let log = load::log_of(kind, &function.instructions, &object.license).ok()?;
            let frames = chain::frames(&log)?;
            let stack = chain::deepest(&function.instructions, &frames);
            let instructions = chain::processed(&log).unwrap_or(0);
            Some((
                name.clone(),
                Logged {
                    instructions,
                    stack,
                },
            ))
        })
        .collect()
}

/// The object with its calls and maps put in.
fn link(fds: &BTreeMap<&str, RawFd>) -> Option<Object> {
    let mut object = Object::parse(OBJECT).ok()?;
    let maps: Vec<_> = object.maps.drain().collect();
    let placed = maps
        .iter()
        .filter_map(|(name, map)| Some((name.as_str(), *fds.get(name.as_str())?, map)));
    let text: HashSet<usize> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    object.relocate_maps(placed, &text).ok()?;
    object.relocate_calls(&text).ok()?;
    Some(object)
}

fn fd(map: &Map) -> Option<RawFd> {
    let data = match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::ProgramArray(data)
        | Map::RingBuf(data) => data,
        _ => return None,
    };
    Some(data.fd().as_fd().as_raw_fd())
}

/// What is over budget, refused, or without a budget, one sentence each.
pub fn check(found: &BTreeMap<String, Verified>, budget: &Budget) -> Vec<String> {
    let names: BTreeSet<&String> = found.keys().chain(budget.keys()).collect();
    let mut problems = Vec::new();
    for name in names {
        match (found.get(name), budget.get(name)) {
            (Some(verified), _) if !verified.error.is_empty() => {
                problems.push(format!("{name} is refused: {}", verified.error));
            }
            (Some(verified), Some(most)) => {
                for (what, is, most) in [
                    ("instructions", verified.instructions, most.instructions),
                    ("bytes of stack", verified.stack, most.stack),
                ] {
                    if is > most {
                        problems.push(format!("{name} takes {is} {what}, its budget is {most}"));
                    }
                }
            }
            (Some(_), None) => problems.push(format!("{name} has no budget")),
            (None, _) => problems.push(format!("{name} has a budget but is no program")),
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::{Budget, ProgramBudget, Verified, check};

    #[test]
    fn keys_are_as_in_all_other_output() {
        let json = serde_json::to_value(Verified::default()).expect("JSON");
        let keys: Vec<&String> = json.as_object().expect("an object").keys().collect();
        let expected = [
            "error",
            "instructions",
            "jitedBytes",
            "stack",
            "translatedBytes",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn what_is_over_budget_is_named() {
        let budget: Budget = [
            ("fits", 10, 32),
            ("large", 10, 32),
            ("deep", 10, 32),
            ("refused", 10, 32),
            ("gone", 10, 32),
        ]
        .map(|(name, instructions, stack)| {
            (
                name.to_owned(),
                ProgramBudget {
                    instructions,
                    stack,
                },
            )
        })
        .into();
        let found = [
            ("fits", 10, 32, ""),
            ("large", 11, 32, ""),
            ("deep", 10, 64, ""),
            ("refused", 0, 0, "no"),
            ("new", 1, 1, ""),
        ]
        .map(|(name, instructions, stack, error)| {
            let error = error.to_owned();
            (
                name.to_owned(),
                Verified {
                    instructions,
                    stack,
                    error,
                    ..Verified::default()
                },
            )
        })
        .into();
        assert_eq!(
            check(&found, &budget),
            [
                "deep takes 64 bytes of stack, its budget is 32",
                "gone has a budget but is no program",
                "large takes 11 instructions, its budget is 10",
                "new has no budget",
                "refused is refused: no",
            ]
        );
    }
}
