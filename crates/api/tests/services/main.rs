//! Services, slices and redirections: what is read of them, and what is said of
//! what is wrong.

mod redirect;
mod service;
mod slice;

use axon_api::manifest::{Object, parse};
use axon_model::Fault;
use serde_json::Value;

fn object(tree: &Value) -> Object {
    let manifest = parse(tree.to_string().as_bytes()).unwrap_or_else(|e| panic!("{tree}: {e}"));
    let document = manifest.documents.into_iter().next().expect("a document");
    document.object.expect("a kind that is known")
}

/// Puts fields in the place of those of the same name.
fn merge(tree: &mut Value, fields: Value) {
    let (Value::Object(tree), Value::Object(fields)) = (tree, fields) else {
        panic!("no maps");
    };
    tree.extend(fields);
}

/// The one fault, and that it names the value and what was expected.
fn only(faults: &[Fault], field: &str, parts: &[&str]) {
    let [fault] = faults else {
        panic!("{field}: {faults:?}");
    };
    assert_eq!(fault.field, field, "{fault:?}");
    for part in parts {
        assert!(fault.reason.contains(part), "{part}: {fault:?}");
    }
}
