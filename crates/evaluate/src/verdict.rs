//! What becomes of a connection.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use axon_abi::{Direction, DropReason, Identity, PolicyEntryFlags};
use axon_datapath::{Asker, Question};
use axon_model::{Auth, Labels, Protocol, RuleEntry, Tier};
use axon_policy::{Connection, IdentityInfo, Request, demands, is_about, passes};

use crate::demand::Demand;
use crate::served::Led;
use crate::world::{NodeView, Owner, World};
use crate::{End, Probe, Problem};

/// What becomes of a connection, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// It passes.
    Allow,
    /// The proxy is asked what is said.
    Redirect,
    /// It does not pass.
    Deny,
}

impl Word {
    /// The word of policy cases.
    pub fn text(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Redirect => "redirect",
            Self::Deny => "deny",
        }
    }
}

/// The verdict at one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    /// The verdict.
    pub word: Word,
    /// Number of the rule that decided; 0 if none did.
    pub rule: u32,
    /// How the far side would have to have proved who it is, if it is denied for
    /// want of that.
    pub auth: Auth,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// At the source.
    pub egress: Side,
    /// At the destination.
    pub ingress: Side,
    /// Whether what is said passes, if something is said.
    pub l7: Option<bool>,
}

impl Verdict {
    /// Both ends together.
    pub fn word(&self) -> Word {
        self.egress.word.max(self.ingress.word)
    }

    /// Takes in what becomes of it by way of another backend: at each end the
    /// stricter of the two.
    fn join(&mut self, other: &Self) {
        for (side, other) in [
            (&mut self.egress, other.egress),
            (&mut self.ingress, other.ingress),
        ] {
            if other.word > side.word {
                *side = other;
            }
        }
        self.l7 = self.l7.zip(other.l7).map(|(one, two)| one && two);
    }

    /// How the ends would have to prove who they are, if it does not pass for
    /// want of that: what is asked first, by the source's end.
    pub fn auth(&self) -> Auth {
        let refusing = [self.egress, self.ingress];
        let mut refusing = refusing.iter().filter(|side| side.word == Word::Deny);
        refusing.next().map_or(Auth::Unsaid, |side| side.auth)
    }
}

/// What becomes of a connection by way of the backends of a service, if it is to
/// one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Through {
    /// All of them together: at each end the strictest, for any may be chosen.
    pub verdict: Verdict,
    /// The backends that may be chosen; empty if it is to no service.
    pub backends: Vec<Backend>,
    /// Why the service leads to nobody, if it does not: policy is not asked then.
    pub refused: Option<String>,
}

/// A backend that may be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its address and port.
    pub at: SocketAddr,
    /// `namespace/name` of the pod, if it is one.
    pub pod: Option<String>,
    /// What becomes of the connection if it is chosen.
    pub verdict: Verdict,
}

impl Through {
    /// Everything together: what a service leads to nobody does not pass.
    pub fn word(&self) -> Word {
        match self.refused {
            Some(_) => Word::Deny,
            None => self.verdict.word(),
        }
    }
}

impl Side {
    /// Nobody enforces there.
    const UNPOLICED: Self = Self {
        word: Word::Allow,
        rule: 0,
        auth: Auth::Unsaid,
    };
}

/// One end, as the other sees it.
struct Party<'a> {
    identity: Identity,
    /// What is known of it.
    info: &'a IdentityInfo,
    /// What is enforced upon it; nothing upon who is elsewhere.
    enforced: Option<Enforced<'a>>,
}

/// What is enforced upon an end.
#[derive(Clone, Copy)]
struct Enforced<'a> {
    /// By this node.
    view: &'a NodeView,
    /// Whom rules must be about, and by which labels.
    subject: Identity,
    labels: &'a Labels,
    /// Number of the set.
    set: u32,
}

/// An end that was found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Pod(usize),
    Node(usize),
    Special(usize),
    Outside(std::net::IpAddr),
}

