//! `axon lab demo`: the Star Wars demo of Cilium's users.
//!
//! Every verdict it prints was observed from real packets, at both ends: what
//! the ship got, what the death star saw, what the agent's events say. The exit
//! status is 0 only if all of them were as expected.

mod ship;
mod show;

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::ship::{DEATH_STAR, Landing, Target, sightings};
use self::show::Show;
use crate::control::{self, Request};
use crate::http;
use crate::manifest::{self, Object};
use crate::paths::Lab;
use crate::{up, wait};

const PODS: &str = include_str!("../../../../examples/star-wars/pods.yaml");
const SERVICE: &str = include_str!("../../../../examples/star-wars/service.yaml");
const POLICY: &str = include_str!("../../../../examples/star-wars/policy.yaml");
/// How long a ship waits for an answer that policy may keep back, by what
/// anything else may take at most.
const SILENCE: u32 = 40;
/// Ships, and whether the policy lets them land.
const SHIPS: [(&str, bool); 2] = [("tiefighter", true), ("xwing", false)];
/// Requests made while the agent is killed, over each family.
const REQUESTS: u64 = 150;

/// Where the demo plays.
struct Stage<'a> {
    lab: &'a Lab,
    /// How long anything may take before the demo gives up.
    patience: Duration,
    /// Whether over IPv6, for each family that the death star's service has.
    families: Vec<bool>,
}

impl Stage<'_> {
    /// One landing, of which it is to be seen whether it comes about.
    fn once(&self) -> Target {
        Target::Once(self.patience / SILENCE)
    }
}

/// Runs the demo. Nothing in it may take longer than `patience`.
pub(crate) fn run(
    lab: &Lab,
    dir: Option<&Path>,
    keep: bool,
    patience: Duration,
) -> Result<ExitCode> {
    let script = Script::read(dir)?;
    if control::report(lab).is_ok() {
        bail!(
            "lab {0} is up already; take it away with `axon lab down -L {0}`",
            lab.name
        );
    }
    let mut show = Show::new();
    let mut stage = Stage {
        lab,
        patience,
        families: vec![false, true],
    };
    let outcome = play(&mut stage, script, &mut show);
    let good = outcome.is_ok() && show.all_good();
    if keep {
        show.hints(lab);
    } else {
        up::down(lab)?;
    }
    outcome?;
    show.end(good);
    Ok(ExitCode::from(u8::from(!good)))
}

/// What the demo brings onto the stage.
struct Script {
    world: Vec<Object>,
    policy: Vec<Object>,
    /// The policy as it was written.
    text: String,
}

impl Script {
    /// From a directory, or what is built in.
    fn read(dir: Option<&Path>) -> Result<Self> {
        let file = |name: &str, built_in: &str| match dir {
            None => Ok(built_in.to_owned()),
            Some(dir) => {
                let path = dir.join(name);
                std::fs::read_to_string(&path).with_context(|| path.display().to_string())
            }
        };
        let pods = file("pods.yaml", PODS)?;
        let service = file("service.yaml", SERVICE)?;
        let text = file("policy.yaml", POLICY)?;
        let parse = |name: &str, text: &str| manifest::parse(text).context(name.to_owned());
        let mut world = parse("pods.yaml", &pods)?;
        world.extend(parse("service.yaml", &service)?);
        Ok(Self {
            world,
            policy: parse("policy.yaml", &text)?,
            text,
        })
    }
}

fn play(stage: &mut Stage<'_>, script: Script, show: &mut Show) -> Result<()> {
    let lab = stage.lab;
    show.act("A node, a death star, a ship of the empire, a ship of the alliance");
    let began = Instant::now();
    up::up(lab, script.world)?;
    let report = wait::settled(lab, stage.patience, false)?;
    show.note(&format!(
        "a node with its own kernel datapath and agent, {} pods, ready after {:.1} s",
        report.pods.len(),
        began.elapsed().as_secs_f64()
    ));
    for pod in report.pods.iter().filter(|pod| pod.namespace == "default") {
        show.pod(pod);
    }
    let mut services = report.services.iter();
    if let Some(service) = services.find(|service| service.is("default", "deathstar")) {
        stage.families.retain(|v6| service.has_family(*v6));
    }
    let stage = &*stage;
    show.note(&match report.serves_services {
        true => format!("{DEATH_STAR}: the service's address, led on by the node's programs"),
        false => format!("{DEATH_STAR}: the addresses of its pods, for agents serve no services"),
    });
    let node = report.nodes.first().context("the lab has no node")?;
    let socket = lab.node(&node.name).socket();

    show.act("No policy yet: everybody may land");
    for landing in everybody(stage)? {
        show.landing(&landing, true);
    }

    show.act("The empire's policy: only ships with org=empire may reach port 80");
    show.text(&script.text);
    let began = Instant::now();
    let objects = script.policy;
    let request = Request::Apply {
        objects,
        prune: false,
    };
    control::ask(lab, &request)?;
    wait::settled(lab, stage.patience, false)?;
    show.note(&format!(
        "enforced {} ms after it was given",
        began.elapsed().as_millis()
    ));

    show.act("The empire still may, the alliance is dropped");
    let before = sightings(lab, &report, "xwing")?;
    for landing in everybody(stage)? {
        let (_, allowed) = SHIPS
            .iter()
            .find(|(ship, _)| *ship == landing.ship)
            .context("an unknown ship")?;
        show.landing(&landing, *allowed);
    }
    let after = sightings(lab, &report, "xwing")?;
    show.check(
        "the death star has seen nothing of the xwing since",
        after == before,
    );
    verdicts(stage, &socket, show)?;

    show.act("kill -9 of the agent, while ships land");
    survive(stage, show)
}

