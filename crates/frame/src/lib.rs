//! Packets in memory, as the datapath sees them: what runs natively is run over
//! these, in tests (`testkit`) and when a packet is explained (`replay`).
//!
//! Invariants: no packet, however short, makes it panic.
//!
//! This crate must not know: tables, what becomes of a packet.
#![forbid(unsafe_code)]

mod mem_packet;

pub use mem_packet::MemPacket;
