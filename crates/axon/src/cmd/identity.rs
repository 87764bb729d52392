//! `axon identity`.

use axon_api::agent::IdentityView;
use axon_model::Label;

use crate::client::Asking;
use crate::failure::Failure;
use crate::output::{print, table};

/// Arguments of `axon identity`.
pub(crate) type Args = Asking<Verb>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Every identity that the agent knows, with its labels.
    List,
    /// One identity.
    Get {
        /// Its number.
        id: u32,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let client = args.common.client();
    match args.verb {
        Verb::List => {
            let identities: Vec<IdentityView> = client.get("/v1/identity")?;
            print(args.common.output, &identities, |i| list(i))
        }
        Verb::Get { id } => {
            let identity: IdentityView = client.get(&format!("/v1/identity/{id}"))?;
            print(args.common.output, &identity, |i| {
                list(std::slice::from_ref(i))
            })
        }
    }
}

fn list(identities: &[IdentityView]) -> String {
    let rows = identities.iter().map(|identity| {
        let labels: Vec<String> = identity
            .labels
            .iter()
            .map(|(source, key, value)| Label::new(source, key, value).to_string())
            .collect();
        [identity.id.to_string(), labels.join("\n")]
    });
    table(["IDENTITY", "LABELS"], rows)
}

#[cfg(test)]
mod tests {
    use axon_api::agent::IdentityView;
    use axon_model::Label;

    #[test]
    fn a_label_a_line() {
        let identity = |id, labels: &[Label]| IdentityView {
            id,
            labels: labels.iter().cloned().collect(),
        };
        let identities = [
            identity(1, &[Label::new("reserved", "host", "")]),
            identity(
                300,
                &[Label::new("k8s", "a", "1"), Label::new("k8s", "b", "2")],
            ),
        ];
        assert_eq!(
            super::list(&identities),
            "\
IDENTITY  LABELS
1         reserved:host
300       k8s:a=1
          k8s:b=2
"
        );
    }
}
