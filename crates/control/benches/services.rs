//! What services of a large cluster cost a node: all of them from nothing, one
//! slice that changes; the engine beside its slow twin.
//!
//! ```text
//! 5,000 services of one slice of ten endpoints each
//! ```
#![expect(clippy::disallowed_methods, reason = "it measures time")]

#[path = "../tests/services_twins/shop.rs"]
mod shop;

use std::time::{Duration, Instant};

use axon_control::services::{Engine, Numbers, ServicesConfig, resolve};
use shop::{service, slice};

const SERVICES: usize = 5_000;
const ENDPOINTS: usize = 10;
/// Changes; the median and the last of a hundred are told.
const CHANGES: usize = 1_000;

fn main() {
    let config = ServicesConfig::default();
    let mut numbers = Numbers::default();
    let mut engine = Engine::new("a", config.clone(), false);
    for n in 0..SERVICES {
        let (key, new) = service(n);
        engine.set_service(&key, Some(new));
        let (key, new) = slice(n, ENDPOINTS);
        engine.set_slice(&key, Some(new));
    }
    engine.mark_complete();
    let begin = Instant::now();
    let stepped = engine.step(0, &mut numbers);
    println!(
        "{SERVICES} services of {ENDPOINTS}: {:?}, {} rows",
        begin.elapsed(),
        stepped.rows
    );
    let mut times: Vec<Duration> = Vec::new();
    let mut rows = 0;
    for n in 0..CHANGES {
        // One endpoint goes, one comes.
        let fewer = ENDPOINTS - 1 + n % 2;
        let (key, new) = slice(n / 2 * 7 % SERVICES, fewer);
        let begin = Instant::now();
        engine.set_slice(&key, Some(new));
        let stepped = engine.step(n as u64, &mut numbers);
        times.push(begin.elapsed());
        rows = rows.max(stepped.rows);
    }
    times.sort();
    let at = |part: usize| times[times.len() * part / 100];
    println!(
        "one slice: median {:?}, p99 {:?}, {rows} rows at most",
        at(50),
        at(99)
    );
    let begin = Instant::now();
    let slow = resolve(engine.cluster(), "a", &config, &mut numbers);
    let same = slow == engine.tables().rows();
    println!("the slow way: {:?}, the same rows: {same}", begin.elapsed());
}
