//! CiliumCIDRGroup.

use axon_model::CidrGroup;
use serde::{Deserialize, Serialize};

use crate::k8s::Metadata;
use crate::manifest::FieldError;
use crate::select::prefix;

/// Prefixes outside the cluster under one name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CiliumCidrGroup {
    /// `cilium.io/v2`, or `cilium.io/v2alpha1`.
    #[serde(skip_serializing)]
    pub api_version: String,
    /// `CiliumCIDRGroup`.
    #[serde(skip_serializing)]
    pub kind: String,
    /// Its name and labels.
    #[serde(default)]
    pub metadata: Metadata,
    /// What is in it.
    pub spec: CidrGroupSpec,
}

/// What is in a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CidrGroupSpec {
    /// The prefixes.
    #[serde(rename = "externalCIDRs")]
    pub external_cidrs: Vec<String>,
}

impl CiliumCidrGroup {
    /// The group as the model has it.
    ///
    /// # Errors
    /// A text that is no prefix.
    pub fn to_model(&self) -> Result<CidrGroup, FieldError> {
        let cidrs = self.spec.external_cidrs.iter().enumerate();
        let cidrs = cidrs.map(|(n, text)| prefix(text, &format!("spec.externalCIDRs[{n}]")));
        Ok(CidrGroup {
            name: self.metadata.name.clone(),
            labels: self.metadata.labels.clone(),
            cidrs: cidrs.collect::<Result<_, _>>()?,
        })
    }
}
