//! See [`axon_fuzz::request`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| axon_fuzz::request::run(data));
