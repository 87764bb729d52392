//! Frontends and the choice of backends.

mod choice;
mod frontends;
mod rows;
