//! Sockets whose backend goes.

use std::io::{ErrorKind, Read};

use axon_linux::{Features, Terminate, terminate_stale};
use nix::errno::Errno;

use crate::stage::{Service, Stage, TCP, UDP, ask, datagrams, serve, talk};

const BACKENDS: [(u32, &str); 2] = [(1, "10.1.0.1:5353"), (2, "10.1.0.2:5353")];
const BACKENDS_TCP: [(u32, &str); 1] = [(3, "10.1.0.1:8080")];
const ADDRESSES: [&str; 2] = ["10.1.0.1/32", "10.1.0.2/32"];
const DNS: &str = "10.96.0.1:53";
const WEB: &str = "10.96.0.2:80";

fn stage() -> Option<Stage> {
    let stage = Stage::new(&ADDRESSES)?;
    if !Features::probe().has(Features::SOCKET_DESTROY) {
        eprintln!("skipped: the kernel ends no sockets");
        return None;
    }
    stage.put(&Service::new(UDP, DNS, &BACKENDS));
    stage.put(&Service {
        number: 2,
        ..Service::new(TCP, WEB, &BACKENDS_TCP)
    });
    Some(stage)
}

fn serve_all() {
    for (_, at) in BACKENDS {
        serve(UDP, at);
    }
    serve(TCP, BACKENDS_TCP[0].1);
}

#[test]
fn connected_sockets_end_with_their_backend_wherever_they_are() {
    let Some(stage) = stage() else { return };
    let pod = stage.pod(&ADDRESSES);
    // The same by a socket of IPv6 in every second place.
    let open = || {
        serve_all();
        let sockets: Vec<_> = (0..40)
            .map(|n| {
                let to = if n % 2 == 0 {
                    DNS
                } else {
                    "[::ffff:10.96.0.1]:53"
                };
                let socket = datagrams(to);
                socket.connect(to).expect("connected");
                socket.send(b"who?").expect("sent");
                let mut buffer = [0; 64];
                let len = socket.recv(&mut buffer).expect("an answer");
                (socket, String::from_utf8_lossy(&buffer[..len]).into_owned())
            })
            .collect();
        let unconnected = datagrams(DNS);
        ask(&unconnected, DNS).expect("an answer");
        (sockets, unconnected, talk(WEB).expect("an answer").0)
    };
    let places = [stage.run(open), pod.run(open)];
    let left = [BACKENDS[1]];
    stage.mark(1);
    stage.mark(3);
    stage.put(&Service {
        generation: 2,
        ..Service::new(UDP, DNS, &left)
    });
    let end = |what| {
        let namespaces = [pod.path()];
        stage
            .run(|| terminate_stale(stage.maps(), Some(&namespaces), what))
            .expect("a look")
    };
    let report = end(Terminate::Datagrams);
    assert_eq!(report.failed, []);
    let mut ended = 0;
    for (sockets, unconnected, web) in &places {
        for (socket, backend) in sockets {
            let sent = socket.send(b"who?");
            if backend == BACKENDS[0].1 {
                ended += 1;
                let error = sent.expect_err("it is connected to nobody");
                assert_eq!(error.raw_os_error(), Some(Errno::EDESTADDRREQ as i32));
                let error = socket.recv(&mut [0; 64]).expect_err("it is ended");
                assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
            } else {
                sent.expect("it goes on");
                socket.recv(&mut [0; 64]).expect("an answer");
            }
        }
        assert_eq!(ask(unconnected, DNS).expect("an answer").0, BACKENDS[1].1);
        web.set_nonblocking(true).expect("set");
        let quiet = { web }.read(&mut [0]).expect_err("nothing to read");
        assert_eq!(quiet.kind(), ErrorKind::WouldBlock, "TCP goes on");
        web.set_nonblocking(false).expect("set");
    }
    assert!(ended > 0, "some had that backend");
    assert_eq!(report.ended, ended);
    assert_eq!(end(Terminate::Datagrams).ended, 0, "once is enough");
    assert_eq!(end(Terminate::AllProtocols).ended, 2);
    for (_, _, web) in &places {
        let error = { web }.read(&mut [0]).expect_err("it is ended");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    }
}

#[test]
fn rows_of_sockets_that_are_gone_do_not_stay() {
    let Some(stage) = stage() else {
        return;
    };
    stage.run(|| {
        serve_all();
        let socket = datagrams(DNS);
        ask(&socket, DNS).expect("an answer");
        assert_eq!(stage.remembered(), 2);
        for (id, _) in BACKENDS {
            stage.mark(id);
        }
        let report =
            terminate_stale(stage.maps(), Some(&[]), Terminate::Datagrams).expect("a look");
        assert_eq!((report.ended, report.forgotten), (0, 2), "{report:?}");
        assert_eq!(stage.remembered(), 0);
    });
}
