//! Manifests: any text, and what policy makes of what was read.

use axon_api::manifest::{Manifest, Object, parse, to_yaml};
use axon_model::{Label, PolicyObject};
use axon_policy::{Engine, IdentityInfo, Numbers, PolicyConfig, reserved_identities};

/// Policies of one text that are compiled; the rest only costs time.
const POLICIES_MAX: usize = 8;

/// Reads a text; writes and reads again what can be written.
///
/// # Panics
/// If an error names a line that is not there, if what was written is read as
/// something else, or if policy cannot be compiled.
pub fn run(text: &[u8]) {
    match parse(text) {
        Ok(manifest) => accept(manifest),
        Err(error) => {
            assert!(error.line <= lines(text) + 2, "{error}");
            assert!(!error.message.is_empty(), "an error says why");
        }
    }
}

/// Line ends, of any kind that YAML has.
fn lines(text: &[u8]) -> usize {
    let text = String::from_utf8_lossy(text);
    let ends = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];
    text.chars().filter(|c| ends.contains(c)).count()
}

fn accept(manifest: Manifest) {
    let mut policies = Vec::new();
    for object in manifest.documents.into_iter().filter_map(|d| d.object) {
        if let Object::Policy(policy) = object {
            policies.push(policy);
            continue;
        }
        let yaml = to_yaml(&object).expect("what was read can be written");
        let again = parse(yaml.as_bytes()).unwrap_or_else(|error| panic!("{error}: {yaml}"));
        let again = again.documents.into_iter().find_map(|d| d.object);
        assert_eq!(again, Some(object), "{yaml}");
    }
    policies.truncate(POLICIES_MAX);
    compile(policies);
}

/// Policies that were read are put in force, whatever is in them; without them
/// everything is as before.
fn compile(policies: Vec<PolicyObject>) {
    if policies.is_empty() {
        return;
    }
    let mut engine = Engine::new(PolicyConfig::default());
    let mut numbers = Numbers::default();
    let reserved = reserved_identities(&PolicyConfig::default());
    for (id, info) in reserved {
        engine.upsert_identity(id, info);
    }
    let web = axon_abi::Identity(300);
    let labels = ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=default"];
    let labels = labels.iter().filter_map(|text| text.parse::<Label>().ok());
    engine.upsert_identity(web, IdentityInfo::labelled(labels.collect()));
    engine.set_subjects([web].into());
    let before = engine.resolution(&mut numbers).row_count();
    let origins: Vec<_> = policies
        .iter()
        .map(|policy| policy.origin.clone())
        .collect();
    for policy in policies {
        engine.upsert_policy(policy);
    }
    let resolution = engine.resolution(&mut numbers);
    assert!(
        resolution.subjects.contains_key(&web),
        "everybody has a set"
    );
    for origin in &origins {
        engine.remove_policy(origin);
    }
    assert_eq!(engine.resolution(&mut numbers).row_count(), before);
}
