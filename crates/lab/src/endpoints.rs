//! What a node's endpoints tell the cluster: of plain processes, which nobody
//! else announces, and of pods that have lost theirs.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use axon_api::agent::EndpointView;

use crate::http;
use crate::paths::NodePaths;
use crate::plan::PodKey;
use crate::state::{Cluster, Process, Shared, log};

/// An agent tells of a change at the latest so long after it has written it
/// down.
const NEWS: Duration = Duration::from_secs(3);

/// Tells when a node's endpoints are worth a look: an agent that is asked again
/// and again is never at rest, and what it takes could not be measured. Its
/// endpoints' files change with its endpoints.
#[derive(Debug)]
pub(crate) struct News {
    dir: PathBuf,
    seen: Option<SystemTime>,
    at: Instant,
}

impl News {
    /// Of an agent that has just come.
    pub(crate) fn new(paths: &NodePaths) -> Self {
        Self::of(paths.state().join("endpoints"))
    }

    fn of(dir: PathBuf) -> Self {
        Self {
            dir,
            seen: None,
            at: Instant::now(),
        }
    }

    /// Whether there was a change lately. Of a folder that cannot be seen
    /// nobody knows.
    pub(crate) fn are_there(&mut self) -> bool {
        let changed = std::fs::metadata(&self.dir).and_then(|dir| dir.modified());
        let changed = changed.ok();
        if changed.is_none() || changed != self.seen {
            self.seen = changed;
            self.at = Instant::now();
        }
        self.at.elapsed() < NEWS
    }
}

/// Looks at the endpoints of a node whose agent answers. One that does not
/// tell changes nothing.
pub(crate) fn follow(shared: &Shared, node: &str, paths: &NodePaths) {
    // Before it is asked: who is attached meanwhile is not missed.
    let attached = attached(&shared.cluster(), node);
    let Ok(endpoints) = http::get_json::<Vec<EndpointView>>(&paths.socket(), "/v1/endpoint") else {
        return;
    };
    for (key, uid) in bereft(&attached, &endpoints) {
        log(&format!(
            "pod {key}: its endpoint was deleted; it starts anew"
        ));
        if let Some(pod) = shared.cluster().pods.get(key).filter(|p| p.uid == *uid) {
            // Its thread ends it, and what is asked for and not there is made.
            pod.stop.set();
        }
    }
    let processes: Vec<Process> = endpoints.iter().filter_map(process).collect();
    let known = shared.cluster().processes.get(node).cloned();
    if known.unwrap_or_default() != processes {
        shared.update(|cluster| cluster.processes.insert(node.to_owned(), processes));
    }
}

/// The pods of a node that have been attached, with their unique ids.
fn attached(cluster: &Cluster, node: &str) -> Vec<(PodKey, String)> {
    cluster
        .pods
        .iter()
        .filter(|(_, pod)| pod.plan.node == node && !pod.plan.host_network)
        .filter(|(_, pod)| !pod.ips.is_empty() && !pod.stop.is_set())
        .map(|(key, pod)| (key.clone(), pod.uid.clone()))
        .collect()
}

/// Those of them whose endpoint is not there any more.
fn bereft<'a>(
    attached: &'a [(PodKey, String)],
    endpoints: &[EndpointView],
) -> Vec<&'a (PodKey, String)> {
    let there = |uid: &str| {
        endpoints
            .iter()
            .any(|e| e.status.external_identifiers.container_id == uid)
    };
    attached.iter().filter(|(_, uid)| !there(uid)).collect()
}

/// The plain process of an endpoint, if it is one's.
fn process(endpoint: &EndpointView) -> Option<Process> {
    let who = &endpoint.status.external_identifiers;
    // The node itself, if policy is enforced on it, has no container.
    if !who.k8s_pod_name.is_empty() || who.container_id.is_empty() {
        return None;
    }
    let addressing = endpoint.status.networking.addressing.iter();
    let ips = addressing.flat_map(|a| [&a.ipv4, &a.ipv6]);
    Some(Process {
        name: object_name(&who.container_id),
        namespace: who.k8s_namespace.clone(),
        labels: endpoint.status.labels.realized.user.clone(),
        ips: ips.filter_map(|ip| ip.parse::<IpAddr>().ok()).collect(),
        endpoint: endpoint.id,
    })
}

/// A container's name as Kubernetes lets objects be named.
fn object_name(container: &str) -> String {
    container.to_ascii_lowercase().replace(['_', '.'], "-")
}

#[cfg(test)]
mod tests {
    use axon_api::agent::{EndpointAddressing, EndpointView};

    use super::{NEWS, News, bereft, process};
    use crate::plan::PodKey;

    fn endpoint(container: &str, pod: &str) -> EndpointView {
        let mut endpoint = EndpointView {
            id: 7,
            ..EndpointView::default()
        };
        endpoint.status.networking.addressing = vec![EndpointAddressing {
            ipv4: "10.0.0.7".into(),
            ipv6: String::new(),
        }];
        let who = &mut endpoint.status.external_identifiers;
        who.container_id = container.into();
        who.k8s_namespace = "shop".into();
        who.k8s_pod_name = pod.into();
        endpoint
    }

    #[test]
    fn pods_without_their_endpoint_are_found_by_their_ids() {
        let pod = |name: &str, uid: &str| {
            let key = PodKey {
                namespace: "shop".into(),
                name: name.into(),
            };
            (key, uid.to_owned())
        };
        let attached = [pod("a", "uid-a"), pod("b", "uid-b")];
        let endpoints = [endpoint("uid-b", "b"), endpoint("run-x-1", "")];
        assert_eq!(bereft(&attached, &endpoints), [&attached[0]]);
    }

    #[test]
    fn a_process_is_known_by_what_it_was_given() {
        assert_eq!(process(&endpoint("uid-b", "b")), None);
        assert_eq!(process(&endpoint("", "")), None, "the node itself");
        let found = process(&endpoint("run-My_App.-1", "")).expect("a process");
        assert_eq!(found.name, "run-my-app--1");
        assert_eq!((found.namespace.as_str(), found.endpoint), ("shop", 7));
        assert_eq!(
            found.ips,
            ["10.0.0.7".parse::<std::net::IpAddr>().expect("an address")]
        );
    }

    #[test]
    fn endpoints_that_rest_are_no_news() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut news = News::of(dir.path().to_owned());
        assert!(news.are_there(), "a new agent's");
        let Some(long_ago) = news.at.checked_sub(NEWS) else {
            return;
        };
        news.at = long_ago;
        assert!(!news.are_there());
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(dir.path().join("1.json"), "{}").expect("written");
        assert!(news.are_there());
        let mut hidden = News::of(dir.path().join("absent"));
        hidden.at = long_ago;
        assert!(hidden.are_there());
    }
}
