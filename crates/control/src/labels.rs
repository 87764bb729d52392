//! Which labels make an identity: Cilium's filter, and the labels that a pod
//! gets from where it is.

use std::collections::BTreeMap;

use axon_model::keys::{CLUSTER, NAMESPACE, NAMESPACE_LABELS, SERVICE_ACCOUNT};
use axon_model::{Label, Labels, Namespace, Pod, source};
use regex::Regex;

/// Which labels are kept by default, in the syntax of the `labels` option.
const DEFAULT: [&str; 22] = [
    "reserved:.*",
    r"io\.kubernetes\.pod\.namespace",
    r"io\.cilium\.k8s\.namespace\.labels",
    r"app\.kubernetes\.io",
    r"io\.cilium\.k8s\.policy\.cluster",
    r"io\.cilium\.k8s\.policy\.serviceaccount",
    r"!io\.kubernetes",
    r"!kubernetes\.io",
    r"!statefulset\.kubernetes\.io/pod-name",
    r"!apps\.kubernetes\.io/pod-index",
    r"!batch\.kubernetes\.io/job-completion-index",
    r"!batch\.kubernetes\.io/controller-uid",
    r"!.*beta\.kubernetes\.io",
    r"!k8s\.io",
    "!pod-template-generation",
    "!pod-template-hash",
    "!controller-revision-hash",
    "!controller-uid",
    "!annotation.*",
    "!etcd_node",
    r"!topology\.kubernetes\.io",
    r"!io\.cilium\.k8s\.named-ports",
];

/// Why a `labels` option was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("labels: {word:?} is no pattern: {reason}; expected [source:][!|-]REGEX, as in k8s:!app")]
pub struct FilterError {
    /// The offending word.
    pub word: String,
    /// What is wrong with it.
    pub reason: String,
}

/// One word of the filter.
#[derive(Clone, Debug)]
struct Pattern {
    source: Option<String>,
    exclude: bool,
    key: Regex,
}

/// Tells labels that make an identity from those that only inform.
#[derive(Clone, Debug)]
pub struct LabelFilter {
    patterns: Vec<Pattern>,
    /// Some word of the option includes: only what is included is kept.
    allow_list: bool,
}

impl Default for LabelFilter {
    fn default() -> Self {
        // The default words are checked by a test.
        Self::parse("").unwrap_or_else(|_| Self {
            patterns: Vec::new(),
            allow_list: false,
        })
    }
}

impl Pattern {
    fn parse(word: &str) -> Result<Self, FilterError> {
        let error = |reason: &str| FilterError {
            word: word.to_owned(),
            reason: reason.to_owned(),
        };
        let (word_excludes, rest) = strip_not(word);
        let (source, key) = match rest.split_once(':') {
            Some(("", _)) => return Err(error("the source is empty")),
            Some((source, key)) => (Some(source.to_owned()), key),
            None => (None, rest),
        };
        let (key_excludes, key) = strip_not(key);
        if key.is_empty() {
            return Err(error("the key is empty"));
        }
        // Anchored here, so that only a match at the start of the key counts.
        let key = Regex::new(&format!("^(?:{key})")).map_err(|e| error(&e.to_string()))?;
        Ok(Self {
            source,
            exclude: word_excludes || key_excludes,
            key,
        })
    }

    /// How many bytes of the key the pattern matches, from its start.
    fn matched(&self, source: &str, key: &str) -> Option<usize> {
        if self.source.as_ref().is_some_and(|s| s != source) {
            return None;
        }
        self.key.find(key).map(|m| m.end())
    }
}

fn strip_not(text: &str) -> (bool, &str) {
    match text.strip_prefix(['!', '-']) {
        Some(rest) => (true, rest),
        None => (false, text),
    }
}

impl LabelFilter {
    /// The default filter with the words of Cilium's `labels` option added:
    /// regular expressions over keys, separated by spaces, each with an
    /// optional `source:` before it; `!` or `-` excludes. With any word that
    /// includes, only what some word includes is kept.
    ///
    /// # Errors
    /// The first word that is no pattern.
    pub fn parse(option: &str) -> Result<Self, FilterError> {
        let mut patterns = Vec::new();
        for word in DEFAULT {
            patterns.push(Pattern::parse(word)?);
        }
        let mut allow_list = false;
        for word in option.split_whitespace() {
            let pattern = Pattern::parse(word)?;
            allow_list |= !pattern.exclude;
            patterns.push(pattern);
        }
        Ok(Self {
            patterns,
            allow_list,
        })
    }

