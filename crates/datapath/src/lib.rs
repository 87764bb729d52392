//! What becomes of a packet.
#![no_std]
#![forbid(unsafe_code)]
