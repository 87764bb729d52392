//! Who may become known: whomever no policy set that is asked about an endpoint
//! would then allow what the set that the endpoint shall have denies.
//!
//! ```text
//!  in force = wanted, whole     says of everybody what it shall
//!  in force = wanted, lacking   those whom it shall tell apart, and does not, are in doubt
//!  in force ≠ wanted            everybody is: it is not followed any more, or not yet
//! ```
//!
//! Of those in doubt is asked what the rows in the kernel say. Where they allow
//! less than they shall, the endpoint alone has the loss: what it lacks room for
//! fails closed, and all others go on.

use std::collections::BTreeSet;

use axon_abi::Identity;
use axon_model::{Newcomers, PolicyRows};
use axon_statedb::Snapshot;

use super::RowError;
use super::endpoints::InForce;
use super::policy::PolicySetTarget;

/// A set in force that is not as it shall be.
struct Doubtful<'a> {
    of: InForce,
    /// Whom it does not tell apart; everybody else if it is not the wanted one.
    untold: Option<&'a BTreeSet<Identity>>,
    newcomers: Newcomers,
}

/// The sets in force that are not as they shall be.
pub(super) struct Doubts<'a> {
    sets: &'a PolicySetTarget,
    doubtful: Vec<Doubtful<'a>>,
}

impl<'a> Doubts<'a> {
    pub(super) fn new(
        in_force: Vec<InForce>,
        sets: &'a PolicySetTarget,
        wanted: &Snapshot<u32, PolicyRows>,
    ) -> Self {
        let mut seen = BTreeSet::new();
        let mut doubtful = Vec::new();
        for of in in_force {
            // Without its own row a set allows nothing.
            let in_kernel = sets.in_kernel(of.set).filter(|_| sets.is_whole(of.set));
            let Some(in_kernel) = in_kernel.filter(|_| seen.insert((of.set, of.wanted))) else {
                continue;
            };
            let rows = wanted.get(&of.wanted);
            let untold = (of.set == of.wanted && rows.is_some()).then(|| sets.untold_of(of.set));
            if untold.is_some_and(BTreeSet::is_empty) {
                continue;
            }
            let rows = rows.map(|rows| &**rows);
            doubtful.push(Doubtful {
                of,
                untold,
                newcomers: Newcomers::new(in_kernel, rows),
            });
        }
        Self { sets, doubtful }
    }

    /// Whether somebody may become known.
    ///
    /// # Errors
    /// The endpoint whose set stands against it.
    pub(super) fn ask(&mut self, id: Identity) -> Result<(), RowError> {
        for doubtful in &mut self.doubtful {
            let of = doubtful.of;
            if doubtful.untold.is_some_and(|untold| !untold.contains(&id)) {
                continue;
            }
            // What waits to go says something else once it has gone.
            if self.sets.is_settling(of.set, id) || !doubtful.newcomers.may_come(id) {
                return Err(RowError::Withheld(of));
            }
        }
        Ok(())
    }
}
