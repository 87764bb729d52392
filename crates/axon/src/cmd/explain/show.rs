//! An explanation for people: every step, then why, the deciding line last.

use std::fmt::Write as _;

use axon_replay::{
    BackendView, DecidedBy, End, Explanation, HookView, JudgementView, Outcome, Said, ServiceView,
};

use crate::output::{or_dash, table};

/// Backends that are told of one by one.
const BACKENDS_SHOWN: usize = 20;
/// Letters of a key before what follows is no longer in a column.
const KEY_WIDTH: usize = 50;

/// The whole.
pub(super) fn text(explanation: &Explanation) -> String {
    let mut text = format!(
        "{}\nfrom {}, to {}, on node {}\n",
        explanation.packet,
        end(&explanation.source),
        end(&explanation.destination),
        explanation.node
    );
    if let Some(service) = &explanation.service {
        text.push('\n');
        text.push_str(&self::service(service));
    }
    for hook in &explanation.hooks {
        text.push('\n');
        text.push_str(&self::hook(hook));
    }
    let judgements = explanation.hooks.iter().flat_map(|hook| &hook.judgements);
    for judgement in judgements.filter(|judgement| !judgement.closest.is_empty()) {
        text.push('\n');
        text.push_str(&closest(judgement));
    }
    let _ = writeln!(text);
    for note in &explanation.elsewhere {
        let _ = writeln!(text, "Not known here: {note}");
    }
    if let Some(request) = &explanation.request {
        let verdict = if request.passes {
            "passes"
        } else {
            "does not pass"
        };
        let _ = writeln!(text, "The request {verdict}: {}", request.words);
    }
    let verdict = match explanation.verdict {
        Outcome::Allowed => "ALLOWED",
        Outcome::Denied => "DENIED",
        Outcome::Depends => "DEPENDS",
    };
    let _ = writeln!(text, "{verdict} {}", explanation.reason);
    text
}

fn end(end: &End) -> String {
    match end.name.as_str() {
        "" => end.address.to_string(),
        name => name.to_owned(),
    }
}

/// The frontend, and who is behind it.
fn service(service: &ServiceView) -> String {
    let flags = match service.flags.is_empty() {
        true => String::new(),
        false => format!(" ({})", service.flags.join(", ")),
    };
    let mut text = format!(
        "{} is a frontend of {}: {}{flags}, asked for by a {} of the {}\n",
        service.frontend, service.service, service.kind, service.by, service.asker
    );
    let chosen = service.backends.iter();
    let chosen = chosen.filter(|backend| backend.may_be_chosen).count();
    let _ = match &service.refused {
        Some(refused) => writeln!(text, "  nobody is chosen: {refused}"),
        None => writeln!(
            text,
            "  {chosen} of {} backends may be chosen",
            service.backends.len()
        ),
    };
    // Those that may be chosen first, and of these who does not get it.
    let rank = |backend: &&BackendView| {
        let passes = backend.verdict == Some(Outcome::Allowed);
        (!backend.may_be_chosen, passes)
    };
    let mut backends: Vec<&BackendView> = service.backends.iter().collect();
    backends.sort_by_key(rank);
    let rows = backends.iter().take(BACKENDS_SHOWN).map(|backend| {
        [
            format!("  {}", backend.backend),
            or_dash(&backend.name),
            backend.state.clone(),
            if backend.is_here { "here" } else { "elsewhere" }.to_owned(),
            share(backend),
            match (backend.may_be_chosen, backend.verdict) {
                (true, Some(Outcome::Denied | Outcome::Depends)) => {
                    format!("denied: {}", backend.reason)
                }
                (true, Some(Outcome::Allowed)) if backend.why.is_empty() => "allowed".to_owned(),
                (true, Some(Outcome::Allowed)) => format!("allowed; {}", backend.why),
                (true, None) | (false, _) => or_dash(&backend.why),
            },
        ]
    });
    if !backends.is_empty() {
        let header = [
            "  BACKEND",
            "NAME",
            "STATE",
            "WHERE",
            "CHOSEN",
            "WHAT BECOMES OF IT",
        ];
        text.push_str(&table(header, rows));
    }
    if backends.len() > BACKENDS_SHOWN {
        let _ = writeln!(
            text,
            "  and {} more (-o json)",
            backends.len() - BACKENDS_SHOWN
        );
    }
    text
}

/// How likely a backend is chosen.
fn share(backend: &BackendView) -> String {
    match backend.may_be_chosen {
        true => format!("{:.0} %", backend.share * 100.0),
        false => "no".to_owned(),
    }
}

fn hook(hook: &HookView) -> String {
    let mut text = match hook.device.as_str() {
        "" => format!("{}: {}\n", hook.hook, hook.what),
        device => format!("{} at {device}: {}\n", hook.hook, hook.what),
    };
    let keys = hook.steps.iter().map(|step| step.key.chars().count());
    let tables = hook.steps.iter().map(|step| step.table.len());
    let widths = (
        tables.max().unwrap_or(0),
        keys.max().unwrap_or(0).min(KEY_WIDTH),
    );
    for step in &hook.steps {
        let row = step.row.as_deref().unwrap_or("-");
        let (table, key) = (step.table, &step.key);
        let _ = writeln!(text, "  {table:<0$}  {key:<1$}  {row}", widths.0, widths.1);
    }
    for judgement in &hook.judgements {
        let _ = writeln!(text, "  {}", line(judgement));
    }
    if let Some(known) = &hook.known {
        let _ = writeln!(text, "  {known}");
    }
    let _ = writeln!(text, "  => {}", hook.decided);
    text
}

/// A judgement in a line.
fn line(judgement: &JudgementView) -> String {
    let said = match judgement.said {
        Said::Allowed => "allowed",
        Said::Denied => "denied",
        Said::Audited => "would be denied, is only audited",
    };
    let by = match (judgement.decided_by, &judgement.place) {
        (DecidedBy::Rule, Some(place)) => format!("by {place}: {}", judgement.words),
        (DecidedBy::Rule, None) | (DecidedBy::Node, _) => format!("by {}", judgement.words),
        (DecidedBy::Default, _) => format!("by default: {}", judgement.words),
    };
    let of = match judgement.direction {
        "ingress" => "from",
        _ => "to",
    };
    format!(
        "{} of {} {of} {} (identity {}): {said} {by}",
        judgement.direction, judgement.subject, judgement.remote, judgement.remote_identity
    )
}

fn closest(judgement: &JudgementView) -> String {
    let mut text = format!(
        "What comes closest to allowing {} of {}:\n",
        judgement.direction, judgement.subject
    );
    for close in &judgement.closest {
        let _ = writeln!(text, "  {}\n    {}", close.place, close.lacking);
    }
    text
}
