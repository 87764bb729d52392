//! Where packets are traced.

use axon_abi::{ConfigFlags, DropReason, Hook, ObservationPoint};
use axon_datapath::Verdict;

use super::scene::{Net, POD_A, POD_B, UPLINK, arrives, leaves, reaches, sends, step, to};
use crate::run::{Case, Step};
use crate::{Build, World};

const SYN: u8 = 2;
const ACK: u8 = 16;

pub(super) fn cases(net: &Net) -> Vec<Case> {
    vec![
        net.case(
            "every packet is traced twice",
            world(true),
            steps(net, true),
        ),
        net.case(
            "every packet is traced once",
            world(false),
            steps(net, false),
        ),
    ]
}

/// Nothing is aggregated; packets are traced where they are received too, or
/// not.
fn world(received: bool) -> World {
    let mut world = Net::scene();
    world.config.trace_interval_s = 0;
    if received {
        world.config.flags |= ConfigFlags::EVENT_RECEIVED;
    }
    world
}

fn steps(net: &Net, received: bool) -> Vec<Step> {
    use ObservationPoint::{FromEndpoint, FromHost, FromNetwork, FromStack, ToEndpoint, ToNetwork};
    let exactly = |points: &'static [ObservationPoint], mut step: Step| {
        step.traced = Some(points);
        step
    };
    // The first is where the packet is received.
    let traced = |points: &'static [ObservationPoint], step| {
        exactly(if received { points } else { &points[1..] }, step)
    };
    let tcp = |from, to, flags| Build::tcp(from, to, (4000, 80), flags);
    let udp = |from, to, ports| Build::udp(from, to, ports, 4);
    let pass = Ok(Verdict::Pass);
    let forged = Err(DropReason::InvalidSourceIp);
    let opens = tcp(net.a, net.b, SYN);
    let goes_on = tcp(net.a, net.b, ACK);
    let mut cut = opens.frame();
    cut.truncate(cut.len() - 4);
    let pods = &[FromEndpoint, ToEndpoint];
    vec![
        traced(pods, sends("opens", POD_A, &opens, to(POD_B))),
        traced(pods, sends("goes on", POD_A, &goes_on, to(POD_B))),
        traced(
            &[FromEndpoint],
            sends("forged", POD_A, &tcp(net.world, net.b, SYN), forged),
        ),
        traced(
            &[FromNetwork, ToEndpoint],
            arrives("from outside", &tcp(net.world, net.b, SYN), to(POD_B)),
        ),
        traced(
            &[FromHost, ToEndpoint],
            reaches("from the node", 0, &tcp(net.node, net.b, SYN), pass),
        ),
        traced(
            &[FromStack, ToEndpoint],
            reaches("by a device", UPLINK, &tcp(net.world, net.b, ACK), pass),
        ),
        exactly(
            &[ToNetwork],
            leaves("translated", &udp(net.a, net.world, (40000, 53)), pass),
        ),
        traced(
            &[FromNetwork, ToEndpoint],
            arrives(
                "and back",
                &udp(net.world, net.node, (53, 40000)),
                to(POD_A),
            ),
        ),
        exactly(
            &[],
            arrives(
                "to the node",
                &udp(net.world, net.node, (53, 40001)),
                Ok(Verdict::Ignore),
            ),
        ),
        exactly(
            &[],
            step(
                "cut short",
                (Hook::FromEndpoint, POD_A),
                cut,
                Err(DropReason::InvalidPacket),
            ),
        ),
    ]
}
