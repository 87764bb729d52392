//! See [`axon_fuzz::event`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| axon_fuzz::event::run(data));
