//! The maps without the programs.

use super::pins::{self, Pins};
use super::{Adoption, DatapathConfig, DatapathError, path_error};
use crate::maps::Maps;

/// Adopts or makes the maps as [`Datapath::open`](super::Datapath::open) does, and loads no
/// program: for who reads and writes rows that no packet meets. The kernel takes seconds to
/// verify the programs.
///
/// # Errors
/// [`DatapathError`].
pub fn maps_alone(config: &DatapathConfig) -> Result<Maps, DatapathError> {
    let root = config.bpf_root.as_path();
    pins::check_sizes(config)?;
    crate::mount::ensure_bpffs(root).map_err(path_error("mounting a bpffs at", root))?;
    let mut adoption = Adoption::default();
    let mut pins = Pins::open(config, &mut adoption)?;
    pins.carry_over(&mut adoption);
    pins.settle(&mut adoption)?;
    Ok(pins.maps()?)
}
