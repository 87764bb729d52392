//! The kernel programs, as the build script made them.

/// The object file, aligned as its reader wants it.
pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/axon_bpf.o"));