    /// Whether a label makes an identity. Where words that include and words
    /// that exclude match, the longest included part must be longer than the
    /// shortest excluded one.
    pub fn keeps(&self, source: &str, key: &str) -> bool {
        let (mut included, mut excluded) = (0, 0);
        for pattern in &self.patterns {
            let Some(length) = pattern.matched(source, key) else {
                continue;
            };
            if !pattern.exclude {
                included = included.max(length);
            } else if excluded == 0 || length < excluded {
                excluded = length;
            }
        }
        (!self.allow_list && excluded == 0) || included > excluded
    }

    /// The labels that make an identity.
    pub fn filter(&self, labels: &Labels) -> Labels {
        labels
            .iter()
            .filter(|(source, key, _)| self.keeps(source, key))
            .map(|(source, key, value)| Label::new(source, key, value))
            .collect()
    }
}

/// The labels that make a pod's identity: its own that the filter keeps, and
/// those of where it is (namespace, cluster, service account).
pub fn identity_labels(
    pod: &Pod,
    namespace: &Namespace,
    cluster_name: &str,
    filter: &LabelFilter,
) -> Labels {
    let k8s = |key: &str, value: &str| Label::new(source::K8S, key, value);
    let own = pod.labels.iter().filter(|(k, _)| !is_place(k));
    let mut labels: Labels = own.map(|(k, v)| k8s(k, v)).collect();
    for (key, value) in &namespace.labels {
        labels.insert(k8s(&format!("{NAMESPACE_LABELS}{key}"), value));
    }
    // Every namespace of Kubernetes has this label, whether its manifest says
    // so or not (there may be none).
    let name = format!("{NAMESPACE_LABELS}kubernetes.io/metadata.name");
    labels.insert(k8s(&name, &pod.namespace));
    // After the pod's own labels: a pod cannot claim another place.
    labels.insert(k8s(NAMESPACE, &pod.namespace));
    labels.insert(k8s(CLUSTER, cluster_name));
    if !pod.service_account.is_empty() {
        labels.insert(k8s(SERVICE_ACCOUNT, &pod.service_account));
    }
    filter.filter(&labels)
}

/// Whether a key says where a pod is: not for the pod itself to say.
fn is_place(key: &str) -> bool {
    key == NAMESPACE || key.starts_with("io.cilium.k8s.")
}

/// The labels that make a plain process's identity: its own that the filter
/// keeps, those of the namespace that it was put in (empty: none), and the
/// cluster's. What only Kubernetes or we may say is dropped.
pub fn process_labels(
    own: &Labels,
    namespace: &str,
    cluster_name: &str,
    filter: &LabelFilter,
) -> Labels {
    let mut labels: Labels = own
        .iter()
        .filter(|(s, k, _)| !source::is_of_agents(s) && !is_place(k))
        .map(|(s, k, v)| Label::new(s, k, v))
        .collect();
    if !namespace.is_empty() {
        let name = format!("{NAMESPACE_LABELS}kubernetes.io/metadata.name");
        labels.insert(Label::new(source::K8S, &name, namespace));
        labels.insert(Label::new(source::K8S, NAMESPACE, namespace));
    }
    labels.insert(Label::new(source::K8S, CLUSTER, cluster_name));
    filter.filter(&labels)
}

