//! What becomes of a packet on a node, and why.

use std::net::IpAddr;

use axon_abi::{DropReason, Hook, IpKey, Scope};
use axon_datapath::{Refusal, Verdict};
use axon_policy::Request;
use serde::Serialize;

use crate::choose::{self, Asked, Pick};
use crate::node::Node;
use crate::packet::Packet;
use crate::record::Step;
use crate::run::{HookRun, NotHere, Place, Walk, run};
use crate::service_view::ServiceView;
use crate::socket::SocketRun;
use crate::why::{JudgementView, Said, why};
use crate::{service_view, words};

/// What becomes of the packet, as far as this node goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It passes.
    Allowed,
    /// It is dropped, or refused.
    Denied,
    /// It passes to some backends of a service and not to others.
    Depends,
}

/// An end of the packet's way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct End {
    /// Its address.
    pub address: IpAddr,
    /// Who has it: `namespace/name`, `node NAME`; empty if that is not known.
    pub name: String,
    /// It is this node, or an endpoint of it.
    pub is_here: bool,
}

/// One hook that the packet meets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct HookView {
    /// The hook's name.
    pub hook: &'static str,
    /// Its device.
    pub device: String,
    /// Which packets meet it.
    pub what: String,
    /// Every look-up, in order.
    pub steps: Vec<Step>,
    /// What conntrack knew of the flow before, if that still held.
    pub known: Option<String>,
    /// What policy says.
    pub judgements: Vec<JudgementView>,
    /// What was decided.
    pub decided: String,
    /// Why the packet was dropped, in Hubble's word.
    pub drop_reason: Option<&'static str>,
}

/// What becomes of a request on the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RequestView {
    /// Whether it passes.
    pub passes: bool,
    /// Why.
    pub words: String,
}

/// What becomes of a packet on a node, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Explanation {
    /// The node.
    pub node: String,
    /// The packet.
    pub packet: String,
    /// Where it comes from.
    pub source: End,
    /// Where it goes.
    pub destination: End,
    /// The hooks that it meets here, in order.
    pub hooks: Vec<HookView>,
    /// The service that it is for, if it is; the hooks are then those of one of
    /// the backends: the first that it does not come to, else the first.
    pub service: Option<ServiceView>,
    /// What becomes of the request, if one was given.
    pub request: Option<RequestView>,
    /// What only others can tell.
    pub elsewhere: Vec<String>,
    /// What becomes of it here.
    pub verdict: Outcome,
    /// The deciding line.
    pub reason: String,
}

/// Runs a packet, as it is on the wire, through a node; `request` is what is said on
/// the connection.
///
/// # Errors
/// The node has nothing to say of it.
pub fn explain(
    node: &Node,
    packet: &Packet,
    request: Option<&Request>,
) -> Result<Explanation, NotHere> {
    told(node, (packet, false), request)
}

/// The same for a connection that is yet to be opened: its socket may be led to a
/// backend of a service before there is a packet.
///
/// # Errors
/// The node has nothing to say of it.
pub fn explain_new(
    node: &Node,
    packet: &Packet,
    request: Option<&Request>,
) -> Result<Explanation, NotHere> {
    told(node, (packet, true), request)
}

fn told(
    node: &Node,
    (packet, is_new): (&Packet, bool),
    request: Option<&Request>,
) -> Result<Explanation, NotHere> {
    let Some(asked) = choose::asked(node, packet, is_new) else {
        let walk = run(node, packet, is_new, 0)?;
        return Ok(of_walk(node, packet, walk, request));
    };
    let picks = choose::picks(node, &asked, is_new);
    let mut view = service_view::view(node, &asked, &picks);
    let picks = picks.unwrap_or_default();
    let walks = walks(node, (packet, is_new), &asked, &picks)?;
    let led: Vec<(IpKey, u16)> = match asked.is_known {
        // Who is known has the backend that it was led to.
        true => walks.iter().map(Walk::led).collect(),
        false => picks.iter().map(Pick::at).collect(),
    };
    if asked.is_known {
        view.is_known();
    }
    let each = walks.into_iter();
    let each: Vec<Explanation> = each
        .map(|walk| of_walk(node, packet, walk, request))
        .collect();
    for (explanation, to) in each.iter().zip(&led) {
        if let Some(backend) = service_view::backend_at(&mut view, *to) {
            if asked.is_known {
                (backend.may_be_chosen, backend.share) = (true, 1.0);
            }
            backend.verdict = Some(explanation.verdict);
            backend.reason.clone_from(&explanation.reason);
        }
    }
    let notes = service_view::not_known(node, &asked);
    Ok(together(each, view, notes))
}

