//! Services that nobody but this API tells of: they are written to a directory that
//! is followed as any other of manifests.
//!
//! ```text
//! PUT ──> objects ──> lib-dir/services/NAMESPACE.NAME.yaml ──> source ──> rows ──> kernel
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axon_api::manifest::{FieldError, Object};
use axon_api::services::ServiceView;
use axon_api::upsert::{LeftOut, ServiceUpsert, Upserted, service_key};
use axon_control::Controller;
use axon_model::{ObjectKey, Observed};
use axon_sources::{remove_manifest, write_manifest_durably};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::views::{ask, blocking};
use super::{Api, body, service};
use crate::clock::{monotonic_ns, monotonic_zero_ns};
use crate::config::Config;
use crate::problem::Refusal;

/// How long a service that is written may take to be read, and to be in the kernel.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks whether it is read.
const LOOK: Duration = Duration::from_millis(5);

pub(super) async fn put(
    State(api): State<Arc<Api>>,
    Path((namespace, name)): Path<(String, String)>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<Upserted>), Refusal> {
    let key = service_key(&namespace, &name).map_err(|error| wrong(&error))?;
    let upsert: ServiceUpsert = body::read(&bytes)?;
    may_say(&upsert, &api.node.config).map_err(|error| wrong(&error))?;
    let file = File::of(&api, &key);
    let (created, objects) = {
        let _turn = api.services.lock().await;
        let known = api.node.observed.services.get(&key);
        let created = !file.path.exists();
        if created && known.is_some() {
            return Err(of_others(&key));
        }
        // Its addresses are its own for as long as it is there.
        let since = known.map(|known| known.spec.created.clone());
        let since = since.filter(|since| !since.is_empty()).unwrap_or_else(now);
        let objects = upsert.objects(&key, &since);
        let objects = objects.map_err(|error| wrong(&error))?;
        let text = ServiceUpsert::manifest(&objects);
        let text = text.map_err(|error| Refusal::node(error.to_string(), "see the agent's log"))?;
        let write = move || write_manifest_durably(&file.dir, &file.name, &text);
        blocking(write).await?.map_err(|error| disk(&error))?;
        (created, objects)
    };
    is_read(&api, &key, |observed| {
        objects.iter().all(|object| is_known(observed, object))
    })
    .await?;
    let frontends = in_kernel(&api, &key).await?;
    let left_out = ask(&api, move |controller| left_out(controller, &objects)).await?;
    let status = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let answer = Upserted {
        created,
        frontends,
        left_out,
    };
    Ok((status, Json(answer)))
}

pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<(), Refusal> {
    let key = service_key(&namespace, &name).map_err(|error| wrong(&error))?;
    let file = File::of(&api, &key);
    {
        let _turn = api.services.lock().await;
        if !file.path.exists() {
            return Err(match api.node.observed.services.get(&key) {
                Some(_) => of_others(&key),
                None => {
                    Refusal::absent(format!("there is no service {key}"), "see GET /v1/service")
                }
            });
        }
        let remove = move || remove_manifest(&file.dir, &file.name);
        blocking(remove).await?.map_err(|error| disk(&error))?;
    }
    is_read(&api, &key, |observed| observed.services.get(&key).is_none()).await?;
    in_kernel(&api, &key).await?;
    Ok(())
}

/// The file of a service.
struct File {
    dir: PathBuf,
    name: String,
    path: PathBuf,
}

impl File {
    /// Neither part of the key has a dot.
    fn of(api: &Api, key: &ObjectKey) -> Self {
        let dir = api.node.config.paths.services();
        let name = format!("{}.{}.yaml", key.namespace, key.name);
        Self {
            path: dir.join(&name),
            dir,
            name,
        }
    }
}

/// The time in a form that sorts.
fn now() -> String {
    axon_hubble::Time(monotonic_zero_ns() + monotonic_ns()).to_string()
}

fn wrong(error: &FieldError) -> Refusal {
    Refusal::request(error.to_string(), "correct the field that is named")
}

