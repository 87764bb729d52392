//! What is enforced where nothing else fits.

use std::collections::BTreeMap;

use axon_abi::{PolicySetFlags, PolicySetRow};

use crate::compile::Compiled;
use crate::rows::Shape;
use crate::version::Version;
use crate::{Numbers, PolicySet};

impl PolicySet {
    /// The set that allows nothing in either direction: one row.
    pub fn lockdown(numbers: &mut Numbers) -> Self {
        let compiled = Compiled {
            flags: PolicySetFlags::DEFAULT_DENY_INGRESS | PolicySetFlags::DEFAULT_DENY_EGRESS,
            ..Compiled::default()
        };
        let shape = Shape::new(compiled, BTreeMap::new());
        Version::build(&shape, 32, &BTreeMap::new(), numbers).set()
    }

    /// Whether a direction is enforced: what no entry allows is denied.
    pub fn is_enforced(row: &PolicySetRow, egress: bool) -> bool {
        let flag = if egress {
            PolicySetFlags::DEFAULT_DENY_EGRESS
        } else {
            PolicySetFlags::DEFAULT_DENY_INGRESS
        };
        row.flags & flag != 0
    }
}
