//! See [`axon_fuzz::packet`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| axon_fuzz::packet::run(data));