/// Labels as a CiliumIdentity's `security-labels` holds them: `source:key` to
/// value.
pub fn security_labels(labels: &Labels) -> BTreeMap<String, String> {
    labels
        .iter()
        .map(|(s, k, v)| (format!("{s}:{k}"), v.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use axon_model::{Label, Labels, Namespace, Pod};

    use super::{LabelFilter, identity_labels, process_labels};

    #[test]
    fn the_default_filter_is_ciliums() {
        let filter = LabelFilter::parse("").expect("the default is well formed");
        for (key, kept) in [
            ("app", true),
            ("name", true),
            ("org", true),
            ("app.kubernetes.io/name", true),
            ("io.kubernetes.pod.namespace", true),
            ("io.kubernetes.container.name", false),
            (
                "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name",
                true,
            ),
            ("io.cilium.k8s.policy.cluster", true),
            ("io.cilium.k8s.policy.serviceaccount", true),
            ("kubernetes.io/os", false),
            ("node.kubernetes.io/x", true),
            ("statefulset.kubernetes.io/pod-name", false),
            ("apps.kubernetes.io/pod-index", false),
            ("batch.kubernetes.io/job-completion-index", false),
            ("batch.kubernetes.io/controller-uid", false),
            ("failure-domain.beta.kubernetes.io/zone", false),
            ("k8s.io/x", false),
            ("pod-template-hash", false),
            ("pod-template-generation", false),
            ("controller-revision-hash", false),
            ("controller-uid", false),
            ("annotation.x", false),
            ("etcd_node", false),
            ("topology.kubernetes.io/zone", false),
        ] {
            assert_eq!(filter.keeps("k8s", key), kept, "{key}");
        }
        assert!(filter.keeps("reserved", "host"));
    }

    #[test]
    fn the_labels_option_adds_to_it() {
        for (option, key, kept) in [
            ("k8s:app", "app", true),
            ("k8s:app", "apple", true),
            ("k8s:app$", "apple", false),
            ("k8s:app", "org", false),
            ("k8s:!app", "app", false),
            ("!app", "app", false),
            ("-app", "app", false),
            ("!k8s:app", "app", false),
            ("k8s:!app", "org", true),
            ("cni:!app", "app", true),
            ("k8s:app", "io.kubernetes.pod.namespace", true),
            ("!foo foo.bar", "foo.bar", true),
            ("!foo foo.bar", "foo.baz", false),
            ("  org   app ", "app", true),
        ] {
            let filter = LabelFilter::parse(option).expect(option);
            assert_eq!(filter.keeps("k8s", key), kept, "{option:?} on {key}");
        }
        for option in ["k8s:", ":app", "!", "a(", "k8s:!"] {
            let error = LabelFilter::parse(option).expect_err(option);
            assert_eq!(error.word, option);
        }
    }

    fn texts(labels: &Labels) -> Vec<String> {
        labels
            .iter()
            .map(|(s, k, v)| Label::new(s, k, v).to_string())
            .collect()
    }

    #[test]
    fn a_pod_is_where_it_is_and_not_where_it_says() {
        let mut pod = Pod {
            namespace: "shop".into(),
            name: "web-1".into(),
            service_account: "default".into(),
            ..Pod::default()
        };
        for (key, value) in [
            ("app", "web"),
            ("pod-template-hash", "abc"),
            ("io.kubernetes.pod.namespace", "kube-system"),
            ("io.cilium.k8s.policy.cluster", "other"),
            ("io.cilium.k8s.namespace.labels.team", "theirs"),
        ] {
            pod.labels.insert(key.into(), value.into());
        }
        let namespace = Namespace {
            name: "shop".into(),
            labels: [("tier".to_owned(), "front".to_owned())].into(),
            audit: false,
        };
        let labels = identity_labels(&pod, &namespace, "prod", &LabelFilter::default());
        assert_eq!(
            texts(&labels),
            [
                "k8s:app=web",
                "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
                "k8s:io.cilium.k8s.namespace.labels.tier=front",
                "k8s:io.cilium.k8s.policy.cluster=prod",
                "k8s:io.cilium.k8s.policy.serviceaccount=default",
                "k8s:io.kubernetes.pod.namespace=shop",
            ]
        );
    }

    #[test]
    fn a_process_cannot_pretend() {
        let own: Labels = [
            "reserved:host",
            "cidr:192.0.2.0/24",
            "cidrgroup:offices",
            "fqdn:shop.example",
            "node:pool=edge",
            "k8s:io.kubernetes.pod.namespace=kube-system",
            "role=db",
        ]
        .iter()
        .map(|t| t.parse::<Label>().expect("label"))
        .collect();
        let labels = process_labels(&own, "", "prod", &LabelFilter::default());
        assert_eq!(
            texts(&labels),
            ["k8s:io.cilium.k8s.policy.cluster=prod", "unspec:role=db"]
        );
        // But whoever starts it may put it somewhere.
        let labels = process_labels(&own, "shop", "prod", &LabelFilter::default());
        assert_eq!(
            texts(&labels),
            [
                "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
                "k8s:io.cilium.k8s.policy.cluster=prod",
                "k8s:io.kubernetes.pod.namespace=shop",
                "unspec:role=db"
            ]
        );
    }
}