/// Every ship tries to land, over both families, all at once.
fn everybody(stage: &Stage<'_>) -> Result<Vec<Landing>> {
    let (lab, once) = (stage.lab, stage.once());
    let tries: Vec<(&str, bool)> = SHIPS
        .iter()
        .flat_map(|(ship, _)| stage.families.iter().map(move |v6| (*ship, *v6)))
        .collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = tries
            .iter()
            .map(|(ship, v6)| scope.spawn(|| ship::land(lab, ship, *v6, once)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a ship's thread panicked"))?
            })
            .collect()
    })
}

/// Shows what the agent says of the dropped packets, of each family.
///
/// What an agent has seen is gone with it: if nobody tells of a drop, somebody
/// may have killed it, so the alliance tries once more.
fn verdicts(stage: &Stage<'_>, socket: &Path, show: &mut Show) -> Result<()> {
    let end = Instant::now() + stage.patience;
    for v6 in stage.families.iter().copied() {
        let family = if v6 { "IPv6" } else { "IPv4" };
        let mut tried = Instant::now();
        let flow = loop {
            let flows =
                http::get_lines(socket, "/v1/monitor?last=500&follow=false").unwrap_or_default();
            let found = flows.iter().rev().find_map(|line| ship::dropped(line, v6));
            if found.is_some() || Instant::now() > end {
                break found;
            }
            if tried.elapsed() > Duration::from_secs(1) {
                ship::land(stage.lab, "xwing", v6, stage.once())?;
                tried = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        if let Some(flow) = &flow {
            show.flow(flow);
        }
        let what = format!("an event names pods, port 80, policy and reason over {family}");
        show.check(&what, flow.is_some());
    }
    Ok(())
}

/// Kills the agent twice while the empire lands, and sees that nobody notices.
fn survive(stage: &Stage<'_>, show: &mut Show) -> Result<()> {
    let lab = stage.lab;
    let done = AtomicBool::new(false);
    let (landings, kills) = std::thread::scope(|scope| -> Result<_> {
        let threads: Vec<_> = stage
            .families
            .iter()
            .map(|v6| {
                scope.spawn(move || ship::land(lab, "tiefighter", *v6, Target::Many(REQUESTS)))
            })
            .collect();
        let killer = scope.spawn(|| kill_again_and_again(stage, &done));
        let landings: Result<Vec<Landing>> = threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a ship's thread panicked"))?
            })
            .collect();
        done.store(true, Ordering::SeqCst);
        let kills = killer
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        Ok((landings?, kills?))
    })?;
    for kill in &kills {
        show.note(kill);
    }
    show.check("the agent was killed while requests ran", !kills.is_empty());
    for landing in &landings {
        show.landing(landing, true);
    }
    wait::settled(lab, stage.patience, false)?;
    let v6 = !stage.families.contains(&false);
    let alliance = ship::land(lab, "xwing", v6, stage.once())?;
    show.landing(&alliance, false);
    Ok(())
}

/// Kills the agent, waits for the next one, kills that one too.
fn kill_again_and_again(stage: &Stage<'_>, done: &AtomicBool) -> Result<Vec<String>> {
    let Stage { lab, patience, .. } = stage;
    let mut kills = Vec::new();
    for pause in [200, 400] {
        std::thread::sleep(Duration::from_millis(pause));
        let Some(old) = ship::agent(lab)? else {
            continue;
        };
        if done.load(Ordering::SeqCst) {
            break;
        }
        axon_linux::process::signal(old, axon_linux::process::Signal::Kill)?;
        let began = Instant::now();
        let new = loop {
            match ship::agent(lab)? {
                Some(new) if new != old => break new,
                _ if began.elapsed() > *patience => bail!("no agent after {patience:?}"),
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        kills.push(format!(
            "kill -9 {old}: the next agent is {new}, {} ms later",
            began.elapsed().as_millis()
        ));
    }
    Ok(kills)
}