fn disk(error: &std::io::Error) -> Refusal {
    Refusal::node(
        format!("the service cannot be written: {error}"),
        "see that the lib-dir can be written and its disk is not full",
    )
}

fn of_others(key: &ObjectKey) -> Refusal {
    Refusal::conflict(
        format!("service {key} is defined by a manifest, not by this API"),
        "change the manifest, or take another name",
    )
}

/// What a service may not say by the agent's configuration would not count.
fn may_say(upsert: &ServiceUpsert, config: &Config) -> Result<(), FieldError> {
    let services = &config.services;
    for (field, text, may, option) in [
        (
            "algorithm",
            &upsert.algorithm,
            services.algorithm_annotation,
            "bpf-lb-algorithm-annotation",
        ),
        (
            "forwarding",
            &upsert.forwarding,
            services.mode_annotation,
            "bpf-lb-mode-annotation",
        ),
    ] {
        if !text.is_empty() && !may {
            let message =
                format!("{text:?}; a service may not say so here: the agent's {option} is false");
            return Err(FieldError::new(field, message));
        }
    }
    Ok(())
}

/// Whether the source has read an object as it is.
fn is_known(observed: &Observed, object: &Object) -> bool {
    match object {
        Object::Service(service) => {
            let known = observed.services.get(&service.metadata.key());
            known.is_some_and(|known| *known == service.to_model())
        }
        Object::EndpointSlice(slice) => {
            let known = observed.endpoint_slices.get(&slice.metadata.key());
            known.is_some_and(|known| *known == slice.to_model())
        }
        _ => false,
    }
}

/// Waits until the source has read what was written.
async fn is_read(
    api: &Api,
    key: &ObjectKey,
    is_there: impl Fn(&Observed) -> bool,
) -> Result<(), Refusal> {
    let wait = async {
        while !is_there(&api.node.observed) {
            tokio::time::sleep(LOOK).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.map_err(|_| {
        Refusal::not_yet(
            format!("service {key} is written, and not as the agent knows it"),
            "see the part sources of axon status: a manifest may define it too",
        )
    })
}

/// Waits for a pass of the control loop, and tells what has become of a service.
async fn in_kernel(api: &Api, key: &ObjectKey) -> Result<Vec<ServiceView>, Refusal> {
    let mut view = api.node.view.clone();
    // Answered between two passes, so that the next one sees everything.
    ask(api, |_| ()).await?;
    let passes = view.borrow_and_update().passes;
    api.node.engine.wake();
    let pass = view.wait_for(|view| view.passes > passes);
    let seen = match tokio::time::timeout(PATIENCE, pass).await {
        Ok(Ok(view)) => view.services_error.clone(),
        Ok(Err(_)) | Err(_) => Some("the control loop does not answer".to_owned()),
    };
    if let Some(error) = seen {
        return Err(Refusal::not_yet(
            format!("service {key} is written, and not in the kernel yet: {error}"),
            "see axon status",
        ));
    }
    if !api.node.desired.services.frontends.snapshot().is_complete() {
        return Err(Refusal::not_yet(
            format!("service {key} is written, and not all that services are made of is known"),
            "see the part sources of axon status",
        ));
    }
    service::of(api, key).await
}

/// What of some objects is not in force.
fn left_out(controller: &Controller, objects: &[Object]) -> Vec<LeftOut> {
    let names: Vec<String> = objects.iter().filter_map(name).collect();
    let reports = controller.service_tables().reports.snapshot();
    let ours = reports.values();
    ours.filter(|report| names.contains(&report.object))
        .map(|report| LeftOut {
            field: ServiceUpsert::field_of(&report.field),
            reason: report.reason.clone(),
        })
        .collect()
}

/// As reports have it.
fn name(object: &Object) -> Option<String> {
    match object {
        Object::Service(service) => Some(format!("Service {}", service.metadata.key())),
        Object::EndpointSlice(slice) => Some(format!("EndpointSlice {}", slice.metadata.key())),
        _ => None,
    }
}
