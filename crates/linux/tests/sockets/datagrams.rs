//! Datagrams, of sockets that are connected and of others.

use std::collections::BTreeSet;

use crate::stage::{PATIENCE, Service, Stage, UDP, ask, datagrams, serve};

const BACKENDS: [(u32, &str); 3] = [
    (1, "10.1.0.1:5353"),
    (2, "10.1.0.2:5353"),
    (3, "10.1.0.3:5353"),
];
const BACKENDS6: [(u32, &str); 2] = [(11, "[fd00:1::1]:5353"), (12, "[fd00:1::2]:5353")];
const ADDRESSES: [&str; 5] = [
    "10.1.0.1/32",
    "10.1.0.2/32",
    "10.1.0.3/32",
    "fd00:1::1/128",
    "fd00:1::2/128",
];
const ALL: [&str; 3] = ["10.96.0.1:53", "[fd00:96::1]:53", "[::ffff:10.96.0.1]:53"];

fn stage() -> Option<Stage> {
    let stage = Stage::new(&ADDRESSES)?;
    stage.put(&Service::new(UDP, "10.96.0.1:53", &BACKENDS));
    stage.put(&Service {
        number: 2,
        ..Service::new(UDP, "[fd00:96::1]:53", &BACKENDS6)
    });
    Some(stage)
}

fn serve_all() {
    for (_, at) in BACKENDS.into_iter().chain(BACKENDS6) {
        serve(UDP, at);
    }
}

#[test]
fn answers_come_from_the_service() {
    let Some(stage) = stage() else { return };
    let pod = stage.pod(&ADDRESSES);
    let all = || {
        serve_all();
        for to in ALL {
            let mut seen = BTreeSet::new();
            for _ in 0..20 {
                let socket = datagrams(to);
                let (first, from) = ask(&socket, to).expect("an answer");
                assert_eq!(from, to);
                for _ in 0..5 {
                    let again = ask(&socket, to).expect("an answer");
                    assert_eq!(again, (first.clone(), from.clone()), "one backend a socket");
                }
                seen.insert(first);
            }
            assert!(seen.len() > 1, "{to}: {seen:?}");
        }
    };
    stage.run(all);
    pod.run(all);
    assert_eq!(stage.remembered(), 0, "closed sockets are forgotten");
}

#[test]
fn a_connected_socket_has_the_service_as_its_peer() {
    let Some(stage) = stage() else {
        return;
    };
    stage.run(|| {
        serve_all();
        for to in ALL {
            let mut seen = BTreeSet::new();
            for _ in 0..20 {
                let socket = datagrams(to);
                socket.connect(to).expect("connected");
                assert_eq!(socket.peer_addr().expect("a peer").to_string(), to);
                socket.send(b"who?").expect("sent");
                let mut buffer = [0; 64];
                let (len, from) = socket.recv_from(&mut buffer).expect("an answer");
                assert_eq!(from.to_string(), to);
                seen.insert(buffer[..len].to_vec());
            }
            assert!(seen.len() > 1, "{to}: {seen:?}");
        }
    });
    assert_eq!(stage.remembered(), 0, "closed sockets are forgotten");
}

#[test]
fn what_comes_from_elsewhere_keeps_its_sender() {
    let Some(stage) = stage() else {
        return;
    };
    stage.run(|| {
        serve_all();
        serve(UDP, "10.1.0.1:7000");
        let socket = datagrams(ALL[0]);
        ask(&socket, ALL[0]).expect("an answer");
        let (_, from) = ask(&socket, "10.1.0.1:7000").expect("an answer");
        assert_eq!(from, "10.1.0.1:7000");
    });
}

#[test]
fn a_socket_leaves_a_backend_that_is_gone_and_no_other() {
    let Some(stage) = stage() else {
        return;
    };
    let to = ALL[0];
    let id_of = |name: &str| BACKENDS.iter().find(|(_, at)| *at == name).expect("one").0;
    stage.run(|| {
        serve_all();
        let sockets: Vec<_> = (0..30).map(|_| datagrams(to)).collect();
        let before: Vec<String> = sockets
            .iter()
            .map(|socket| ask(socket, to).expect("an answer").0)
            .collect();
        let gone = id_of(&before[0]);
        let left: Vec<(u32, &str)> = BACKENDS.into_iter().filter(|(id, _)| *id != gone).collect();
        stage.mark(gone);
        stage.put(&Service {
            generation: 2,
            ..Service::new(UDP, to, &left)
        });
        for (socket, before) in sockets.iter().zip(&before) {
            let (now, from) = ask(socket, to).expect("an answer");
            assert_eq!(from, to);
            if id_of(before) == gone {
                assert_ne!(now, *before, "nobody is there any more");
            } else {
                assert_eq!(now, *before, "it is there still");
            }
        }
        let late = datagrams(to);
        late.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        for _ in 0..20 {
            assert_ne!(id_of(&ask(&late, to).expect("an answer").0), gone);
        }
    });
}

#[test]
fn nothing_is_sent_to_a_service_without_backends() {
    let Some(stage) = stage() else {
        return;
    };
    stage.put(&Service {
        generation: 2,
        ..Service::new(UDP, ALL[0], &[])
    });
    stage.run(|| {
        let socket = datagrams(ALL[0]);
        let error = socket.send_to(b"who?", ALL[0]).expect_err("refused");
        let has_errno = axon_linux::Features::probe().has(axon_linux::Features::SET_RETVAL);
        let expected = if has_errno {
            std::io::ErrorKind::ConnectionRefused
        } else {
            std::io::ErrorKind::PermissionDenied
        };
        assert_eq!(error.kind(), expected);
    });
}
