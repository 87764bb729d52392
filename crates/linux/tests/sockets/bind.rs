//! Ports of services that processes of the node want.

use std::net::{TcpListener, UdpSocket};

use axon_abi::FrontendKind;
use axon_linux::{Features, SocketMode};

use crate::stage::{Service, Stage, TCP};

#[test]
fn a_node_port_is_not_bound_to_on_the_node() {
    let Some(mut stage) = Stage::new(&["192.0.2.1/32"]) else {
        return;
    };
    for at in ["0.0.0.0:30080", "192.0.2.1:30080"] {
        stage.put(&Service {
            kind: FrontendKind::NodePort,
            ..Service::new(TCP, at, &[])
        });
    }
    let has_errno = Features::probe().has(Features::SET_RETVAL);
    let expected = if has_errno {
        std::io::ErrorKind::AddrInUse
    } else {
        std::io::ErrorKind::PermissionDenied
    };
    let pod = stage.pod(&["192.0.2.1/32"]);
    let taken = [
        "0.0.0.0:30080",
        "[::]:30080",
        "127.0.0.1:30080",
        "192.0.2.1:30080",
    ];
    stage.run(|| {
        for at in taken {
            let error = TcpListener::bind(at).map(drop).expect_err(at);
            assert_eq!(error.kind(), expected, "{at}");
        }
        for at in ["0.0.0.0:30081", "[::1]:30080", "192.0.2.1:0"] {
            TcpListener::bind(at).expect(at);
        }
        UdpSocket::bind("0.0.0.0:30080").expect("another protocol");
    });
    pod.run(|| {
        for at in taken {
            TcpListener::bind(at).expect("a pod's ports are its own");
        }
    });
    let cgroup = stage.cgroup();
    stage.reopen(|config| {
        config.sockets = SocketMode::At {
            cgroup,
            host_only: false,
            bind_protection: false,
        };
    });
    assert_eq!(stage.datapath().socket_programs(), 9);
    stage.run(|| {
        TcpListener::bind("0.0.0.0:30080").expect("nobody protects it");
    });
}
