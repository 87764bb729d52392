//! What a pod's manifest says of its processes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::manifest::text;

/// When an ended container is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    /// Always.
    #[default]
    Always,
    /// After an exit status other than 0.
    OnFailure,
    /// Never.
    Never,
}

/// One container: a process in the pod's namespaces.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Container {
    /// Its name.
    pub(crate) name: String,
    /// Program and arguments, with `$(VARIABLES)` not yet filled in.
    pub(crate) command: Vec<String>,
    /// Its environment.
    pub(crate) env: Vec<(String, EnvValue)>,
    /// Its working directory.
    pub(crate) dir: Option<String>,
    /// How its readiness is told.
    pub(crate) readiness: Option<Probe>,
}

/// The value of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EnvValue {
    /// As written.
    Text(String),
    /// A field of the pod (`status.podIP`, …).
    Field(String),
}

/// A readiness probe.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Probe {
    /// What is tried.
    pub(crate) action: ProbeAction,
    /// How long after the start it is tried first.
    pub(crate) delay: Duration,
    /// How long between two tries.
    pub(crate) period: Duration,
    /// How long a try may take.
    pub(crate) timeout: Duration,
    /// So many failures in a row make a ready container unready.
    pub(crate) failures: u32,
}

/// What a probe tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProbeAction {
    /// A request is answered with a status from 200 to 399.
    Http {
        /// The port.
        port: u16,
        /// The path.
        path: String,
    },
    /// A connection is accepted.
    Tcp(u16),
    /// A command exits with status 0.
    Exec(Vec<String>),
}

/// The restart policy of a pod's spec.
pub(crate) fn restart_policy(spec: &Value) -> Result<RestartPolicy> {
    Ok(match text(spec, "/restartPolicy").as_deref() {
        None | Some("Always") => RestartPolicy::Always,
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some("Never") => RestartPolicy::Never,
        Some(other) => {
            bail!("spec.restartPolicy is {other:?}; expected Always, OnFailure or Never")
        }
    })
}

/// The containers under `key` (`containers`, `initContainers`) of a pod's spec.
pub(crate) fn containers(spec: &Value, key: &str) -> Result<Vec<Container>> {
    let list = match spec.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => bail!("spec.{key} is no list"),
    };
    list.iter()
        .enumerate()
        .map(|(n, value)| container(value).with_context(|| format!("spec.{key}[{n}]")))
        .collect()
}

fn container(value: &Value) -> Result<Container> {
    let name = text(value, "/name").context("name is missing")?;
    crate::paths::check_name("container", &name, 63)?;
    let mut command = texts(value, "command")?;
    if command.is_empty() {
        bail!(
            "container {name} has no command; images are not run here, \
             so command must name a program of this machine"
        );
    }
    command.append(&mut texts(value, "args")?);
    let readiness = value
        .get("readinessProbe")
        .map(|probe| self::probe(probe, value).context("readinessProbe"))
        .transpose()?;
    Ok(Container {
        name,
        command,
        env: env(value)?,
        dir: text(value, "/workingDir"),
        readiness,
    })
}

fn texts(value: &Value, key: &str) -> Result<Vec<String>> {
    match value.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list
            .iter()
            .map(|item| {
                item.as_str()
                    .map(str::to_owned)
                    .with_context(|| format!("{key}: {item} is no text; quote it"))
            })
            .collect(),
        Some(other) => bail!("{key}: {other} is no list"),
    }
}

fn env(container: &Value) -> Result<Vec<(String, EnvValue)>> {
    let list = container.get("env").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .map(|item| {
            let name = text(item, "/name").context("env: name is missing")?;
            if let Some(field) = text(item, "/valueFrom/fieldRef/fieldPath") {
                return Ok((name, EnvValue::Field(field)));
            }
            if item.get("valueFrom").is_some() {
                bail!("env {name}: of valueFrom, only fieldRef is at hand here");
            }
            let value = text(item, "/value").unwrap_or_default();
            Ok((name, EnvValue::Text(value)))
        })
        .collect()
}

