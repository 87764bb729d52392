//! The processes of a pod: started, probed, started again, ended.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::container::{Container, EnvValue, Probe, ProbeAction, RestartPolicy, expand};
use crate::enter::{Place, in_netns, is_on_its_way, search_path};
use crate::http;
use crate::node::append;
use crate::pod::Life;
use crate::state::{ContainerState, log};

/// A process without a probe counts as ready when it has lived this long.
const ALIVE: Duration = Duration::from_millis(100);
/// How soon a process that ended is started again, at first and at most.
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// A process that lived this long was well.
const SETTLED: Duration = Duration::from_secs(10);
/// So many ends in a row are a problem that somebody has to look at.
const ENDS_MAX: u32 = 3;

/// Runs the init containers one after the other, then all others until the
/// pod is to go.
pub(crate) fn run_all(life: &Life<'_>, place: &Place) -> Result<()> {
    for container in &life.plan.init {
        life.doing(&format!("runs {}", container.name));
        if !run_init(life, place, container)? {
            return Ok(());
        }
    }
    life.set(|pod| {
        pod.doing = "starts".into();
        for container in &life.plan.containers {
            let state = ContainerState {
                log: life.paths.log(&container.name),
                ..ContainerState::default()
            };
            pod.containers.insert(container.name.clone(), state);
        }
    });
    std::thread::scope(|scope| {
        for container in &life.plan.containers {
            scope.spawn(|| keep(life, place, container));
        }
    });
    while !life.stop.sleep(Duration::from_secs(3600)) {}
    Ok(())
}

/// Runs an init container until it ends well; false if the pod is to go.
fn run_init(life: &Life<'_>, place: &Place, container: &Container) -> Result<bool> {
    let mut wait = BACK_OFF_FIRST;
    for tries in 1.. {
        let mut child = start(life, place, container)?;
        let Some(status) = wait_for_end(life, &mut child, || {})? else {
            return Ok(false);
        };
        if status.success() {
            return Ok(true);
        }
        let log = life.paths.log(&container.name);
        let problem = format!(
            "{} ended with {status}; see {}",
            container.name,
            log.display()
        );
        if life.plan.restart == RestartPolicy::Never {
            bail!("{problem}");
        }
        if tries >= ENDS_MAX {
            life.set(|pod| pod.problem = Some(problem));
        }
        if life.stop.sleep(wait) {
            return Ok(false);
        }
        wait = (wait * 2).min(BACK_OFF_MAX);
    }
    Ok(false)
}

/// Keeps one container as its pod's restart policy says, until the pod is to
/// go or the container has ended for good.
fn keep(life: &Life<'_>, place: &Place, container: &Container) {
    let mut wait = BACK_OFF_FIRST;
    let mut ends = 0;
    loop {
        let started = Instant::now();
        let end = run_once(life, place, container);
        if life.stop.is_set() {
            return;
        }
        if started.elapsed() > SETTLED {
            (wait, ends) = (BACK_OFF_FIRST, 0);
        }
        ends += 1;
        let (code, text) = match &end {
            Ok(status) => (code(*status), status.to_string()),
            Err(error) => (127, format!("{error:#}")),
        };
        log(&format!(
            "pod {}: {} ended: {text}",
            life.key, container.name
        ));
        let for_good = match life.plan.restart {
            RestartPolicy::Always => false,
            RestartPolicy::OnFailure => code == 0,
            RestartPolicy::Never => true,
        };
        life.set(|pod| {
            if let Some(state) = pod.containers.get_mut(&container.name) {
                state.ready = false;
                state.ended = for_good.then_some(code);
                state.restarts += u32::from(!for_good);
            }
            if (for_good && code != 0) || (!for_good && ends >= ENDS_MAX) {
                pod.problem = Some(format!("{} ended: {text}", container.name));
            }
            pod.doing = if for_good {
                "has ended"
            } else {
                "waits to start again"
            }
            .into();
        });
        if for_good || life.stop.sleep(wait) {
            return;
        }
        wait = (wait * 2).min(BACK_OFF_MAX);
    }
}

fn run_once(life: &Life<'_>, place: &Place, container: &Container) -> Result<ExitStatus> {
    let mut child = start(life, place, container)?;
    let pid = child.id();
    let mut prober = Prober::new(container.readiness.as_ref());
    let mut was = false;
    // What it is before it is the program, for as long as a busy machine takes for that, says
    // nothing of the program.
    let mut began = None;
    let status = wait_for_end(life, &mut child, || {
        if began.is_none() && !is_on_its_way(pid) {
            began = Some(Instant::now());
        }
        let ready = began.is_some_and(|began| prober.ready(life, place, began));
        if ready != was {
            was = ready;
            set_ready(life, container, ready);
        }
    })?;
    status.context("stopped")
}

fn set_ready(life: &Life<'_>, container: &Container, ready: bool) {
    life.set(|pod| {
        if let Some(state) = pod.containers.get_mut(&container.name) {
            state.ready = ready;
        }
        if ready {
            pod.problem = None;
        }
        pod.doing = if pod.ready() { "runs" } else { "starts" }.into();
    });
}

fn start(life: &Life<'_>, place: &Place, container: &Container) -> Result<Child> {
    let env = environment(life, container);
    let command: Vec<OsString> = container
        .command
        .iter()
        .map(|word| expand(word, &env).into())
        .collect();
    let out = append(&life.paths.log(&container.name))?;
    place
        .command(&command)?
        .env("PATH", search_path()?)
        .env("HOSTNAME", &life.key.name)
        .envs(&env)
        .current_dir(container.dir.as_deref().unwrap_or("/"))
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .with_context(|| format!("starting {}", container.name))
}

