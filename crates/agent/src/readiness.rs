//! Descriptors that tell when there is something to read.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the runtime wait for a descriptor.
#[expect(
    deprecated,
    reason = "the way without deprecation is unsafe; what is asked of it is that the descriptor \
              stays open and the same, which owners of theirs (`AsFd`) keep"
)]
pub(crate) fn readable<T: AsRawFd + AsFd>(inner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(inner, Interest::READABLE)
}