/// The way to each backend that may be chosen; where nobody is, or it is known who
/// was, the only way.
fn walks(
    node: &Node,
    (packet, is_new): (&Packet, bool),
    asked: &Asked,
    picks: &[Pick],
) -> Result<Vec<Walk>, NotHere> {
    if picks.is_empty() || asked.is_known {
        return Ok(vec![run(node, packet, is_new, 0)?]);
    }
    let walks = picks.iter().map(|pick| {
        let mut packet = packet.clone();
        if let (Some(port), Some(ports)) = (pick.port, packet.transport.ports()) {
            ports[0] = port;
        }
        run(node, &packet, is_new, pick.chance)
    });
    walks.collect()
}

/// One explanation of those for all backends: the first that does not get the packet
/// is shown, else the first.
fn together(mut each: Vec<Explanation>, view: ServiceView, notes: Vec<String>) -> Explanation {
    let of_each = each.iter().flat_map(|explanation| &explanation.elsewhere);
    let mut elsewhere: Vec<String> = Vec::new();
    for note in of_each.cloned().chain(notes) {
        if !elsewhere.contains(&note) {
            elsewhere.push(note);
        }
    }
    let is_denied = |explanation: &&Explanation| explanation.verdict == Outcome::Denied;
    let (all, count) = (each.len(), each.iter().filter(is_denied).count());
    let first = each.iter().position(|one| is_denied(&one)).unwrap_or(0);
    let mut explanation = each.swap_remove(first);
    explanation.elsewhere = elsewhere;
    let why = view.refused.as_ref().unwrap_or(&explanation.reason);
    explanation.reason = format!("{}: {why}", view.head());
    if count > 0 && count < all {
        explanation.verdict = Outcome::Depends;
        explanation.reason = format!(
            "{count} of the {all} backends that may be chosen do not get it: {}",
            explanation.reason
        );
    }
    explanation.service = Some(view);
    explanation
}

/// What has become of a packet on its way.
fn of_walk(node: &Node, packet: &Packet, walk: Walk, request: Option<&Request>) -> Explanation {
    let denied = walk.denied();
    let is_known = walk.hooks.first().is_some_and(|run| run.flow.is_some());
    let socket = walk.socket.map(|run| socket_view(node, packet, run));
    let hooks = walk.hooks.into_iter().map(|run| view(node, run, request));
    let hooks: Vec<HookView> = socket.into_iter().chain(hooks).collect();
    let judgements = hooks.iter().flat_map(|hook| &hook.judgements);
    let request = request.map(|_| request_view(judgements, denied));
    let refused = request.as_ref().is_some_and(|request| !request.passes);
    let mut explanation = Explanation {
        node: node.name.clone(),
        packet: packet.to_string(),
        source: end(node, packet.source),
        destination: end(node, packet.destination),
        hooks,
        service: None,
        elsewhere: elsewhere(node, packet.source, &walk.packet),
        verdict: if denied.is_some() || refused {
            Outcome::Denied
        } else {
            Outcome::Allowed
        },
        request,
        reason: String::new(),
    };
    if !is_known && packet.transport.continues() {
        explanation.elsewhere.push(
            "its connection, which is not in the state: the packet is judged as one that opens it"
                .to_owned(),
        );
    }
    explanation.reason = explanation.decisive(denied);
    explanation
}

