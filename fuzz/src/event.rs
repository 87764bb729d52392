//! Event records, and who asks for which: the text of a query, a line end,
//! then what stands in the ring buffer.

use std::sync::Arc;

use axon_abi::{EVENT_LEN, EventRecord, Identity};
use axon_hubble::{EndpointName, NameTable, Policy, Query, Response, Style, decode, line};
use zerocopy::FromBytes;

/// Decodes records, shows them, and reads again what was written.
///
/// # Panics
/// If a line is no line, or JSON is read as something else.
pub fn run(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n');
    let (query, records) = data.split_at(end.unwrap_or_default());
    let query = String::from_utf8_lossy(query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = Query::parse(pairs);
    let records = records.strip_prefix(b"\n").unwrap_or(records);
    let (records, rest) = records.as_chunks::<EVENT_LEN>();
    // Hostile names: what is left over.
    let names = names(&String::from_utf8_lossy(rest));
    for bytes in records.iter().take(8) {
        let Ok(record) = EventRecord::read_from_bytes(bytes) else {
            panic!("a record of {EVENT_LEN} bytes is read");
        };
        show(&record, &names, query.as_ref().ok());
    }
    if let Ok(text) = str::from_utf8(rest) {
        answered(text);
    }
}

fn show(record: &EventRecord, names: &NameTable, query: Option<&Query>) {
    let flow = decode(record, names);
    if let Some(query) = query {
        let _ = query.filter.matches(&flow);
    }
    let response = Response::flow(Arc::new(flow));
    for numeric in [false, true] {
        let style = Style {
            node: true,
            numeric,
            ..Style::default()
        };
        let text = line(&response, style);
        assert!(
            !text.contains(char::is_control),
            "a terminal would obey: {text:?}"
        );
    }
    let json = serde_json::to_string(&response).expect("a flow has a JSON form");
    let read: Response = serde_json::from_str(&json).expect("which is read again");
    assert_eq!(read, response);
}

/// What a client reads from an agent.
fn answered(text: &str) {
    if let Ok(response) = serde_json::from_str::<Response>(text) {
        let _ = line(&response, Style::default());
    }
}

/// Names as a manifest may bring them.
fn names(text: &str) -> NameTable {
    let shared: Arc<str> = text.into();
    let endpoint = EndpointName {
        id: 1,
        namespace: Arc::clone(&shared),
        pod_name: Arc::clone(&shared),
    };
    let policy = Policy {
        name: Arc::clone(&shared),
        namespace: Arc::clone(&shared),
        ..Policy::default()
    };
    let mut names = NameTable {
        node: Arc::clone(&shared),
        ..NameTable::default()
    };
    names.labels.insert(Identity(300), [text.to_owned()].into());
    let address = std::net::IpAddr::from([10, 0, 0, 1]);
    names.endpoints.insert(address, endpoint);
    names.rules.insert(1, policy.clone());
    names
        .sets
        .insert(1, [[policy.clone()].into(), [policy].into()]);
    names.interfaces.insert(1, shared);
    names
}
