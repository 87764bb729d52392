//! What sets cost and say in cases known by hand.

mod edits;
mod proofs;
mod server;
mod verdicts;
