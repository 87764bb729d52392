//! Packets, fake tables and case tables.
#![forbid(unsafe_code)]
