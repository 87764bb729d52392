//! Programs of others on the devices that ours are on.

use std::collections::BTreeSet;
use std::io;
use std::time::Instant;

use nix::libc;

use super::stubs::{StubPlace, device_name, side};
use super::{clsact, stubs};
use crate::link::LinkError;
use crate::netlink::Netlink;
use crate::sys::{TcxHook, name_of_program, tcx_programs};

/// Whether a program of another sees a packet before ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It may drop what ours would let through, and let through what ours would
    /// drop.
    Ahead,
    /// It sees only what ours hands to the node's stack.
    Behind,
}

/// How a program hangs on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hanging {
    /// By tcx; `None` where no link holds it.
    Tcx {
        /// The id of its link.
        link: Option<u32>,
    },
    /// As a filter of a clsact qdisc.
    Clsact {
        /// The lower, the earlier.
        priority: u32,
    },
}

/// A program of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OtherProgram {
    /// Where it stands.
    pub standing: Standing,
    /// Its name; of a filter that is no program, its kind.
    pub name: String,
    /// Its id, if it is a program.
    pub id: Option<u32>,
    /// The device.
    pub device: String,
    /// Which side of the device.
    pub ingress: bool,
    /// How it hangs there.
    pub hanging: Hanging,
}

/// What others have on the devices of these stubs; a device that goes meanwhile
/// has nothing. Looks at none that its turn has not come to by `until`, which is
/// an error.
///
/// # Errors
/// [`LinkError::Netlink`].
pub fn others(places: &[StubPlace], until: Instant) -> Result<Vec<OtherProgram>, LinkError> {
    let mut netlink = Netlink::open()?;
    let with_clsact: BTreeSet<u32> = clsact::devices(&mut netlink)?.into_iter().collect();
    let mut found = Vec::new();
    for place in places {
        if Instant::now() >= until {
            return Err(LinkError::Netlink {
                what: "listing programs of others".to_owned(),
                source: io::ErrorKind::TimedOut.into(),
            });
        }
        let mut hook = At::new(place);
        hook.tcx()?;
        if with_clsact.contains(&place.ifindex) {
            hook.clsact(&mut netlink)?;
        }
        found.extend(hook.found);
    }
    // A filter of u32 is listed with each of its tables.
    found.dedup();
    Ok(found)
}

/// One hook, program by program in the order in which they run.
struct At<'a> {
    place: &'a StubPlace,
    device: String,
    standing: Standing,
    found: Vec<OtherProgram>,
}

impl<'a> At<'a> {
    fn new(place: &'a StubPlace) -> Self {
        Self {
            place,
            device: device_name(place.ifindex),
            standing: Standing::Ahead,
            found: Vec::new(),
        }
    }

    fn push(&mut self, name: String, id: Option<u32>, hanging: Hanging) {
        self.found.push(OtherProgram {
            standing: self.standing,
            name,
            id,
            device: self.device.clone(),
            ingress: side(self.place.hook) == TcxHook::Ingress,
            hanging,
        });
    }

    /// A kernel without tcx and a device that is gone have none.
    fn tcx(&mut self) -> Result<(), LinkError> {
        let programs = match tcx_programs(self.place.ifindex, side(self.place.hook)) {
            Ok(programs) => programs,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENODEV)) => {
                Vec::new()
            }
            Err(source) => {
                return Err(LinkError::Netlink {
                    what: "listing programs of others by tcx".to_owned(),
                    source,
                });
            }
        };
        for program in programs {
            if Some(program.link) == self.place.link {
                self.standing = Standing::Behind;
                continue;
            }
            let link = Some(program.link).filter(|link| *link != 0);
            // It may have gone since.
            let name = name_of_program(program.id).unwrap_or_default();
            self.push(name, Some(program.id), Hanging::Tcx { link });
        }
        Ok(())
    }

    /// Filters come after tcx.
    fn clsact(&mut self, netlink: &mut Netlink) -> Result<(), LinkError> {
        let filters = match clsact::at(netlink, self.place.ifindex, self.place.hook) {
            Err(_) if !stubs::exists(self.place.ifindex) => Vec::new(),
            found => found?,
        };
        for filter in filters {
            if filter.is_ours {
                self.standing = Standing::Behind;
                continue;
            }
            let priority = filter.priority;
            self.push(filter.name, filter.program, Hanging::Clsact { priority });
        }
        Ok(())
    }
}
