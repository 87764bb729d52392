//! The case tables, natively.

use axon_testkit::{Native, cases, run_case};

#[test]
fn every_case_comes_out_as_it_should() {
    let wrong: Vec<String> = cases::all()
        .iter()
        .filter_map(|case| run_case(&mut Native::default(), case).err())
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
