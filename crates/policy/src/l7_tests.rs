use std::sync::Arc;

use axon_abi::{Direction, Identity};
use axon_model::{
    Action, Auth, HeaderRule, HeaderValue, HttpRule, KafkaRule, L7, L7Rules, Label, Mismatch,
    NamePattern, Pattern, Peer, Peers, PortMatch, PortRule, Ports, Protocol, Requirement,
    RuleEntry, Selector, TlsContext, source,
};

use super::{Connection, Request, passes};
use crate::{IdentityInfo, PolicyConfig};

const PORT: u16 = 80;

fn pattern(text: &str) -> Option<Pattern> {
    Some(Pattern::new(text).expect("a pattern"))
}

fn app(name: &str) -> IdentityInfo {
    IdentityInfo::labelled([Label::new(source::K8S, "app", name)].into_iter().collect())
}

fn from(name: &str, rules: L7Rules) -> RuleEntry {
    let l7 = L7 {
        rules,
        ..L7::default()
    };
    RuleEntry {
        direction: Direction::Ingress,
        action: Action::Allow,
        peers: Peers::List(vec![Peer::Endpoints(Selector::new(vec![
            Requirement::equals(source::K8S, "app", name),
        ]))]),
        ports: Ports::List(vec![PortRule {
            protocol: Protocol::TCP,
            port: PortMatch::Range(PORT, PORT),
        }]),
        l7: (l7 != L7::default()).then(|| Arc::new(l7)),
        auth: Auth::Unsaid,
    }
}

fn path(text: &str) -> L7Rules {
    L7Rules::Http(vec![HttpRule {
        path: pattern(text),
        ..HttpRule::default()
    }])
}

fn get(path: &str, headers: &[(&str, &str)]) -> Request {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Request::Http {
        method: "GET".to_owned(),
        path: path.to_owned(),
        host: "svc.example".to_owned(),
        headers: headers.iter().map(own).collect(),
    }
}

fn ask(entries: &[RuleEntry], who: &str, port: u16, request: &Request) -> bool {
    let (info, receiver) = (app(who), app("server"));
    let connection = Connection {
        direction: Direction::Ingress,
        remote: (Identity(300), &info),
        receiver: &receiver,
        protocol: Protocol::TCP.0,
        port,
        server_name: None,
    };
    passes(
        &PolicyConfig::default(),
        entries.iter(),
        &connection,
        request,
    )
}

#[test]
fn one_of_the_rules_for_the_peer_must_hold() {
    let entries = [
        from("a", path("/one")),
        from("a", path("/two/.*")),
        from("b", path("/three")),
    ];
    for (who, path, expected) in [
        ("a", "/one", true),
        ("a", "/one/more", false),
        ("a", "/two/x", true),
        ("a", "/three", false),
        ("b", "/three", true),
        ("b", "/one", false),
    ] {
        assert_eq!(
            ask(&entries, who, PORT, &get(path, &[])),
            expected,
            "{who} {path}"
        );
    }
    // Elsewhere nobody listens.
    assert!(ask(&entries, "a", PORT + 1, &get("/x", &[])));
}

#[test]
fn an_entry_that_asks_for_nothing_lets_all_pass() {
    let entries = [from("a", path("/one")), from("a", L7Rules::Any)];
    assert!(ask(&entries, "a", PORT, &get("/other", &[])));
    let denies = RuleEntry {
        action: Action::Deny,
        ..from("a", L7Rules::Any)
    };
    let entries = [from("a", path("/one")), denies];
    assert!(!ask(&entries, "a", PORT, &get("/other", &[])));
}

#[test]
fn the_node_itself_is_not_asked() {
    let entries = [from("a", path("/one"))];
    let everyone = [RuleEntry {
        peers: Peers::Any,
        ..from("a", path("/one"))
    }];
    let asked = |config: &PolicyConfig, entries: &[RuleEntry]| {
        let known = crate::reserved_identities(config);
        let connection = Connection {
            direction: Direction::Ingress,
            remote: (Identity::HOST, &known[&Identity::HOST]),
            receiver: &app("server"),
            protocol: Protocol::TCP.0,
            port: PORT,
            server_name: None,
        };
        passes(config, entries.iter(), &connection, &get("/x", &[]))
    };
    let config = PolicyConfig {
        allow_localhost: true,
        ..PolicyConfig::default()
    };
    assert!(asked(&config, &entries) && asked(&config, &everyone));
    let config = PolicyConfig {
        allow_localhost: false,
        ..config
    };
    assert!(!asked(&config, &everyone));
}