fn end(node: &Node, address: IpAddr) -> End {
    End {
        address,
        name: node.name_of(address).unwrap_or_default(),
        is_here: !matches!(node.place(address), Place::Elsewhere),
    }
}

/// What a socket was told, as a hook.
fn socket_view(node: &Node, packet: &Packet, run: SocketRun) -> HookView {
    let owner = node.name_of(packet.source);
    let owner = owner.unwrap_or_else(|| packet.source.to_string());
    HookView {
        hook: run.program,
        device: String::new(),
        what: format!("a socket of {owner}, before there is a packet"),
        decided: match run.led {
            Ok(to) => {
                let name = node.name_of(to.ip());
                let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
                format!("led to {to}{name}")
            }
            Err(Refusal::Dropped(reason)) => format!("fails: {reason} ({})", reason as u8),
            Err(Refusal::Closed | Refusal::InUse) => "refused: nobody is there".to_owned(),
        },
        drop_reason: run.refused().map(DropReason::name),
        known: None,
        judgements: Vec::new(),
        steps: run.steps,
    }
}

fn view(node: &Node, run: HookRun, request: Option<&Request>) -> HookView {
    let device = node.device(run.device);
    let endpoint = node.endpoints.get(&run.device);
    let endpoint = endpoint.map_or_else(|| device.clone(), |row| node.endpoint_name(row));
    let what = match run.hook {
        Hook::FromEndpoint => format!("what {endpoint} sends"),
        Hook::ToEndpoint => format!("what the node sends to {endpoint}"),
        Hook::FromNetdev => "what the network brings".to_owned(),
        Hook::ToNetdev => "what leaves the node".to_owned(),
    };
    let is_known = run.judgements.is_empty() && drop_is_policy(run.decided);
    let known = run.flow.filter(|_| is_known).map(|entry| {
        let now_s = axon_datapath::seconds(node.now_ns);
        let rule = match node.rules.get(&entry.rule) {
            Some((origin, index)) => format!("rule {index} of {origin}"),
            None => "no rule".to_owned(),
        };
        format!(
            "the connection is known, and what was decided when it was opened stands ({rule}): {}",
            words::ct_entry(&entry, now_s)
        )
    });
    HookView {
        hook: run.hook.program(),
        what,
        judgements: run
            .judgements
            .iter()
            .map(|judgement| why(node, judgement, request))
            .collect(),
        known,
        decided: match (run.hook, run.decided) {
            (Hook::ToNetdev, Ok(Verdict::Ignore | Verdict::Pass)) => "leaves the node".to_owned(),
            (_, verdict) => decided(node, verdict),
        },
        drop_reason: match run.decided {
            Err(reason)
            | Ok(Verdict::Reflect {
                dropped: Some(reason),
            }) => Some(reason.name()),
            Ok(_) => None,
        },
        device,
        steps: run.steps,
    }
}

/// Whether a decision may be one that conntrack has kept.
fn drop_is_policy(decided: Result<Verdict, DropReason>) -> bool {
    decided.map_or_else(DropReason::is_policy, |_| true)
}

fn decided(node: &Node, decided: Result<Verdict, DropReason>) -> String {
    match decided {
        Ok(Verdict::Ignore) => "goes on: no policy is asked here".to_owned(),
        Ok(Verdict::Pass) => "goes on, to the node's stack".to_owned(),
        Ok(Verdict::RedirectPeer { ifindex }) => {
            let row = node.endpoints.get(&ifindex);
            let name = row.map_or_else(|| node.device(ifindex), |row| node.endpoint_name(row));
            format!("delivered to {name}")
        }
        Ok(Verdict::RedirectNeigh { ifindex }) => format!("goes out of {}", node.device(ifindex)),
        Ok(Verdict::Reflect { dropped: None }) => "answered".to_owned(),
        Ok(Verdict::Reflect {
            dropped: Some(reason),
        }) => format!("answered with an error: {reason}"),
        Err(reason) => format!("dropped: {reason} ({})", reason as u8),
    }
}

