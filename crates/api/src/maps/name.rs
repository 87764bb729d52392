//! Names of what can be listed.

use std::fmt;
use std::str::FromStr;

/// What can be listed; several kernel maps may stand behind one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MapName {
    /// [`super::EndpointMapRow`].
    Endpoint,
    /// [`super::IpcacheMapRow`].
    Ipcache,
    /// [`super::PolicyMapSet`].
    Policy,
    /// [`super::CtMapRow`].
    Ct,
    /// [`super::NatMapRow`].
    Nat,
    /// [`super::MetricsMapRow`].
    Metrics,
    /// One [`super::ConfigMapRow`].
    Config,
    /// [`super::LbRow`].
    Lb,
    /// [`super::LbBackendRow`].
    LbBackend,
    /// [`super::LbMaglevRow`].
    LbMaglev,
    /// [`super::LbAffinityRow`].
    LbAffinity,
    /// [`super::LbSourceRangeRow`].
    LbSourceRange,
    /// [`super::LbRevnatRow`].
    LbRevnat,
    /// [`super::LbSnatRow`].
    LbSnat,
    /// [`super::PressureRow`].
    Pressure,
}

/// A name that no map has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "map {name:?} is not known; expected endpoint, ipcache, policy, ct, nat, metrics, config, lb, \
     lb-backend, lb-maglev, lb-affinity, lb-source-range, lb-revnat, lb-snat or pressure"
)]
pub struct MapNameError {
    name: String,
}

impl MapName {
    /// Every name.
    pub const ALL: [Self; 15] = [
        Self::Endpoint,
        Self::Ipcache,
        Self::Policy,
        Self::Ct,
        Self::Nat,
        Self::Metrics,
        Self::Config,
        Self::Lb,
        Self::LbBackend,
        Self::LbMaglev,
        Self::LbAffinity,
        Self::LbSourceRange,
        Self::LbRevnat,
        Self::LbSnat,
        Self::Pressure,
    ];

    /// The name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Ipcache => "ipcache",
            Self::Policy => "policy",
            Self::Ct => "ct",
            Self::Nat => "nat",
            Self::Metrics => "metrics",
            Self::Config => "config",
            Self::Lb => "lb",
            Self::LbBackend => "lb-backend",
            Self::LbMaglev => "lb-maglev",
            Self::LbAffinity => "lb-affinity",
            Self::LbSourceRange => "lb-source-range",
            Self::LbRevnat => "lb-revnat",
            Self::LbSnat => "lb-snat",
            Self::Pressure => "pressure",
        }
    }
}

impl fmt::Display for MapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for MapName {
    type Err = MapNameError;

    fn from_str(name: &str) -> Result<Self, MapNameError> {
        Self::ALL
            .into_iter()
            .find(|map| map.as_str() == name)
            .ok_or_else(|| MapNameError {
                name: name.to_owned(),
            })
    }
}
