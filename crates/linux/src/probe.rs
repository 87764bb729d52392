//! What the running kernel can do.
//!
//! What can be asked is asked; flags of helpers cannot, and go by the
//! kernel's version.

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported};

/// A feature with the least kernel that has it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// The least kernel that has it.
    pub since: &'static str,
    /// Whether the datapath cannot do without it.
    pub required: bool,
    /// Whether the running kernel has it.
    pub available: bool,
}

/// Every feature.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Features {
    /// The running kernel, as `uname -r` says it.
    pub kernel: String,
    /// The features, in a fixed order.
    pub list: Vec<Feature>,
}

impl Features {
    /// Links of several programs to a device.
    pub const TCX: &'static str = "tcx";
    /// A clock that costs a tenth of the exact one.
    pub const COARSE_CLOCK: &'static str = "coarse-clock";
    /// IPv6 checksums of hardware that sums whole packets stay right.
    pub const CHECKSUM_IPV6: &'static str = "checksum-ipv6";

    /// Asks the running kernel.
    pub fn probe() -> Self {
        let kernel = nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        let version = parse_version(&kernel);
        let helper = |helper| {
            // What cannot be asked is taken to be there: loading tells.
            is_helper_supported(ProgramType::SchedClassifier, helper).unwrap_or(true)
        };
        let feature = |name, since: &'static str, required, available| Feature {
            name,
            since,
            required,
            available,
        };
        let at_least = |since: &str| version >= parse_version(since);
        let list = vec![
            feature(
                "ring-buffer",
                "5.8",
                true,
                is_map_supported(MapType::RingBuf).unwrap_or(true),
            ),
            feature(
                "redirect-peer",
                "5.10",
                true,
                helper(BpfHelper::BPF_FUNC_redirect_peer),
            ),
            feature(
                "redirect-neigh",
                "5.10",
                true,
                helper(BpfHelper::BPF_FUNC_redirect_neigh),
            ),
            feature(
                "fib-lookup",
                "4.18",
                true,
                helper(BpfHelper::BPF_FUNC_fib_lookup),
            ),
            feature(
                Self::COARSE_CLOCK,
                "5.11",
                false,
                helper(BpfHelper::BPF_FUNC_ktime_get_coarse_ns),
            ),
            feature(Self::TCX, "6.6", false, crate::sys::has_tcx()),
            feature("map-batches", "5.6", false, at_least("5.6")),
            feature("big-tcp-ipv6", "5.19", false, at_least("5.19")),
            feature("big-tcp-ipv4", "6.3", false, at_least("6.3")),
            feature(Self::CHECKSUM_IPV6, "6.16", false, at_least("6.16")),
        ];
        Self { kernel, list }
    }

    /// Whether a feature is there.
    pub fn has(&self, name: &str) -> bool {
        self.list.iter().any(|f| f.name == name && f.available)
    }

    /// Required features that are missing, each with the least kernel.
    pub fn missing(&self) -> impl Iterator<Item = &Feature> {
        self.list.iter().filter(|f| f.required && !f.available)
    }

    /// The object's load-time constants by name.
    pub(crate) fn constants(&self) -> [(&'static str, u32); 2] {
        [
            (
                "FEATURE_COARSE_CLOCK",
                u32::from(self.has(Self::COARSE_CLOCK)),
            ),
            (
                "FEATURE_CSUM_IPV6",
                u32::from(self.has(Self::CHECKSUM_IPV6)),
            ),
        ]
    }
}

/// Major and minor number of a release such as `6.1.0-40-amd64`.
fn parse_version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The second of the monotonic clock, as the programs write it into entries.
pub fn monotonic_s() -> u32 {
    use nix::time::{ClockId, clock_gettime};
    // The clock exists on every kernel; 0 makes nothing expire.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .ok()
        .and_then(|time| u32::try_from(time.tv_sec()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn versions_of_distributions_are_read() {
        for (release, version) in [
            ("6.18.44", (6, 18)),
            ("6.1.0-40-amd64", (6, 1)),
            ("5.10.0-rc1+", (5, 10)),
            ("6.16-rc3", (6, 16)),
            ("", (0, 0)),
        ] {
            assert_eq!(parse_version(release), version, "{release}");
        }
    }
}