impl World {
    /// What becomes of a connection: if it is to a service, to all of its backends
    /// that may be chosen together.
    ///
    /// # Errors
    /// An end that is not there, a protocol that is none; by the path in the probe.
    pub fn verdict(&self, probe: &Probe) -> Result<Verdict, Problem> {
        self.through(probe).map(|through| through.verdict)
    }

    /// What becomes of a connection, and of which backends' of a service if it is to
    /// one.
    ///
    /// # Errors
    /// An end that is not there, a protocol that is none; by the path in the probe.
    pub fn through(&self, probe: &Probe) -> Result<Through, Problem> {
        let l4 = probe.l4()?;
        let from = self.find(&probe.from, "from")?;
        let to = self.find(&probe.to, "to")?;
        let said = probe.said()?;
        let (backends, refused) = match self.led(from, to, l4) {
            None => {
                return Ok(Through {
                    verdict: self.said_between((from, to), l4, (&said, probe))?,
                    backends: Vec::new(),
                    refused: None,
                });
            }
            Some(Led::To(backends)) => (backends, None),
            Some(Led::Nobody(why)) => (BTreeSet::new(), Some(why)),
        };
        let mut through = Through {
            verdict: Verdict {
                egress: Side::UNPOLICED,
                ingress: Side::UNPOLICED,
                l7: (!said.is_empty()).then_some(refused.is_none()),
            },
            backends: Vec::new(),
            refused,
        };
        for at in backends {
            let end = self.find(&End::Ip(at.ip()), "to")?;
            let l4 = (l4.0, at.port());
            let verdict = self.said_between((from, end), l4, (&said, probe))?;
            through.verdict.join(&verdict);
            through.backends.push(Backend {
                at,
                pod: match end {
                    Found::Pod(n) => self.cluster.pods.get(n),
                    Found::Node(_) | Found::Special(_) | Found::Outside(_) => None,
                }
                .map(|pod| format!("{}/{}", pod.namespace, pod.name)),
                verdict,
            });
        }
        Ok(through)
    }

    /// Whom a connection is led to, if it is to a service and its client of the
    /// cluster.
    fn led(&self, from: Found, to: Found, (protocol, port): (Protocol, u16)) -> Option<Led> {
        let Found::Outside(addr) = to else {
            return None;
        };
        let asker = match from {
            Found::Node(_) => Asker::Node,
            Found::Pod(_) | Found::Special(_) => Asker::Pod,
            Found::Outside(_) => return None,
        };
        let node = self.node_of(from)?;
        self.served.led((node, asker), (addr, port), protocol)
    }

    /// What becomes of a connection between two ends on which something is said.
    fn said_between(
        &self,
        (from, to): (Found, Found),
        l4: (Protocol, u16),
        (said, probe): (&[Request], &Probe),
    ) -> Result<Verdict, Problem> {
        let mut verdict = self.between(from, to, l4)?;
        if said.is_empty() {
            return Ok(verdict);
        }
        verdict.l7 = Some(true);
        // Who talks to itself is never policed.
        if from != to {
            let (source, destination) = self.parties(from, to)?;
            let denied = verdict.word() == Word::Deny;
            let sides = [
                (verdict.egress, (Direction::Egress, &source, &destination)),
                (verdict.ingress, (Direction::Ingress, &destination, &source)),
            ];
            // What a rule of another tier lets pass does not come to the proxy.
            let listening = sides
                .into_iter()
                .filter(|(side, _)| side.word == Word::Redirect);
            let listening: Vec<_> = listening.map(|(_, end)| end).collect();
            let passes = |request: &Request| {
                !denied && self.passes(&listening, l4, probe.server_name(), request)
            };
            verdict.l7 = Some(said.iter().all(passes));
        }
        Ok(verdict)
    }

