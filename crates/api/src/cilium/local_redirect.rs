//! CiliumLocalRedirectPolicy.

use axon_model::{LocalRedirect, ObjectKey, RedirectFrontend, RedirectPort, Selector, source};
use serde::{Deserialize, Serialize};

use crate::k8s::{LabelSelector, Metadata};
use crate::manifest::FieldError;
use crate::select::{address, requirements, transport};

/// What is asked of an address or a service, pods of the same node answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CiliumLocalRedirectPolicy {
    /// `cilium.io/v2`.
    #[serde(skip_serializing)]
    pub api_version: String,
    /// `CiliumLocalRedirectPolicy`.
    #[serde(skip_serializing)]
    pub kind: String,
    /// Its name; its pods are in its namespace.
    #[serde(default)]
    pub metadata: Metadata,
    /// What it says.
    pub spec: LocalRedirectSpec,
}

/// What a redirection says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalRedirectSpec {
    /// What is redirected.
    pub redirect_frontend: RedirectFrontendSpec,
    /// Who answers.
    pub redirect_backend: RedirectBackendSpec,
    /// Whether those who answer are not redirected themselves.
    #[serde(default)]
    pub skip_redirect_from_backend: bool,
    /// For people.
    #[serde(default)]
    pub description: String,
}

/// What is redirected: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RedirectFrontendSpec {
    /// An address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address_matcher: Option<AddressMatcher>,
    /// A service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_matcher: Option<ServiceMatcher>,
}

/// An address with ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddressMatcher {
    /// The address.
    pub ip: String,
    /// Its ports.
    pub to_ports: Vec<PortInfo>,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceMatcher {
    /// Its name.
    pub service_name: String,
    /// Its namespace, the policy's own.
    pub namespace: String,
    /// Its ports; none: all.
    #[serde(default)]
    pub to_ports: Vec<PortInfo>,
}

/// Who answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedirectBackendSpec {
    /// The pods.
    pub local_endpoint_selector: LabelSelector,
    /// Their ports.
    pub to_ports: Vec<PortInfo>,
}

/// A port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortInfo {
    /// Its number, as a text.
    pub port: String,
    /// `TCP` (also if empty), `UDP`, `SCTP`.
    #[serde(default)]
    pub protocol: String,
    /// Its name: what ports of both sides are matched by, if there are several.
    #[serde(default)]
    pub name: String,
}

impl CiliumLocalRedirectPolicy {
    /// The redirection as the model has it.
    ///
    /// # Errors
    /// A field that is not as it must be.
    pub fn to_model(&self) -> Result<LocalRedirect, FieldError> {
        let frontend = &self.spec.redirect_frontend;
        let path = "spec.redirectFrontend";
        let front = match (&frontend.address_matcher, &frontend.service_matcher) {
            (Some(matcher), None) => RedirectFrontend::Address(
                address(&matcher.ip, &format!("{path}.addressMatcher.ip"))?,
                ports(
                    &matcher.to_ports,
                    &format!("{path}.addressMatcher.toPorts"),
                    true,
                )?,
            ),
            (None, Some(matcher)) => {
                if matcher.namespace != self.metadata.namespace {
                    let reason = format!(
                        "{:?}; expected the policy's own, {:?}",
                        matcher.namespace, self.metadata.namespace
                    );
                    let path = format!("{path}.serviceMatcher.namespace");
                    return Err(FieldError::new(path, reason));
                }
                RedirectFrontend::Service(
                    ObjectKey::new(&matcher.namespace, &matcher.service_name),
                    ports(
                        &matcher.to_ports,
                        &format!("{path}.serviceMatcher.toPorts"),
                        false,
                    )?,
                )
            }
            _ => {
                let reason = "expected either addressMatcher or serviceMatcher";
                return Err(FieldError::new(path, reason));
            }
        };
        let backend = &self.spec.redirect_backend;
        let path = "spec.redirectBackend";
        let selector = requirements(
            &backend.local_endpoint_selector,
            &format!("{path}.localEndpointSelector"),
            |key| Ok((source::K8S.to_owned(), key.to_owned())),
        )?;
        Ok(LocalRedirect {
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
            created: self.metadata.creation_timestamp.clone(),
            frontend: front,
            selector: Selector::new(selector),
            ports: ports(&backend.to_ports, &format!("{path}.toPorts"), true)?,
            skips_own: self.spec.skip_redirect_from_backend,
        })
    }
}

fn ports(list: &[PortInfo], path: &str, needed: bool) -> Result<Vec<RedirectPort>, FieldError> {
    if needed && list.is_empty() {
        return Err(FieldError::new(
            path,
            "is empty; expected at least one port",
        ));
    }
    let mut ports = Vec::new();
    for (n, port) in list.iter().enumerate() {
        let number = port.port.parse().ok().filter(|number| *number != 0);
        let number = number.ok_or_else(|| {
            let reason = format!("{:?} is no port; expected 1 to 65535", port.port);
            FieldError::new(format!("{path}[{n}].port"), reason)
        })?;
        if list.len() > 1 && port.name.is_empty() {
            let reason = "is missing; expected a name for each of several ports";
            return Err(FieldError::new(format!("{path}[{n}].name"), reason));
        }
        ports.push(RedirectPort {
            name: port.name.to_ascii_lowercase(),
            port: number,
            protocol: transport(&port.protocol, &format!("{path}[{n}].protocol"))?,
        });
    }
    Ok(ports)
}