#[test]
fn headers_are_there_or_may_be_otherwise() {
    let rule = |value: Option<&str>, mismatch| {
        let header = HeaderRule {
            name: "X-Trace".to_owned(),
            value: value.map(|text| HeaderValue::Text(text.to_owned())),
            mismatch,
        };
        [from(
            "a",
            L7Rules::Http(vec![HttpRule {
                headers: vec![header],
                ..HttpRule::default()
            }]),
        )]
    };
    for (value, mismatch, header, expected) in [
        (None, Mismatch::Refuse, ("x-trace", "1"), true),
        (None, Mismatch::Refuse, ("x-other", "1"), false),
        (Some("1"), Mismatch::Refuse, ("X-TRACE", "1"), true),
        (Some("1"), Mismatch::Refuse, ("X-Trace", "2"), false),
        (Some("1"), Mismatch::Replace, ("X-Trace", "2"), true),
        (Some("1"), Mismatch::Log, ("x-other", "2"), true),
    ] {
        let entries = rule(value, mismatch);
        let request = get("/", &[header]);
        assert_eq!(
            ask(&entries, "a", PORT, &request),
            expected,
            "{entries:?} {header:?}"
        );
    }
}

#[test]
fn names_are_asked_of_questions_and_of_servers() {
    let names = |texts: &[&str]| -> Vec<NamePattern> {
        let name = |text: &&str| NamePattern::new(text).expect("a pattern");
        texts.iter().map(name).collect()
    };
    let entries = [from("a", L7Rules::Dns(names(&["*.example", "api.test"])))];
    let dns = |query: &str| Request::Dns {
        query: query.to_owned(),
    };
    assert!(ask(&entries, "a", PORT, &dns("x.example.")));
    assert!(!ask(&entries, "a", PORT, &dns("y.x.example")));
    assert!(
        !ask(&entries, "a", PORT, &get("/", &[])),
        "another protocol"
    );
    let l7 = L7 {
        server_names: names(&["api.test"]),
        ..L7::default()
    };
    let entries = [RuleEntry {
        l7: Some(Arc::new(l7)),
        ..from("a", L7Rules::Any)
    }];
    let tls = |name: &str| Request::Tls {
        server_name: name.to_owned(),
    };
    assert!(ask(&entries, "a", PORT, &tls("API.test")));
    assert!(!ask(&entries, "a", PORT, &tls("other.test")));
    assert!(!ask(&entries, "a", PORT, &tls("")));
}

/// What is said inside TLS is read only where the proxy ends it, and only of
/// the servers that are named.
#[test]
fn what_is_said_inside_tls_is_asked_where_it_ends() {
    let ended = |name: &str, rules: L7Rules| L7 {
        rules,
        server_names: vec![NamePattern::new(name).expect("a pattern")],
        terminates_tls: Some(TlsContext::default()),
        ..L7::default()
    };
    let passed = L7 {
        terminates_tls: None,
        ..ended("other.test", L7Rules::Any)
    };
    let plain = from("a", path("/plain"));
    let entry = |l7| RuleEntry {
        l7: Some(Arc::new(l7)),
        ..plain.clone()
    };
    let entries = [
        entry(ended("api.test", path("/one"))),
        entry(passed),
        plain.clone(),
    ];
    for (name, path, expected) in [
        (Some("api.test"), "/one", true),
        (Some("API.test"), "/two", false),
        (Some("other.test"), "/two", true),
        (Some("third.test"), "/one", false),
        (Some("api.test"), "/plain", false),
        (None, "/plain", true),
        (None, "/one", false),
    ] {
        let (info, receiver) = (app("a"), app("server"));
        let connection = Connection {
            direction: Direction::Ingress,
            remote: (Identity(300), &info),
            receiver: &receiver,
            protocol: Protocol::TCP.0,
            port: PORT,
            server_name: name,
        };
        let config = PolicyConfig::default();
        let passes = passes(&config, entries.iter(), &connection, &get(path, &[]));
        assert_eq!(passes, expected, "{name:?} {path}");
    }
}

#[test]
fn every_topic_needs_a_rule() {
    let rule = |api_keys: &[i16], topic: Option<&str>| KafkaRule {
        api_keys: api_keys.to_vec(),
        topic: topic.map(str::to_owned),
        ..KafkaRule::default()
    };
    let rules = vec![rule(&[0, 3, 18], Some("a")), rule(&[1], Some("b"))];
    let entries = [from("a", L7Rules::Kafka(rules))];
    let kafka = |api_key, topics: &[&str]| Request::Kafka {
        api_key,
        api_version: 1,
        client_id: String::new(),
        topics: topics.iter().map(|t| (*t).to_owned()).collect(),
    };
    for (key, topics, expected) in [
        (0, &["a"][..], true),
        (0, &["a", "b"], false),
        (0, &["b"], false),
        (1, &["b"], true),
        // It names no topic, though it could.
        (0, &[], false),
        // Its kind has none.
        (18, &[], true),
        (12, &[], false),
    ] {
        assert_eq!(
            ask(&entries, "a", PORT, &kafka(key, topics)),
            expected,
            "{key} {topics:?}"
        );
    }
}