fn probe(value: &Value, container: &Value) -> Result<Probe> {
    let seconds = |key: &str, default: f64| {
        let seconds = value.get(key).and_then(Value::as_f64).unwrap_or(default);
        Duration::try_from_secs_f64(seconds).with_context(|| format!("{key}: {seconds}"))
    };
    let port = |at: &Value| {
        let port = at.get("port").context("port is missing")?;
        port_number(port, container).with_context(|| format!("port {port} is not declared"))
    };
    let action = if let Some(http) = value.get("httpGet") {
        ProbeAction::Http {
            port: port(http)?,
            path: text(http, "/path").unwrap_or_else(|| "/".into()),
        }
    } else if let Some(tcp) = value.get("tcpSocket") {
        ProbeAction::Tcp(port(tcp)?)
    } else if let Some(exec) = value.get("exec") {
        ProbeAction::Exec(texts(exec, "command")?)
    } else {
        bail!("expected httpGet, tcpSocket or exec");
    };
    Ok(Probe {
        action,
        delay: seconds("initialDelaySeconds", 0.0)?,
        period: seconds("periodSeconds", 10.0)?,
        timeout: seconds("timeoutSeconds", 1.0)?,
        failures: value
            .get("failureThreshold")
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(3),
    })
}

/// A port by number or by the name that the container declares.
fn port_number(port: &Value, container: &Value) -> Option<u16> {
    if let Some(number) = port.as_u64() {
        return u16::try_from(number).ok();
    }
    let name = port.as_str()?;
    let declared = container.get("ports")?.as_array()?;
    let found = declared.iter().find(|p| p["name"] == name)?;
    u16::try_from(found["containerPort"].as_u64()?).ok()
}

/// Fills `$(NAME)` in; `$$(NAME)` stands for `$(NAME)` itself, as in Kubernetes.
pub(crate) fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(escaped) = after.strip_prefix('$') {
            out.push('$');
            rest = escaped;
            continue;
        }
        let name = after
            .strip_prefix('(')
            .and_then(|a| a.split_once(')'))
            .map(|(name, _)| name);
        match name.and_then(|name| Some((name, env.get(name)?))) {
            Some((name, value)) => {
                out.push_str(value);
                rest = &after[name.len() + 2..];
            }
            None => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::{EnvValue, ProbeAction, containers, expand};
    use serde_json::json;

    #[test]
    fn a_container_is_read_whole() {
        let spec = json!({"containers": [{
            "name": "web", "command": ["serve"], "args": ["--port", "80"],
            "env": [{"name": "A", "value": "b"},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            "ports": [{"name": "http", "containerPort": 80}],
            "readinessProbe": {"httpGet": {"port": "http", "path": "/up"}, "periodSeconds": 1},
        }]});
        let found = containers(&spec, "containers").expect("reads");
        let web = &found[0];
        assert_eq!(web.command, ["serve", "--port", "80"]);
        assert_eq!(web.env[1].1, EnvValue::Field("status.podIP".into()));
        let probe = web.readiness.as_ref().expect("has a probe");
        let expected = ProbeAction::Http {
            port: 80,
            path: "/up".into(),
        };
        assert_eq!((&probe.action, probe.period.as_secs()), (&expected, 1));
    }

    #[test]
    fn bad_containers_are_refused_by_field() {
        for (container, expected) in [
            (json!({"name": "a"}), "no command"),
            (json!({"command": ["x"]}), "name is missing"),
            (
                json!({"name": "a", "command": [1]}),
                "command: 1 is no text",
            ),
            (
                json!({"name": "a", "command": ["x"], "readinessProbe": {"tcpSocket": {"port": "p"}}}),
                "port \"p\" is not declared",
            ),
        ] {
            let spec = json!({"containers": [container]});
            let error = format!("{:#}", containers(&spec, "containers").expect_err(expected));
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn variables_are_filled_in_as_in_kubernetes() {
        let env = [("A".to_owned(), "1".to_owned())].into();
        for (text, expected) in [
            ("$(A)x$(A)", "1x1"),
            ("$$(A)", "$(A)"),
            ("$(B) $A $", "$(B) $A $"),
        ] {
            assert_eq!(expand(text, &env), expected);
        }
    }
}
