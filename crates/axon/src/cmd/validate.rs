//! `axon policy validate`.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use axon_api::manifest::{self, Document, ManifestError, Object, UnknownFields};
use axon_model::Fault;
use serde::Serialize;

use crate::failure::{FAILED, Failure};
use crate::output::{Format, or_dash, print, table};

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(crate) enum Unknown {
    /// The object is refused, as the agent does with files.
    #[default]
    Refuse,
    /// They are told, and the rest is judged without them: what an API server
    /// keeps that does not validate strictly.
    Warn,
}

/// What became of one object, or of a file that cannot be read.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    file: String,
    line: usize,
    /// Kind and name; empty if it is about the file.
    object: String,
    /// Empty if it would be accepted.
    error: String,
    /// A field that is left out; empty if it is not about one.
    warning: String,
    /// It is a policy that would be evaluated and reported, and not enforced.
    staged: bool,
    /// Nobody here reads objects of this kind.
    ignored: bool,
}

pub(super) fn validate(
    files: &[PathBuf],
    unknown: UnknownFields,
    format: Format,
) -> Result<ExitCode, Failure> {
    let mut findings = Vec::new();
    for file in files {
        let text = read(file).map_err(|e| Failure::new(format!("{}: {e}", file.display())))?;
        findings.extend(findings_of(file, &text, unknown));
    }
    print(format, &findings, |findings| validated(findings))?;
    let refused = findings.iter().any(|f| !f.error.is_empty());
    Ok(ExitCode::from(if refused { FAILED } else { 0 }))
}

/// Reads a file: of one that is too big as much as shows that.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut bounded = fs::File::open(file)?.take(manifest::TEXT_BYTES_MAX as u64 + 1);
    bounded.read_to_end(&mut text)?;
    Ok(text)
}

fn findings_of(file: &Path, text: &[u8], unknown: UnknownFields) -> Vec<Finding> {
    let file = file.display().to_string();
    let form = |error: &ManifestError| Finding {
        file: file.clone(),
        line: error.line,
        object: String::new(),
        error: error.to_string(),
        warning: String::new(),
        staged: false,
        ignored: false,
    };
    let (manifest, malformed) = match manifest::judge_with(text, unknown) {
        Ok(judged) => judged,
        Err(error) => return vec![form(&error)],
    };
    let refused = manifest.refused.iter().map(|refusal| Finding {
        file: file.clone(),
        line: refusal.error.line,
        object: format!("{} {}", refusal.kind, refusal.key),
        error: refusal.error.to_string(),
        warning: String::new(),
        staged: false,
        ignored: false,
    });
    let accepted = manifest.documents.iter().map(|document| Finding {
        file: file.clone(),
        line: document.line,
        object: format!("{} {}", document.kind, document.key),
        error: String::new(),
        warning: String::new(),
        staged: matches!(&document.object, Some(Object::Policy(policy)) if policy.staged),
        ignored: document.object.is_none(),
    });
    let left_out = manifest.unknown.iter().map(|error| Finding {
        error: String::new(),
        warning: error.to_string(),
        ..form(error)
    });
    let of_field = |document: &Document| {
        let object = format!("{} {}", document.kind, document.key);
        let line = document.line;
        faults_of(document)
            .into_iter()
            .map(move |fault| (line, object.clone(), fault))
    };
    let fields = manifest.documents.iter().flat_map(of_field);
    let faulty = fields.map(|(line, object, fault)| Finding {
        file: file.clone(),
        line,
        object,
        error: String::new(),
        warning: format!("{}: {}", fault.field, fault.reason),
        staged: false,
        ignored: false,
    });
    let malformed = malformed.iter().map(form);
    let findings = malformed
        .chain(refused)
        .chain(accepted)
        .chain(faulty)
        .chain(left_out);
    let mut findings: Vec<Finding> = findings.collect();
    findings.sort_by_key(|finding| finding.line);
    // Whoever asks believes that there is something in it.
    if findings.iter().all(|finding| finding.ignored) {
        let nothing = ManifestError {
            line: 1,
            ..ManifestError::of_text("holds no object that is read here")
        };
        findings.insert(0, form(&nothing));
    }
    findings
}

/// What is wrong with fields of an object whose other fields count.
fn faults_of(document: &Document) -> Vec<Fault> {
    match &document.object {
        Some(Object::Service(service)) => service.to_model().spec.faults,
        Some(Object::EndpointSlice(slice)) => slice.to_model().faults,
        _ => Vec::new(),
    }
}

