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

#[test]
fn who_is_gone_is_asked_about_when_it_is_due() {
    let mut numbers = Numbers::default();
    let mut engine = engine(1, 2);
    engine.step(0, &mut numbers);
    assert_eq!(numbers.forget_due_ms(), None, "nobody is gone");
    let (key, one) = slice(0, 1);
    engine.set_slice(&key, Some(one));
    engine.step(1000, &mut numbers);
    let mut due_ms = 1000 + KEPT_MS;
    assert_eq!(numbers.forget_due_ms(), Some(due_ms));
    let is_known = |number| number == Remembered::Backend(2);
    numbers.forget(due_ms - 1, |_| panic!("it is not due"));
    // Twice as long each time, up to an hour.
    for minutes in [2, 4, 8, 16, 32, 60, 60] {
        numbers.forget(due_ms, is_known);
        due_ms += minutes * 60_000;
        assert_eq!(numbers.forget_due_ms(), Some(due_ms));
    }
    numbers.forget(due_ms, |_| false);
    assert_eq!(numbers.forget_due_ms(), None);

    // A port is known as long as one of its backends is.
    engine.set_service(&service(0).0, None);
    engine.set_slice(&key, None);
    engine.step(0, &mut numbers);
    let is_known = |number| number == Remembered::Backend(1);
    numbers.forget(KEPT_MS, is_known);
    assert_eq!(numbers.forget_due_ms(), Some(3 * KEPT_MS));
    numbers.forget(3 * KEPT_MS, |_| false);
    assert_eq!(numbers.forget_due_ms(), None);
}