fn environment(life: &Life<'_>, container: &Container) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for (name, value) in &container.env {
        let value = match value {
            EnvValue::Text(text) => expand(text, &env),
            EnvValue::Field(path) => field(life, path),
        };
        env.insert(name.clone(), value);
    }
    env
}

/// A field of the pod, by its path in the downward API.
fn field(life: &Life<'_>, path: &str) -> String {
    let ips = life.ips();
    let metadata = &life.plan.value["metadata"];
    let keyed = |map: &str| {
        let key = path
            .strip_prefix(map)?
            .strip_prefix("['")?
            .strip_suffix("']")?;
        let map = map.strip_prefix("metadata.")?;
        metadata[map][key].as_str().map(str::to_owned)
    };
    match path {
        "metadata.name" => life.key.name.clone(),
        "metadata.namespace" => life.key.namespace.clone(),
        "metadata.uid" => life.uid.clone(),
        "spec.nodeName" => life.plan.node.clone(),
        "status.podIP" => ips.first().map(ToString::to_string).unwrap_or_default(),
        "status.podIPs" => {
            let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
            ips.join(",")
        }
        "status.hostIP" => {
            let cluster = life.shared.cluster();
            let node = cluster.nodes.get(&life.plan.node);
            let ip = node.and_then(|n| n.addresses.first());
            ip.map(ToString::to_string).unwrap_or_default()
        }
        _ => keyed("metadata.labels")
            .or_else(|| keyed("metadata.annotations"))
            .unwrap_or_default(),
    }
}

/// Waits for the end of a process; none if the pod is to go first, and then
/// all its processes have ended. `tick` is called often.
fn wait_for_end(
    life: &Life<'_>,
    child: &mut Child,
    mut tick: impl FnMut(),
) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        tick();
        if life.stop.sleep(Duration::from_millis(20)) {
            end_all(&life.cgroup(), life.grace());
            child.wait()?;
            return Ok(None);
        }
    }
}

/// Knows whether a container is ready.
struct Prober<'a> {
    probe: Option<&'a Probe>,
    ready: bool,
    failures: u32,
    next: Option<Instant>,
}

impl<'a> Prober<'a> {
    fn new(probe: Option<&'a Probe>) -> Self {
        Self {
            probe,
            ready: false,
            failures: 0,
            next: None,
        }
    }

    fn ready(&mut self, life: &Life<'_>, place: &Place, started: Instant) -> bool {
        let Some(probe) = self.probe else {
            return started.elapsed() >= ALIVE;
        };
        let now = Instant::now();
        let due = self.next.unwrap_or(started + probe.delay);
        if now < due {
            return self.ready;
        }
        if attempt(life, place, probe).is_ok() {
            self.ready = true;
            self.failures = 0;
        } else {
            self.failures += 1;
            self.ready &= self.failures < probe.failures;
        }
        // Until it is ready for the first time, somebody waits for it.
        let period = if self.ready {
            probe.period
        } else {
            probe.period.min(ALIVE)
        };
        self.next = Some(now + period);
        self.ready
    }
}

/// Tries a probe, from the node as a kubelet does.
fn attempt(life: &Life<'_>, place: &Place, probe: &Probe) -> Result<()> {
    match &probe.action {
        ProbeAction::Exec(command) => {
            let command: Vec<OsString> = command.iter().map(Into::into).collect();
            let mut child = place
                .command(&command)?
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            let end = Instant::now() + probe.timeout;
            loop {
                match child.try_wait()? {
                    Some(status) if status.success() => return Ok(()),
                    Some(status) => bail!("{status}"),
                    None if Instant::now() > end => {
                        child.kill()?;
                        child.wait()?;
                        bail!("took too long");
                    }
                    None => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        }
        ProbeAction::Tcp(port) => connect(life, *port, probe.timeout).map(drop),
        ProbeAction::Http { port, path } => {
            let stream = connect(life, *port, probe.timeout)?;
            stream.set_read_timeout(Some(probe.timeout))?;
            let answer = http::request(stream, "GET", &life.key.name, path)?;
            if (200..400).contains(&answer.status) {
                Ok(())
            } else {
                bail!("status {}", answer.status)
            }
        }
    }
}

fn connect(life: &Life<'_>, port: u16, timeout: Duration) -> Result<TcpStream> {
    let ip = *life.ips().first().context("no address")?;
    in_netns(&life.node.netns(), || {
        Ok(TcpStream::connect_timeout(
            &SocketAddr::new(ip, port),
            timeout,
        )?)
    })
}

/// Asks every process of a cgroup to end, and ends those that do not.
pub(crate) fn end_all(cgroup: &Path, grace: Duration) {
    for pid in axon_linux::cgroup::processes(cgroup).unwrap_or_default() {
        let _ = axon_linux::process::signal(pid, axon_linux::process::Signal::Term);
    }
    let end = Instant::now() + grace;
    let lives = || axon_linux::cgroup::processes(cgroup).is_ok_and(|pids| !pids.is_empty());
    while lives() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    if let Err(error) = axon_linux::cgroup::kill(cgroup, Duration::from_secs(10)) {
        log(&format!("{}: {error}", cgroup.display()));
    }
}

/// An exit status as shells tell it: 128 and more for a signal.
fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