/// What becomes of a request: the rules are asked even where the connection is
/// kept back.
fn request_view<'a>(
    judgements: impl Iterator<Item = &'a JudgementView>,
    denied: Option<DropReason>,
) -> RequestView {
    let asking: Vec<_> = judgements.filter(|judgement| judgement.asks).collect();
    let refusing = asking
        .iter()
        .find(|judgement| judgement.request_passes == Some(false));
    let words = match (refusing, denied) {
        (Some(judgement), _) => format!(
            "no rule for {} of {} lets it pass",
            judgement.direction, judgement.subject
        ),
        (None, None) if asking.is_empty() => "no rule asks what is said there".to_owned(),
        (None, None) => "a rule lets it pass".to_owned(),
        (None, Some(_)) if asking.is_empty() => "the connection is not let through".to_owned(),
        (None, Some(_)) => "the connection is not let through, though the rules would let the \
                            request pass"
            .to_owned(),
    };
    RequestView {
        passes: refusing.is_none() && denied.is_none(),
        words,
    }
}

/// What is decided where nobody has told us of, of a packet with the address that
/// it has in the end.
fn elsewhere(node: &Node, source: IpAddr, packet: &Packet) -> Vec<String> {
    let ends = [
        (source, "egress", "sends"),
        (packet.destination, "ingress", "receives"),
    ];
    let mut notes: Vec<String> = ends
        .into_iter()
        .filter_map(|(addr, direction, does)| {
            if !matches!(node.place(addr), Place::Elsewhere) {
                return None;
            }
            let row = node.ipcache.get(&IpKey::from(addr))?;
            if matches!(row.identity.scope(), Scope::World | Scope::Unknown) {
                return None;
            }
            let name = node.name_of(addr).unwrap_or_else(|| addr.to_string());
            let server = node.nodes.get(&IpAddr::from(row.node));
            let server = server.map_or("its own node".to_owned(), |node| format!("node {node}"));
            Some(format!(
                "what {name} {does} is held to its {direction} policy on {server}, of which \
                 nothing is known here"
            ))
        })
        .collect();
    if node.flows_left_out > 0 {
        notes.push(format!(
            "{} connections are not in the state: this one may be among them, and known",
            node.flows_left_out
        ));
    }
    notes
}

impl Explanation {
    /// What decided, in a line.
    fn decisive(&self, denied: Option<DropReason>) -> String {
        let judgements: Vec<&JudgementView> = self
            .hooks
            .iter()
            .flat_map(|hook| &hook.judgements)
            .collect();
        let is_policy = denied.is_some_and(DropReason::is_policy);
        let refusing = judgements.iter().rfind(|j| j.said == Said::Denied);
        if let (true, Some(judgement)) = (is_policy, refusing) {
            return sentence(judgement);
        }
        if let Some(reason) = denied {
            let known = self.hooks.iter().find_map(|hook| hook.known.as_ref());
            return match known {
                Some(known) => format!("{reason}: {known}"),
                None => reason.to_string(),
            };
        }
        if let Some(request) = self.request.as_ref().filter(|request| !request.passes) {
            return request.words.clone();
        }
        // Where a rule allows it, nobody asks why the rest is open.
        let by_rule = judgements.iter().filter(|j| j.place.is_some());
        let mut lines: Vec<String> = by_rule.map(|j| sentence(j)).collect();
        if lines.is_empty() {
            lines = judgements.iter().map(|j| sentence(j)).collect();
        }
        match lines.is_empty() {
            false => lines.join("; "),
            true => match self.hooks.iter().find_map(|hook| hook.known.clone()) {
                Some(known) => known,
                None => "no policy is asked".to_owned(),
            },
        }
    }
}

/// A judgement with the place of what decided.
fn sentence(judgement: &JudgementView) -> String {
    let head = format!("{} of {}", judgement.direction, judgement.subject);
    let audited = match judgement.said {
        Said::Audited => " (only audited)",
        Said::Allowed | Said::Denied => "",
    };
    match &judgement.place {
        Some(place) => format!("{head}: {place} {}{audited}", judgement.words),
        None => format!("{head}: {}{audited}", judgement.words),
    }
}
