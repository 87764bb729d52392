//! What a hook can decide.

use axon_abi::DropReason;

/// What becomes of a packet that is not dropped.
#[must_use = "a verdict that nobody carries out loses the packet"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: the next program sees it, nothing is counted.
    Ignore,
    /// To the node's stack.
    Pass,
    /// Into the endpoint behind this host-side device.
    RedirectPeer {
        /// The host-side device.
        ifindex: u32,
    },
    /// Out of a device, towards the neighbour in
    /// [`Scratch::next_hop`](crate::Scratch).
    RedirectNeigh {
        /// The device.
        ifindex: u32,
    },
    /// Back to where it came from: the packet has become its own answer.
    Reflect {
        /// What is counted against the packet that was answered, if the
        /// answer is an error.
        dropped: Option<DropReason>,
    },
}
