//! Addresses that are only services', and who is not let in.

use axon_abi::{DropReason, FrontendKind, ServiceFlags};
use axon_datapath::Verdict;

use super::scene::{Net, POD_A, arrives, sends, to};
use crate::run::{Case, Step};
use crate::{Build, Listens, World};

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const TCP: u8 = 6;

pub(super) fn cases(net: &Net) -> Vec<Case> {
    vec![pings(net), refused(net), dropped(net), admission(net)]
}

fn at(net: &Net, port: u16, flags: u32) -> Listens<'static> {
    Listens {
        addr: net.vip,
        port,
        protocol: TCP,
        kind: FrontendKind::LoadBalancer,
        flags,
    }
}

fn with(net: &Net) -> World {
    let mut world = Net::scene();
    world.service(1, &at(net, 80, 0), &[(net.a, 8080, true)]);
    world.service_address(net.vip);
    world
}

fn answered() -> Result<Verdict, DropReason> {
    Ok(Verdict::Reflect { dropped: None })
}

/// A pong, as it goes back where the ping came from.
fn pong(mut step: Step, after: &Build) -> Step {
    let mut frame = after.clone().hops(64).frame();
    let (to, from) = step.packet.bytes.split_at(6);
    frame[..6].copy_from_slice(&from[..6]);
    frame[6..12].copy_from_slice(to);
    step.bytes = Some(frame);
    step
}

fn pings(net: &Net) -> Case {
    let large = |packet: Build, from, to| {
        let mut packet = packet;
        packet.body.extend([7; 56]);
        packet.part(79, from, to)
    };
    let ping = Build::ping(net.world, net.vip, 7);
    let back = Build::pong(net.vip, net.world, 7);
    let steps = vec![
        pong(
            arrives("from outside", &ping.clone().hops(3), answered()),
            &back,
        ),
        pong(
            sends(
                "from an endpoint",
                POD_A,
                &Build::ping(net.a, net.vip, 7),
                answered(),
            ),
            &Build::pong(net.vip, net.a, 7),
        ),
        pong(
            arrives(
                "the first part of a large one",
                &large(ping.clone(), 0, 24),
                answered(),
            ),
            &large(back.clone(), 0, 24),
        ),
        pong(
            arrives("the rest", &large(ping, 24, 68), answered()),
            &large(back, 24, 68),
        ),
        arrives(
            "a pong nobody asked for",
            &Build::pong(net.world, net.vip, 7),
            Err(DropReason::ServiceBackendNotFound),
        ),
    ];
    net.case("an address of services answers pings", with(net), steps)
}

/// The reset of a packet that opens a connection.
fn reset(from: &str, to: &str, ports: (u16, u16), syn: &Build) -> Vec<u8> {
    let mut reset = Build::tcp(from, to, ports, RST | ACK).dont_fragment();
    let (sequence, acknowledged) = (&[0; 4], &mut [1, 2, 3, 4]);
    acknowledged.copy_from_slice(&syn.body[4..8]);
    acknowledged[3] += 1;
    reset.body[4..8].copy_from_slice(sequence);
    reset.body[8..12].copy_from_slice(acknowledged);
    reset.body[14] = 0;
    let mut frame = reset.hops(64).frame();
    let (first, second) = frame[..12].split_at_mut(6);
    first.swap_with_slice(second);
    frame
}

fn refused(net: &Net) -> Case {
    let mut world = with(net);
    world.service(2, &at(net, 443, 0), &[]);
    let refused = Ok(Verdict::Reflect {
        dropped: Some(DropReason::ServiceBackendNotFound),
    });
    let syn = |port| Build::tcp(net.world, net.vip, (4000, port), SYN);
    let mut steps: Vec<Step> = [81, 443]
        .into_iter()
        .map(|port| {
            let name = if port == 81 {
                "no such port"
            } else {
                "nobody behind it"
            };
            let mut step = arrives(name, &syn(port), refused);
            step.bytes = Some(reset(net.vip, net.world, (port, 4000), &syn(port)));
            step
        })
        .collect();
    let mut long = syn(81);
    long.body.extend([2, 4, 5, 0xb4, 1, 3, 3, 7]);
    long.body[12] = 0x70;
    let mut step = arrives("with options", &long, refused);
    step.bytes = Some(reset(net.vip, net.world, (81, 4000), &long));
    steps.push(step);
    let mut data = syn(81);
    data.body.extend([0; 8]);
    steps.extend([
        arrives("with data", &data, refused),
        arrives(
            "of a connection that nobody knows",
            &Build::tcp(net.world, net.vip, (4000, 81), ACK),
            refused,
        ),
        arrives(
            "no such protocol",
            &Build::udp(net.world, net.vip, (4000, 80), 5),
            refused,
        ),
    ]);
    net.case("who is refused is told", world, steps)
}

fn dropped(net: &Net) -> Case {
    let mut world = with(net);
    world.service(2, &at(net, 443, ServiceFlags::DROP_OUTSIDE), &[]);
    let lost = Err(DropReason::ServiceBackendNotFound);
    let mut steps = vec![
        arrives(
            "nobody behind it",
            &Build::tcp(net.world, net.vip, (4000, 443), SYN),
            lost,
        ),
        arrives(
            "an error about nothing",
            &Build::unreachable(
                net.world,
                net.vip,
                &Build::tcp(net.vip, net.world, (80, 4000), SYN).frame(),
            ),
            lost,
        ),
        arrives(
            "a part of what nobody has seen",
            &Build::udp(net.world, net.vip, (4000, 80), 64).part(80, 24, 72),
            Err(DropReason::FragmentNotFoundWorld),
        ),
    ];
    let mut other = Build::udp(net.world, net.vip, (4000, 80), 5);
    other.protocol = 47;
    steps.push(arrives(
        "of no ports",
        &other,
        Err(DropReason::CtUnknownL4Protocol),
    ));
    net.case(
        "what goes no further than an address of services",
        world,
        steps,
    )
}

fn admission(net: &Net) -> Case {
    let mut world = with(net);
    world.service(
        2,
        &at(net, 81, ServiceFlags::CLOSED_OUTSIDE),
        &[(net.a, 8080, true)],
    );
    world.service(3, &at(net, 82, 0), &[(net.a, 8080, true)]);
    world.service_range(3, net.world, 128);
    world.service(
        4,
        &at(net, 83, ServiceFlags::SOURCE_DENY),
        &[(net.a, 8080, true)],
    );
    world.service_range(4, net.world, 128);
    let tcp = |from, port| Build::tcp(from, net.vip, (4000 + port, port), SYN);
    let denied = Err(DropReason::SourceRangeDenied);
    let steps = vec![
        arrives("open", &tcp(net.world, 80), to(POD_A)),
        arrives(
            "closed outside",
            &tcp(net.world, 81),
            Err(DropReason::IsAClusterip),
        ),
        sends("open inside", super::POD_B, &tcp(net.b, 81), to(POD_A)),
        arrives("in the range", &tcp(net.world, 82), to(POD_A)),
        arrives("not in it", &tcp(net.remote, 82), denied),
        arrives("kept out", &tcp(net.world, 83), denied),
        arrives("not kept out", &tcp(net.remote, 83), to(POD_A)),
    ];
    net.case("who may ask from outside", world, steps)
}
