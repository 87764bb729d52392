//! Numbers over time, and what a change costs among many services.

use std::collections::BTreeMap;
use std::sync::Arc;

use axon_control::services::{Engine, KEPT_MS, Numbers, Remembered, ServicesConfig};

use crate::shop::{service, slice};

fn engine(services: usize, endpoints: usize) -> Engine {
    let mut engine = Engine::new("a", ServicesConfig::default(), false);
    for n in 0..services {
        let (key, new) = service(n);
        engine.set_service(&key, Some(new));
        let (key, new) = slice(n, endpoints);
        engine.set_slice(&key, Some(new));
    }
    engine.mark_complete();
    engine
}

/// Ids of backends with their generations.
fn ids(engine: &Engine) -> BTreeMap<u32, u32> {
    let rows = engine.tables().rows();
    let of = |(id, row): (&u32, &axon_abi::Backend)| (*id, row.generation);
    rows.backends.iter().map(of).collect()
}

#[test]
fn one_slice_of_5_000_services_touches_the_rows_of_its_own() {
    let mut numbers = Numbers::default();
    let mut engine = engine(5_000, 10);
    engine.step(0, &mut numbers);
    let at = engine.tables().services.snapshot().revision();
    let (key, fewer) = slice(4_321, 9);
    engine.set_slice(&key, Some(fewer));
    let stepped = engine.step(1, &mut numbers);
    // The service and the slice; one backend, two lists, one frontend.
    assert_eq!((stepped.objects, stepped.rows), (2, 4));
    assert_eq!(engine.tables().services.snapshot().revision(), at + 1);
}

#[test]
fn before_all_is_known_nothing_is_written() {
    let mut numbers = Numbers::default();
    let (key, new) = service(1);
    let mut engine = Engine::new("a", ServicesConfig::default(), false);
    engine.set_service(&key, Some(new));
    engine.step(0, &mut numbers);
    assert!(engine.tables().rows().services.is_empty());
    engine.mark_complete();
    engine.step(0, &mut numbers);
    assert_eq!(engine.tables().rows().services.len(), 2);
    assert!(engine.tables().services.snapshot().is_complete());
}

#[test]
fn a_number_is_kept_until_the_kernel_has_forgotten_it() {
    let mut numbers = Numbers::default();
    let mut engine = engine(1, 2);
    let (key, two) = slice(0, 2);
    let (_, one) = slice(0, 1);
    engine.step(0, &mut numbers);
    assert_eq!(ids(&engine), [(1, 0), (2, 0)].into());
    let goes = |engine: &mut Engine, numbers: &mut Numbers| {
        engine.set_slice(&key, Some(Arc::clone(&one)));
        engine.step(1000, numbers);
        assert_eq!(ids(engine).len(), 1);
    };
    let comes = |engine: &mut Engine, numbers: &mut Numbers| {
        engine.set_slice(&key, Some(Arc::clone(&two)));
        engine.step(2000, numbers);
        ids(engine)
    };
    goes(&mut engine, &mut numbers);
    numbers.forget(1000 + KEPT_MS, |number| number == Remembered::Backend(2));
    numbers.forget(999 + KEPT_MS, |_| false);
    let again = [(1, 0), (2, 1)].into();
    assert_eq!(comes(&mut engine, &mut numbers), again);
    // Also over a restart in between.
    goes(&mut engine, &mut numbers);
    let text = serde_json::to_string(&numbers).expect("numbers are JSON");
    let mut numbers: Numbers = serde_json::from_str(&text).expect("as they were");
    engine = self::engine(1, 1);
    engine.step(3000, &mut numbers);
    let again = [(1, 0), (2, 2)].into();
    assert_eq!(comes(&mut engine, &mut numbers), again);
    goes(&mut engine, &mut numbers);
    numbers.forget(1000 + KEPT_MS, |_| false);
    let another = [(1, 0), (3, 0)].into();
    assert_eq!(comes(&mut engine, &mut numbers), another);
}
