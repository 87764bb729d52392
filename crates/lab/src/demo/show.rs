//! What the audience sees.

use std::io::IsTerminal;
use std::time::Instant;

use axon_hubble::{Response, Style, line};

use super::ship::{DEATH_STAR, Landing};
use crate::control::PodReport;
use crate::paths::Lab;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";

/// Prints, and counts what was as expected.
pub(super) struct Show {
    color: bool,
    began: Instant,
    acts: u32,
    good: u32,
    bad: u32,
}

impl Show {
    /// Before the curtain.
    pub(super) fn new() -> Self {
        let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            color,
            began: Instant::now(),
            acts: 0,
            good: 0,
            bad: 0,
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// The title of an act.
    pub(super) fn act(&mut self, title: &str) {
        self.acts += 1;
        println!("\n{}", self.paint(BOLD, &format!("{}. {title}", self.acts)));
    }

    /// A remark.
    pub(super) fn note(&self, text: &str) {
        println!("   {}", self.paint(DIM, text));
    }

    /// A pod on the stage.
    pub(super) fn pod(&self, pod: &PodReport) {
        let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
        println!(
            "   {:<14} {:<36} identity {}",
            pod.name,
            ips.join("  "),
            pod.identity
        );
    }

    /// A manifest, without its comments.
    pub(super) fn text(&self, text: &str) {
        let lines = text.lines();
        for line in lines.filter(|line| !line.trim_start().starts_with('#')) {
            println!("   {}", self.paint(DIM, &format!("| {line}")));
        }
    }

    /// A flow, as `axon monitor` prints it.
    pub(super) fn flow(&self, flow: &Response) {
        let style = Style {
            color: self.color,
            ..Style::default()
        };
        println!("   {}", line(flow, style));
    }

    /// How a ship fared, and whether that was as it should be.
    pub(super) fn landing(&mut self, landing: &Landing, may_land: bool) {
        let family = if landing.v6 { "IPv6" } else { "IPv4" };
        let what = format!(
            "{:<11} POST {DEATH_STAR}/v1/request-landing  {family}  {}",
            landing.ship, landing.said
        );
        let is = if may_land {
            landing.landed
        } else {
            landing.unanswered
        };
        self.check(&what, is);
    }

    /// Something that should be.
    pub(super) fn check(&mut self, what: &str, is: bool) {
        let (mark, code) = if is { ("ok", GREEN) } else { ("WRONG", RED) };
        println!("   {:<5} {what}", self.paint(code, mark));
        if is {
            self.good += 1;
        } else {
            self.bad += 1;
        }
    }

    /// Whether everything was as expected.
    pub(super) fn all_good(&self) -> bool {
        self.bad == 0 && self.good > 0
    }

    /// What to do with a lab that stays.
    pub(super) fn hints(&self, lab: &Lab) {
        let name = &lab.name;
        println!(
            "\n{}",
            self.paint(BOLD, "The lab stays up. Some things to try:")
        );
        for hint in [
            format!("axon lab -L {name} status"),
            format!("axon lab -L {name} services"),
            format!(
                "axon lab -L {name} exec xwing -- curl -m 2 -XPOST {DEATH_STAR}/v1/request-landing"
            ),
            format!("axon lab -L {name} node endor -- axon monitor --type drop"),
            format!("axon lab -L {name} node endor -- axon endpoint list"),
            format!("axon lab -L {name} node endor -- axon bpf policy list"),
            format!("axon lab -L {name} delete examples/star-wars/policy.yaml"),
            format!("axon lab -L {name} down"),
        ] {
            println!("   {hint}");
        }
    }

    /// The last word.
    pub(super) fn end(&self, good: bool) {
        let seconds = self.began.elapsed().as_secs_f64();
        let text = format!(
            "{} of {} as expected, in {seconds:.1} s",
            self.good,
            self.good + self.bad
        );
        let code = if good { GREEN } else { RED };
        println!("\n{}", self.paint(code, &text));
    }
}