    /// What becomes of a connection of this protocol to this port (ICMP: of this
    /// type), on which nothing is said.
    ///
    /// # Errors
    /// An end that is not there.
    pub fn connection(
        &self,
        from: &End,
        to: &End,
        l4: (Protocol, u16),
    ) -> Result<Verdict, Problem> {
        self.between(self.find(from, "from")?, self.find(to, "to")?, l4)
    }

    fn between(&self, from: Found, to: Found, l4: (Protocol, u16)) -> Result<Verdict, Problem> {
        if from == to {
            return Ok(Verdict {
                egress: Side::UNPOLICED,
                ingress: Side::UNPOLICED,
                l7: None,
            });
        }
        let (source, destination) = self.parties(from, to)?;
        Ok(Verdict {
            egress: side(&source, &destination, Direction::Egress, l4),
            ingress: side(&destination, &source, Direction::Ingress, l4),
            l7: None,
        })
    }

    /// Both ends, each as the other sees it.
    fn parties(&self, from: Found, to: Found) -> Result<(Party<'_>, Party<'_>), Problem> {
        let nobody = |path: &str| Problem::new(path, "is nobody");
        let source = self.party(from, to).ok_or_else(|| nobody("from"))?;
        let destination = self.party(to, from).ok_or_else(|| nobody("to"))?;
        Ok((source, destination))
    }

    fn find(&self, end: &End, path: &str) -> Result<Found, Problem> {
        let cluster = &self.cluster;
        let missing = |kind: &str, name: &str| {
            Problem::new(format!("{path}.{kind}"), format!("{name:?} is no {kind}"))
        };
        Ok(match end {
            End::Ip(ip) => match self.owners.get(ip) {
                Some(Owner::Pod(n)) => Found::Pod(*n),
                Some(Owner::Node(n)) => Found::Node(*n),
                Some(Owner::Special(n)) => Found::Special(*n),
                None => Found::Outside(*ip),
            },
            End::Pod(name) => {
                let parts = name.split_once('/');
                let parts = parts.map(|(space, name)| (space.to_owned(), name.to_owned()));
                let found = parts.and_then(|parts| self.pods.get(&parts));
                Found::Pod(*found.ok_or_else(|| missing("pod", name))?)
            }
            End::Node(name) => {
                let found = cluster.nodes.iter().position(|node| node.name == *name);
                Found::Node(found.ok_or_else(|| missing("node", name))?)
            }
            End::Special(name) => {
                let specials = &mut cluster.specials.iter();
                let found = specials.position(|special| special.name == *name);
                Found::Special(found.ok_or_else(|| missing("special", name))?)
            }
        })
    }

    /// The node that an end is on.
    fn node_of(&self, end: Found) -> Option<&str> {
        let cluster = &self.cluster;
        match end {
            Found::Pod(n) => cluster.pods.get(n).map(|pod| pod.node.as_str()),
            Found::Node(n) => cluster.nodes.get(n).map(|node| node.name.as_str()),
            Found::Special(n) => cluster.specials.get(n).map(|special| special.node.as_str()),
            Found::Outside(_) => None,
        }
    }

