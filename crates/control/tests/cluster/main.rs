//! The controller over a small cluster.

mod cases;
mod groups;
mod histories;
mod host;
mod host_trial;
mod huge;
mod names;
mod nodes;
mod numbers;
mod places;
mod staged;
mod tiers;
mod world;