fn validated(findings: &[Finding]) -> String {
    let rows = findings.iter().map(|finding| {
        [
            format!("{}:{}", finding.file, finding.line),
            or_dash(&finding.object),
            match (finding.error.as_str(), finding.warning.as_str()) {
                ("", "") if finding.staged => "accepted, staged: not enforced".to_owned(),
                ("", "") if finding.ignored => "ignored: nobody here reads this kind".to_owned(),
                ("", "") => "accepted".to_owned(),
                ("", warning) => format!("left out: {warning}"),
                (error, _) => format!("refused: {error}"),
            },
        ]
    });
    table(["PLACE", "OBJECT", "RESULT"], rows)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use axon_api::manifest::UnknownFields;

    #[test]
    fn files_are_judged_object_by_object() {
        let good = b"apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";
        let findings = super::findings_of(Path::new("f.yaml"), good, UnknownFields::Refuse);
        assert_eq!(findings.len(), 1);
        assert_eq!((findings[0].line, findings[0].error.as_str()), (1, ""));
        let mixed = [
            &b"a: [1\n---\n"[..],
            good,
            b"---\nkind: Pod\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: A}\n",
        ]
        .concat();
        let findings = super::findings_of(Path::new("f.yaml"), &mixed, UnknownFields::Refuse);
        let wrong: Vec<(usize, bool)> = findings
            .iter()
            .map(|f| (f.line, !f.error.is_empty()))
            .collect();
        assert_eq!(
            wrong,
            [(2, true), (3, false), (7, true), (11, true)],
            "{findings:?}"
        );
    }

    #[test]
    fn a_staged_policy_is_said_to_be() {
        let text = |annotation: &str| {
            format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                 metadata: {{name: a, annotations: {{{annotation}}}}}\nspec: {{podSelector: {{}}}}\n"
            )
        };
        for (annotation, expected) in [
            ("other/staged: 'yes'", "accepted"),
            ("policy.axoneme.io/staged: 'false'", "accepted"),
            (
                "policy.axoneme.io/staged: 'true'",
                "accepted, staged: not enforced",
            ),
            (
                "policy.axoneme.io/staged: 'yes'",
                "metadata.annotations.policy.axoneme.io/staged: \"yes\"; \
                 expected \"true\" or \"false\"",
            ),
            (
                "policy.axoneme.io/stagd: 'true'",
                "metadata.annotations.policy.axoneme.io/stagd: is no annotation \
                 of this kind; expected policy.axoneme.io/staged",
            ),
        ] {
            let text = text(annotation);
            let found = super::findings_of(Path::new("f"), text.as_bytes(), UnknownFields::Refuse);
            let shown = super::validated(&found);
            assert!(
                shown.trim_end().ends_with(expected),
                "{annotation}: {shown}"
            );
        }
    }

    #[test]
    fn a_field_that_is_left_out_is_named() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
                    spec: {ports: [{port: 80}, {port: 70000}]}\n";
        let found = super::findings_of(Path::new("f"), text.as_bytes(), UnknownFields::Refuse);
        let shown = super::validated(&found);
        assert!(
            shown.contains("left out: spec.ports[1].port: 70000"),
            "{shown}"
        );
    }

    #[test]
    fn a_kind_that_nobody_reads_is_not_accepted() {
        let other = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n";
        let good = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n";
        let wrong = "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolcy\n";
        for (text, refused, words) in [
            ([other, good].concat(), false, "ignored: nobody here reads"),
            (other.to_owned(), true, "holds no object that is read"),
            (String::new(), true, "holds no object that is read"),
            (
                [good, wrong].concat(),
                true,
                "did you mean \"CiliumNetworkPolicy\"?",
            ),
        ] {
            let judged = |text: &str| {
                super::findings_of(Path::new("f.yaml"), text.as_bytes(), UnknownFields::Refuse)
            };
            let found = judged(&text);
            assert_eq!(found.iter().any(|f| !f.error.is_empty()), refused, "{text}");
            let shown = super::validated(&found);
            assert!(shown.contains(words), "{shown}");
        }
    }

    #[test]
    fn unknown_fields_are_refused_or_told() {
        let text = b"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
            metadata: {name: a}\nspec: {podSelector: {}, ingres: []}\n";
        let judged = |unknown| super::findings_of(Path::new("f.yaml"), text, unknown);
        let refused = judged(UnknownFields::Refuse);
        assert_eq!(refused.len(), 1);
        assert!(refused[0].error.contains("`ingres`"), "{refused:?}");
        let told = judged(UnknownFields::Warn);
        assert_eq!(told.len(), 2);
        assert!(
            told.iter().all(|finding| finding.error.is_empty()),
            "{told:?}"
        );
        let shown = super::validated(&told);
        assert!(shown.contains("left out: line 4"), "{shown}");
        assert!(shown.contains("NetworkPolicy default/a"), "{shown}");
    }
}
