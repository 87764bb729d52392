//! See [`axon_fuzz::manifest`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| axon_fuzz::manifest::run(data));
