//! Services as they shall be, and as the kernel has them.

use std::sync::Arc;

use axon_abi::{Backend, LIST_BLOCK_SLOTS, ListBlock, ListKey, ListRef, ServiceEntry, ServiceKey};
use axon_api::maps::{backend_state, frontend_kind, service_protocol};
use axon_api::services::{
    BackendAddress, FrontendAddress, FrontendFlags, FrontendView, ServiceStatusView, ServiceView,
};
use axon_linux::{MapError, Maps};
use axon_model::{DesiredServices, ObjectKey, Observed};
use axum::Json;
use axum::extract::{Path, State};

use super::Api;
use super::views::{ask, blocking};
use crate::dump::PortNames;
use crate::node::Node;
use crate::problem::{Refusal, chain};

pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Json<Vec<ServiceView>>, Refusal> {
    all(&api).await.map(Json)
}

/// The frontends of one service.
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<Vec<ServiceView>>, Refusal> {
    let key = ObjectKey::new(&namespace, &name);
    let views = of(&api, &key).await?;
    if views.is_empty() {
        let error = format!("there is no service {key} with a frontend");
        return Err(Refusal::absent(error, "see GET /v1/service"));
    }
    Ok(Json(views))
}

async fn all(api: &Api) -> Result<Vec<ServiceView>, Refusal> {
    let names = ask(api, |controller| controller.service_port_names()).await?;
    let node = Arc::clone(&api.node);
    let views = blocking(move || views(&node, &names)).await?;
    views.map_err(|error| Refusal::node(chain(&error), "see axon status"))
}

/// The frontends of a service.
pub(super) async fn of(api: &Api, key: &ObjectKey) -> Result<Vec<ServiceView>, Refusal> {
    let mut views = all(api).await?;
    views.retain(|view| {
        let flags = &view.spec.flags;
        (&flags.namespace, &flags.name) == (&key.namespace, &key.name)
    });
    Ok(views)
}

/// Where a frontend's lists and backends are looked up.
trait Rows {
    fn block(&self, key: &ListKey) -> Result<Option<ListBlock>, MapError>;
    fn backend(&self, id: u32) -> Result<Option<Backend>, MapError>;
}

impl Rows for DesiredServices {
    fn block(&self, key: &ListKey) -> Result<Option<ListBlock>, MapError> {
        Ok(self.lists.get(key).map(|row| *row))
    }

    fn backend(&self, id: u32) -> Result<Option<Backend>, MapError> {
        Ok(self.backends.get(&id).map(|row| *row))
    }
}

impl Rows for Maps {
    fn block(&self, key: &ListKey) -> Result<Option<ListBlock>, MapError> {
        self.service_list.get(key)
    }

    fn backend(&self, id: u32) -> Result<Option<Backend>, MapError> {
        self.backend.get(&id)
    }
}

fn views(node: &Node, names: &PortNames) -> Result<Vec<ServiceView>, MapError> {
    let desired = &node.desired.services;
    let mut views = Vec::new();
    for (key, entry) in desired.frontends.snapshot().iter() {
        // An address as a whole is nobody's frontend.
        if key.protocol == 0 {
            continue;
        }
        let flags = flags(&node.observed, names, entry);
        let held = node.maps.service.get(key)?;
        let is_one = entry.internal == entry.external;
        let scopes: &[bool] = if is_one { &[true] } else { &[true, false] };
        for is_external in scopes {
            let realized = match &held {
                Some(held) => Some(view(&node.maps, (key, held), *is_external, &flags)?),
                None => None,
            };
            views.push(ServiceView {
                spec: view(desired, (key, entry), *is_external, &flags)?,
                status: ServiceStatusView { realized },
            });
        }
    }
    Ok(views)
}

fn flags(observed: &Observed, names: &PortNames, entry: &ServiceEntry) -> FrontendFlags {
    let mut flags = FrontendFlags {
        kind: frontend_kind(entry).to_owned(),
        ..FrontendFlags::default()
    };
    let Some(name) = names.get(&entry.service) else {
        return flags;
    };
    let (kind, name) = name.rsplit_once(' ').unwrap_or(("", name));
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let (name, port) = name.split_once(':').unwrap_or((name, ""));
    (flags.namespace, flags.name, flags.port_name) =
        (namespace.to_owned(), name.to_owned(), port.to_owned());
    let service = observed.services.get(&ObjectKey::new(namespace, name));
    if let Some(service) = service.filter(|_| kind.is_empty()) {
        let policy = |is_local: bool| if is_local { "Local" } else { "Cluster" }.to_owned();
        flags.ext_traffic_policy = policy(service.spec.external_local);
        flags.int_traffic_policy = policy(service.spec.internal_local);
    }
    flags
}

fn view(
    rows: &impl Rows,
    (key, entry): (&ServiceKey, &ServiceEntry),
    is_external: bool,
    flags: &FrontendFlags,
) -> Result<FrontendView, MapError> {
    let (list, scope) = if is_external {
        (&entry.external, "external")
    } else {
        (&entry.internal, "internal")
    };
    Ok(FrontendView {
        id: entry.service,
        frontend_address: FrontendAddress {
            ip: key.addr.into(),
            port: key.port.get(),
            protocol: service_protocol(key.protocol),
            scope: scope.to_owned(),
        },
        flags: flags.clone(),
        backend_addresses: backends(rows, list)?,
        algorithm: if list.maglev == 0 { "random" } else { "maglev" }.to_owned(),
        session_affinity_timeout_s: entry.affinity_timeout_s,
    })
}

fn backends(rows: &impl Rows, list: &ListRef) -> Result<Vec<BackendAddress>, MapError> {
    let slots = if list.list == 0 { 0 } else { list.slots };
    let mut found = Vec::new();
    for block in 0..slots.div_ceil(LIST_BLOCK_SLOTS) {
        let key = ListKey {
            list: list.list,
            block,
        };
        let Some(row) = rows.block(&key)? else {
            continue;
        };
        for id in row.backends.into_iter().filter(|id| *id != 0) {
            if let Some(row) = rows.backend(id)? {
                found.push(BackendAddress {
                    id,
                    ip: row.addr.into(),
                    port: row.port.get(),
                    state: backend_state(row.state),
                    local: row.flags & axon_abi::BackendFlags::LOCAL != 0,
                });
            }
        }
    }
    Ok(found)
}
