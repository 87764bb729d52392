//! How soon policies are in force, and what that takes of the agent.
//!
//! ```text
//! many policies:  rename ──> the last endpoint's row that changes (the maps are read)
//! one policy:     rename or close ──> the first packet of another fate (a datagram every
//!                 quarter of a millisecond between two pods)
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::maps::{HashMap, Map, MapData};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::agent::{Agent, Pod, add_pods, settle};
use crate::goals::{self, Goal, Judged};
use crate::node::{self, Node, document};
use crate::report::median;

/// What the node's namespace is called, and what the pods' names begin with.
const NODE: &str = "axb-change";
/// Kinds of pods; a policy allows one.
const KINDS: usize = 20;
const PORT: u16 = 80;
/// No row has changed for so long: all are written.
const QUIET: Duration = Duration::from_millis(1500);
/// Until sets that nobody has any more are gone too.
const GRACE: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at the rows of endpoints.
const LOOK: Duration = Duration::from_millis(1);
/// Between two datagrams.
const BEAT: Duration = Duration::from_micros(250);
/// Datagrams one after the other that must have the new fate.
const SURE: usize = 20;
/// A datagram may be that late.
const LATE: Duration = Duration::from_millis(5);

/// What to measure.
#[derive(clap::Args, Clone)]
pub(crate) struct ChangeArgs {
    /// Pods on the node, each with labels, and so a policy set, of its own.
    #[arg(long, default_value_t = 100)]
    pods: usize,
    /// Policies that are applied at once; the first select a pod each, the others
    /// every pod.
    #[arg(long, default_value_t = 250)]
    policies: usize,
    /// How often they are applied; the median is told.
    #[arg(short = 'n', long, default_value_t = 5)]
    rounds: usize,
    /// How often one policy changes.
    #[arg(short, long, default_value_t = 60)]
    changes: usize,
    /// The `axon` binary; its `axon-cni` lies beside it.
    #[arg(long, default_value = "target/release/axon")]
    axon: PathBuf,
    /// Fail if a goal is missed.
    #[arg(long)]
    gate: bool,
    /// Write what was measured to this file as JSON, besides the table.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Many policies at once.
struct Many {
    what: &'static str,
    /// Until the last row of an endpoint, by round.
    ms: Vec<f64>,
    cpu_ms: Vec<f64>,
    entries: usize,
}

/// One policy, again and again.
struct One {
    what: &'static str,
    ms: Vec<f64>,
}

/// Measures.
pub(crate) fn measure(args: &ChangeArgs) -> Result<()> {
    let node = Node::make(NODE, &args.axon, &manifests(args.pods))?;
    let probe = node.dir.join("manifests/probe.yaml");
    fs::write(&probe, probe_policy(true))?;
    let (agent, _) = Agent::start(&node, 0).with_context(|| node.told())?;
    let mut pods = Vec::new();
    add_pods(&node, &args.axon, &mut pods, args.pods).with_context(|| node.told())?;
    settle(&node.dir);
    let [receiver, sender, ..] = &pods[..] else {
        bail!("two pods are needed");
    };
    let many = [Files::One, Files::Each].map(|files| apply_many(args, &node, &agent, files));
    let many = many.into_iter().collect::<Result<Vec<_>>>()?;
    Files::One.put(&node, args)?;
    thread::sleep(GRACE);
    let one = change_one(args, &node, receiver, sender).with_context(|| node.told())?;
    report(args, &many, &one)
}

/// How the policies come.
#[derive(Clone, Copy)]
enum Files {
    One,
    Each,
}

impl Files {
    fn name(self) -> &'static str {
        match self {
            Self::One => "in one file",
            Self::Each => "in a file each",
        }
    }

    /// Puts every policy in place by renames; when the first of them began.
    fn put(self, node: &Node, args: &ChangeArgs) -> Result<Instant> {
        let folder = node.dir.join("manifests");
        let texts: Vec<String> = (0..args.policies).map(|n| policy(n, args.pods)).collect();
        let files = match self {
            Self::One => vec![(folder.join("many.yaml"), texts.concat())],
            Self::Each => (0..)
                .zip(texts)
                .map(|(n, text)| (folder.join(format!("many-{n}.yaml")), text))
                .collect(),
        };
        let hidden = |path: &Path| path.with_extension("new");
        for (path, text) in &files {
            fs::write(hidden(path), text)?;
        }
        // Writing them is not what is measured.
        thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        for (path, _) in &files {
            fs::rename(hidden(path), path)?;
        }
        Ok(begun)
    }

