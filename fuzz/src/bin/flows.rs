//! See [`axon_fuzz::flows`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| axon_fuzz::flows::run(data));
