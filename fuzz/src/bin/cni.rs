//! See [`axon_fuzz::cni`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| axon_fuzz::cni::run(data));
