//! Runs case tables: natively, or on whatever stands behind [`Backend`].

use axon_abi::{Direction, DropReason, EventKind, EventRecord, Hook, ObservationPoint};
use axon_datapath::{Scratch, Tables, Verdict, report_drop};

use crate::{MemPacket, World, oracle};

/// What a program returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The next program or the stack has the packet.
    Next,
    /// The packet is gone.
    Drop,
    /// The packet goes to another device.
    Redirect,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the program returned.
    pub action: Action,
    /// What the packet was counted under (0: forwarded), if it was.
    pub counted: Option<u8>,
    /// The direction it was counted under, if it was.
    pub direction: Option<Direction>,
    /// The bytes afterwards.
    pub bytes: Vec<u8>,
    /// What was decided in full, where the backend can tell.
    pub decided: Option<Result<Verdict, DropReason>>,
    /// The events that came of it.
    pub events: Vec<EventRecord>,
}

/// Something that runs hooks over a world.
pub trait Backend {
    /// Starts over with the rows of a world.
    fn set_world(&mut self, world: &World);

    /// Whether it can make such a packet.
    fn can_run(&self, packet: &MemPacket) -> bool {
        !packet.bytes.is_empty()
    }

    /// Lets time pass, if it can; else the case ends here.
    fn wait_s(&mut self, seconds: u64) -> bool;

    /// Runs the program of a hook over a packet.
    fn run(&mut self, hook: Hook, packet: &MemPacket) -> Outcome;
}

/// One packet of a case.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is special about it.
    pub name: &'static str,
    /// Seconds since the one before.
    pub after_s: u64,
    /// The hook.
    pub hook: Hook,
    /// The packet.
    pub packet: MemPacket,
    /// What is to become of it.
    pub expected: Result<Verdict, DropReason>,
    /// The bytes afterwards, where they are spelt out.
    pub bytes: Option<Vec<u8>>,
    /// Where the packet is traced, in order, where that is spelt out.
    pub traced: Option<&'static [ObservationPoint]>,
}

/// A world and what happens in it.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is about.
    pub name: String,
    /// The rows.
    pub world: World,
    /// The packets, in order.
    pub steps: Vec<Step>,
    /// Whether it needs the world's fake routes, which the kernel has not.
    pub routes: bool,
}

/// Runs a case; the first step that comes out wrong is told.
///
/// # Errors
/// Says which step came out wrong, and how.
pub fn run_case(backend: &mut impl Backend, case: &Case) -> Result<(), String> {
    backend.set_world(&case.world);
    for step in &case.steps {
        if step.after_s != 0 && !backend.wait_s(step.after_s) {
            return Ok(());
        }
        if !backend.can_run(&step.packet) {
            continue;
        }
        let outcome = backend.run(step.hook, &step.packet);
        compare(step, &outcome).map_err(|wrong| {
            format!(
                "{}: {}: {wrong}\n  before {}\n  after  {}",
                case.name,
                step.name,
                hex(&step.packet.bytes),
                hex(&outcome.bytes)
            )
        })?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn compare(step: &Step, outcome: &Outcome) -> Result<(), String> {
    if let Some(decided) = outcome.decided
        && decided != step.expected
    {
        return Err(format!("expected {:?}, got {decided:?}", step.expected));
    }
    let (action, counted) = coarse(step.expected);
    if (outcome.action, outcome.counted) != (action, counted) {
        return Err(format!(
            "expected {action:?} counted as {counted:?}, got {:?} counted as {:?}",
            outcome.action, outcome.counted
        ));
    }
    if let Some(bytes) = &step.bytes
        && *bytes != outcome.bytes
    {
        return Err(format!("expected bytes {}", hex(bytes)));
    }
    if let Some(points) = step.traced {
        let traces = outcome.events.iter();
        let traces = traces.filter(|event| event.kind == EventKind::Trace as u8);
        let traced: Vec<u8> = traces.map(|event| event.point).collect();
        if !traced
            .iter()
            .copied()
            .eq(points.iter().map(|point| *point as u8))
        {
            return Err(format!("expected traces {points:?}, got {traced:?}"));
        }
    }
    if action == Action::Drop {
        return drop_event(outcome);
    }
    if step.packet.gso_size == 0 && counted.is_some() {
        oracle::check(&outcome.bytes)?;
    }
    Ok(())
}

/// A drop is told once, as it is counted.
fn drop_event(outcome: &Outcome) -> Result<(), String> {
    let told: Vec<_> = outcome
        .events
        .iter()
        .filter(|event| event.kind == EventKind::Drop as u8)
        .map(|event| (event.reason, Direction::from_u8(event.direction)))
        .collect();
    match (told.as_slice(), outcome.counted, outcome.direction) {
        ([told], Some(reason), Some(direction)) if *told == (reason, direction) => Ok(()),
        (other, reason, direction) => Err(format!(
            "counted as {reason:?} {direction:?}, drop events: {other:?}"
        )),
    }
}

/// What of a decision can be seen from outside.
fn coarse(decided: Result<Verdict, DropReason>) -> (Action, Option<u8>) {
    match decided {
        Ok(Verdict::Ignore) => (Action::Next, None),
        Ok(Verdict::Pass) => (Action::Next, Some(0)),
        Ok(Verdict::RedirectPeer { .. } | Verdict::RedirectNeigh { .. }) => {
            (Action::Redirect, Some(0))
        }
        Ok(Verdict::Reflect { dropped }) => (
            Action::Redirect,
            Some(dropped.map_or(0, |reason| reason as u8)),
        ),
        Err(reason) => (Action::Drop, Some(reason as u8)),
    }
}

/// The datapath itself, over a [`World`].
#[derive(Debug, Default)]
pub struct Native {
    /// The world as it has become.
    pub world: World,
}

impl Backend for Native {
    fn set_world(&mut self, world: &World) {
        self.world = world.clone();
    }

    fn wait_s(&mut self, seconds: u64) -> bool {
        self.world.wait_s(seconds);
        true
    }

    fn run(&mut self, hook: Hook, packet: &MemPacket) -> Outcome {
        let mut packet = packet.clone();
        let mut scratch = Scratch::poisoned();
        self.world.events.borrow_mut().clear();
        let world = &self.world;
        let (decided, mut direction) = match hook {
            Hook::FromEndpoint => (
                axon_datapath::from_endpoint(&mut packet, world, &mut scratch),
                Direction::Egress,
            ),
            Hook::ToEndpoint => (
                axon_datapath::to_endpoint(&mut packet, world, &mut scratch),
                Direction::Ingress,
            ),
            Hook::FromNetdev => (
                axon_datapath::from_netdev(&mut packet, world, &mut scratch),
                Direction::Ingress,
            ),
            Hook::ToNetdev => (
                axon_datapath::to_netdev(&mut packet, world, &mut scratch),
                Direction::Egress,
            ),
        };
        let (action, counted) = coarse(decided);
        if let Err(reason) = decided {
            direction = report_drop(&packet, world, &mut scratch, reason);
        }
        if let Some(reason) = counted {
            world.count(reason, direction, packet.bytes.len() as u32);
        }
        let events = world.events.borrow().clone();
        Outcome {
            action,
            counted,
            direction: counted.map(|_| direction),
            bytes: packet.bytes,
            decided: Some(decided),
            events,
        }
    }
}