    fn take(self, node: &Node) -> Result<()> {
        for entry in fs::read_dir(node.dir.join("manifests"))? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with("many") {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn apply_many(args: &ChangeArgs, node: &Node, agent: &Agent, files: Files) -> Result<Many> {
    eprintln!("{} policies {}", args.policies, files.name());
    let rows = Rows::open(node)?;
    let mut many = Many {
        what: files.name(),
        ms: Vec::new(),
        cpu_ms: Vec::new(),
        entries: 0,
    };
    for _ in 0..args.rounds {
        let before = rows.sets()?;
        let cpu = agent.cpu_ms()?;
        let begun = files.put(node, args)?;
        let (after, last) = rows.follow(&before)?;
        many.cpu_ms.push(agent.cpu_ms()? - cpu);
        if after
            .values()
            .any(|set| before.values().any(|old| old == set))
        {
            bail!("an endpoint has kept its policies: {}", node.told());
        }
        many.ms.push((last - begun).as_secs_f64() * 1000.0);
        thread::sleep(GRACE);
        many.entries = rows.entries()?;
        files.take(node)?;
        rows.follow(&after)?;
        thread::sleep(GRACE);
    }
    Ok(many)
}

/// The kernel's rows, as they are pinned.
struct Rows {
    /// By device: 48 bytes with the number of the policy set at 8.
    endpoints: HashMap<MapData, u32, [u8; 48]>,
    policy: HashMap<MapData, [u8; 12], [u8; 12]>,
}

impl Rows {
    fn open(node: &Node) -> Result<Self> {
        let open = |name: &str| {
            let path = node.dir.join("bpf").join(name);
            let data =
                MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
            Ok::<_, anyhow::Error>(Map::HashMap(data))
        };
        Ok(Self {
            endpoints: open("axon_endpoint_v1")?.try_into()?,
            policy: open("axon_policy_v1")?.try_into()?,
        })
    }

    /// The policy set of each endpoint, by device.
    fn sets(&self) -> Result<BTreeMap<u32, u32>> {
        let set = |row: [u8; 48]| {
            let number = row.get(8..12).and_then(|bytes| bytes.try_into().ok());
            u32::from_ne_bytes(number.unwrap_or_default())
        };
        let rows = self.endpoints.iter();
        rows.map(|row| {
            row.map(|(device, row)| (device, set(row)))
                .map_err(Into::into)
        })
        .collect()
    }

    fn entries(&self) -> Result<usize> {
        let mut entries = 0;
        for key in self.policy.keys() {
            key?;
            entries += 1;
        }
        Ok(entries)
    }

    /// Waits until rows have changed and no more do; what they are then, and when
    /// the last had changed.
    fn follow(&self, before: &BTreeMap<u32, u32>) -> Result<(BTreeMap<u32, u32>, Instant)> {
        let (begun, mut last, mut sets) = (Instant::now(), None, before.clone());
        while last.is_none_or(|last: Instant| last.elapsed() < QUIET) {
            if begun.elapsed() > PATIENCE {
                bail!("the rows of endpoints do not change");
            }
            let now = self.sets()?;
            if now != sets {
                (sets, last) = (now, Some(Instant::now()));
            }
            thread::sleep(LOOK);
        }
        Ok((sets, last.unwrap_or(begun)))
    }
}

/// Datagrams from one pod to another: when each was sent, and whether it came.
#[derive(Default)]
struct Fates {
    list: Mutex<Vec<(Instant, bool)>>,
    done: AtomicBool,
}

impl Fates {
    fn list(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, bool)>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends until it is told to stop.
    fn send(&self, sender: &UdpSocket, receiver: &UdpSocket) {
        let mut bytes = [0; 8];
        while !self.done.load(Ordering::Relaxed) {
            let number = {
                let mut list = self.list();
                list.push((Instant::now(), false));
                list.len() - 1
            };
            // What is dropped on the way may come as an error.
            sender.send(&(number as u64).to_ne_bytes()).ok();
            while receiver.recv(&mut bytes).is_ok() {
                let number = usize::try_from(u64::from_ne_bytes(bytes)).unwrap_or(usize::MAX);
                if let Some((_, came)) = self.list().get_mut(number) {
                    *came = true;
                }
            }
            thread::sleep(BEAT);
        }
    }

    /// When the first datagram was sent after which all have this fate.
    fn first(&self, after: Instant, comes: bool) -> Option<Instant> {
        let list = self.list();
        let from = list.partition_point(|(sent, _)| *sent < after);
        let known = list.partition_point(|(sent, _)| sent.elapsed() > LATE);
        let later = list.get(from..known)?;
        let sure = later
            .windows(SURE)
            .find(|few| few.iter().all(|(_, came)| *came == comes))?;
        sure.first().map(|(sent, _)| *sent)
    }

    fn wait(&self, after: Instant, comes: bool) -> Result<Instant> {
        while after.elapsed() < PATIENCE {
            if let Some(sent) = self.first(after, comes) {
                return Ok(sent);
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("datagrams do not {}", if comes { "come" } else { "cease" })
    }
}

/// A socket in a pod's namespace.
fn socket(pod: &Pod, port: u16) -> Result<UdpSocket> {
    let open = || {
        setns(&pod.netns, CloneFlags::CLONE_NEWNET)?;
        Ok::<_, anyhow::Error>(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?)
    };
    let opened = thread::scope(|scope| scope.spawn(open).join());
    let socket = opened.map_err(|_| anyhow::anyhow!("a thread broke"))??;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Allows and denies one flow again and again.
fn change_one(args: &ChangeArgs, node: &Node, receiver: &Pod, sender: &Pod) -> Result<Vec<One>> {
    let (to, from) = (socket(receiver, PORT)?, socket(sender, 0)?);
    from.connect((receiver.address, PORT))?;
    let fates = Fates::default();
    thread::scope(|scope| {
        scope.spawn(|| fates.send(&from, &to));
        let measured = [("rename", true), ("close", false)].map(|(what, renames)| {
            eprintln!("one policy, by {what}");
            let file = node.dir.join("manifests/probe.yaml");
            let ms = (0..args.changes).map(|n| {
                // Not in step with anything the agent does by time.
                thread::sleep(Duration::from_millis(150 + n as u64 * 37 % 100));
                let allows = n % 2 == 1;
                let begun = put_probe(&file, allows, renames)?;
                let sent = fates.wait(begun, allows)?;
                Ok((sent - begun).as_secs_f64() * 1000.0)
            });
            let ms = ms.collect::<Result<Vec<_>>>()?;
            Ok(One { what, ms })
        });
        fates.done.store(true, Ordering::Relaxed);
        measured.into_iter().collect()
    })
}

/// Puts the probe's policy in place; when it was renamed or closed.
fn put_probe(file: &Path, allows: bool, renames: bool) -> Result<Instant> {
    let text = probe_policy(allows);
    if renames {
        let draft = file.with_extension("new");
        fs::write(&draft, text)?;
        let begun = Instant::now();
        fs::rename(&draft, file)?;
        return Ok(begun);
    }
    let mut writer = fs::File::create(file)?;
    writer.write_all(text.as_bytes())?;
    let begun = Instant::now();
    drop(writer);
    Ok(begun)
}

fn probe_policy(allows: bool) -> String {
    let port = if allows { PORT } else { PORT + 1 };
    let policy = json!({"spec": {
        "endpointSelector": {"matchLabels": {"app": "a0"}},
        "ingress": [{
            "fromEndpoints": [{"matchLabels": {"app": "a1"}}],
            "toPorts": [{"ports": [{"port": port.to_string(), "protocol": "UDP"}]}],
        }],
    }});
    document("CiliumNetworkPolicy", "cilium.io/v2", "probe", &policy)
}

/// One of many policies.
fn policy(n: usize, pods: usize) -> String {
    let subject = if n < pods {
        json!({"matchLabels": {"app": format!("a{n}")}})
    } else {
        json!({})
    };
    let policy = json!({"spec": {
        "endpointSelector": subject,
        "ingress": [{
            "fromEndpoints": [{"matchLabels": {"kind": format!("k{}", n % KINDS)}}],
            "toPorts": [{"ports": [{"port": (2000 + n).to_string(), "protocol": "TCP"}]}],
        }],
    }});
    document(
        "CiliumNetworkPolicy",
        "cilium.io/v2",
        &format!("many-{n}"),
        &policy,
    )
}

/// A node with pods of so many kinds, of which none is like another.
fn manifests(pods: usize) -> String {
    let mut text = node::manifests(0);
    for pod in 0..pods {
        let rest = json!({
            "labels": {"kind": format!("k{}", pod % KINDS), "app": format!("a{pod}")},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "none"}]},
        });
        text += &document("Pod", "v1", &format!("p{pod}"), &rest);
    }
    text
}

/// The figure below which so many hundredths of all are.
fn below(numbers: &[f64], hundredths: usize) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn report(args: &ChangeArgs, many: &[Many], one: &[One]) -> Result<()> {
    println!(
        "\n{} policies at {} endpoints at once (ms)",
        args.policies, args.pods
    );
    let (mut list, mut judged) = report_many(many);
    println!("\none policy, until the first packet of another fate (ms)");
    let (rows, of_one) = report_one(one);
    list.extend(rows);
    judged.extend(of_one);
    println!("\ngoals");
    goals::print(&judged);
    list.extend(judged.iter().map(Judged::json));
    if let Some(out) = &args.out {
        fs::write(out, format!("{:#}\n", Value::Array(list)))
            .with_context(|| format!("writing {}", out.display()))?;
    }
    goals::check(args.gate, &judged)
}

fn judged(what: String, figure: f64, goal: f64, aim: Option<f64>) -> Judged {
    Judged {
        what,
        goal: Goal::at_most(Some(goal), aim),
        figure,
        interval: None,
    }
}

fn report_many(many: &[Many]) -> (Vec<Value>, Vec<Judged>) {
    println!(
        "  {:<16} {:>9} {:>9} {:>9} {:>9}",
        "", "last row", "worst", "CPU", "entries"
    );
    let (mut list, mut goals) = (Vec::new(), Vec::new());
    for Many {
        what,
        ms,
        cpu_ms,
        entries,
    } in many
    {
        let (last, worst) = (median(ms.clone()), below(ms, 100));
        let cpu = median(cpu_ms.clone());
        println!("  {what:<16} {last:>9.1} {worst:>9.1} {cpu:>9.0} {entries:>9}");
        list.push(json!({
            "section": "policies", "way": what, "last_row_ms": last, "worst_ms": worst,
            "cpu_ms": cpu, "entries": entries,
        }));
        goals.push(judged(
            format!("last row, {what}, ms"),
            last,
            500.0,
            Some(100.0),
        ));
        goals.push(judged(format!("CPU, {what}, ms"), cpu, 1000.0, None));
    }
    (list, goals)
}

fn report_one(one: &[One]) -> (Vec<Value>, Vec<Judged>) {
    println!(
        "  {:<16} {:>9} {:>9} {:>9} {:>9}",
        "", "changes", "p50", "p99", "worst"
    );
    let (mut list, mut goals) = (Vec::new(), Vec::new());
    for One { what, ms } in one {
        let [p50, p99, worst] = [50, 99, 100].map(|n| below(ms, n));
        let changes = ms.len();
        println!("  {what:<16} {changes:>9} {p50:>9.1} {p99:>9.1} {worst:>9.1}");
        list.push(json!({
            "section": "policy", "way": what, "changes": changes,
            "p50_ms": p50, "p99_ms": p99, "worst_ms": worst,
        }));
        goals.push(judged(
            format!("one policy by {what}, p99 ms"),
            p99,
            50.0,
            None,
        ));
    }
    (list, goals)
}