    /// Who an end is to the other.
    fn party(&self, end: Found, other: Found) -> Option<Party<'_>> {
        let node = self.node_of(end);
        let view = node.and_then(|node| self.nodes.get(node));
        let people = &self.people;
        let known = |id: Identity| people.identities.get(&id).map(|info| (id, info));
        let (identity, info) = match end {
            Found::Pod(n) => known(*people.pods.get(n)?)?,
            Found::Special(n) => known(*people.specials.get(n)?)?,
            Found::Outside(ip) => known(people.outside(&self.config, ip))?,
            // To its own endpoints a node is the host.
            Found::Node(_) if self.node_of(other) == node => (Identity::HOST, &view?.host),
            Found::Node(n) => known(*people.nodes.get(n)?)?,
        };
        let subject = match end {
            Found::Node(_) => Identity::HOST,
            Found::Pod(_) | Found::Special(_) | Found::Outside(_) => identity,
        };
        let enforced = view.and_then(|view| Some((view, subject, *view.subjects.get(&subject)?)));
        Some(Party {
            identity,
            info,
            enforced: enforced.map(|(view, subject, set)| Enforced {
                view,
                subject,
                set,
                labels: match subject {
                    Identity::HOST => &view.labels,
                    _ => &info.labels,
                },
            }),
        })
    }

    /// Whether the proxies of these ends let pass what is said.
    fn passes(
        &self,
        listening: &[Listening<'_>],
        l4: (Protocol, u16),
        server_name: Option<&str>,
        request: &Request,
    ) -> bool {
        listening.iter().all(|end| {
            let Some((entries, mut connection)) = self.heard(end, l4) else {
                return true;
            };
            connection.server_name = server_name;
            passes(&self.config, entries, &connection, request)
        })
    }

    /// What the proxies of both ends ask of what is said on a connection, in order; of each end one
    /// must hold. Nothing if it does not reach them.
    ///
    /// # Errors
    /// An end that is not there.
    pub(crate) fn asked(
        &self,
        from: &End,
        to: &End,
        l4: (Protocol, u16),
    ) -> Result<[BTreeSet<Demand>; 2], Problem> {
        let (from, to) = (self.find(from, "from")?, self.find(to, "to")?);
        let (source, destination) = self.parties(from, to)?;
        let verdict = self.between(from, to, l4)?;
        let of = |side: Side, end: Listening<'_>| match self.heard(&end, l4) {
            Some((entries, connection)) if side.word == Word::Redirect => {
                demands(&self.config, entries, &connection)
                    .into_iter()
                    .flat_map(Demand::each)
                    .collect()
            }
            _ => BTreeSet::new(),
        };
        Ok([
            of(verdict.egress, (Direction::Egress, &source, &destination)),
            of(verdict.ingress, (Direction::Ingress, &destination, &source)),
        ])
    }

    /// The entries that an end's proxy goes by, and the connection as it sees it.
    fn heard<'a>(
        &'a self,
        (direction, own, remote): &Listening<'a>,
        (protocol, port): (Protocol, u16),
    ) -> Option<(impl Iterator<Item = &'a RuleEntry>, Connection<'a>)> {
        let enforced = own.enforced?;
        let rules = self.policies.values().flat_map(|policy| &policy.rules);
        let rules = rules.filter(|rule| rule.tier == Tier::Normal);
        let about = rules.filter(move |rule| is_about(rule, enforced.subject, enforced.labels));
        let connection = Connection {
            direction: *direction,
            remote: (remote.identity, remote.info),
            receiver: match direction {
                Direction::Ingress => own.info,
                Direction::Egress | Direction::Unknown => remote.info,
            },
            protocol: protocol.0,
            port,
            server_name: None,
        };
        Some((about.flat_map(|rule| &rule.entries), connection))
    }
}

/// An end whose proxy listens: the direction as it sees it, itself, and whom it talks to.
type Listening<'a> = (Direction, &'a Party<'a>, &'a Party<'a>);

/// What the set of an end says of the other.
fn side(own: &Party<'_>, remote: &Party<'_>, direction: Direction, l4: (Protocol, u16)) -> Side {
    let Some(enforced) = &own.enforced else {
        return Side::UNPOLICED;
    };
    let (said, decision) = enforced.view.tables.ask(Question {
        set: enforced.set,
        remote: remote.identity,
        port: l4.1,
        protocol: l4.0.0,
        egress: direction == Direction::Egress,
    });
    let redirects = decision.flags & PolicyEntryFlags::REDIRECT != 0;
    Side {
        word: match (redirects, said.is_ok()) {
            (true, _) => Word::Redirect,
            (false, true) => Word::Allow,
            (false, false) => Word::Deny,
        },
        rule: decision.rule,
        auth: match said {
            Err(DropReason::AuthRequired) => Auth::of_flags(decision.flags),
            Ok(()) | Err(_) => Auth::Unsaid,
        },
    }
}
