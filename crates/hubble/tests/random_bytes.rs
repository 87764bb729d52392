//! Whatever stands in the ring buffer: it becomes a flow, a line and JSON.

use std::sync::Arc;

use axon_abi::{EVENT_LEN, EventRecord};
use axon_hubble::{NameTable, Response, Style, decode, line};
use proptest::prelude::*;
use zerocopy::transmute;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_have_a_flow(bytes in any::<[u8; EVENT_LEN]>(), version in 0u8..8, kind in 0u8..8) {
        let mut record: EventRecord = transmute!(bytes);
        // Half of the time what steers decoding is sane.
        if bytes[0] & 1 == 0 {
            record.ip_version = version;
            record.kind = kind;
        }
        let response = Response::flow(Arc::new(decode(&record, &NameTable::default())));
        let text = line(&response, Style::default());
        prop_assert!(!text.contains('\n') && text.len() > 20, "{}", text);
        let json = serde_json::to_string(&response).expect("a flow has a JSON form");
        let read: Response = serde_json::from_str(&json).expect("which is read again");
        prop_assert_eq!(read, response);
    }
}
