//! One program into the kernel, for the verifier's statistics.

use std::ffi::CStr;
use std::io;

use aya_obj::generated::bpf_insn;

use crate::sys::{self, ProgramKind};

/// The verifier's statistics of a program that loads; the program is let go.
pub(super) fn log_of(
    kind: ProgramKind,
    instructions: &[bpf_insn],
    license: &CStr,
) -> io::Result<String> {
    let bytes: Vec<u8> = instructions.iter().flat_map(encode).collect();
    let mut log = vec![0; 64 * 1024];
    sys::load_program(kind, &bytes, license, &mut log)?;
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    log.truncate(end);
    String::from_utf8(log).map_err(|error| io::Error::other(error.to_string()))
}

/// An instruction as the kernel has it in memory.
fn encode(instruction: &bpf_insn) -> [u8; 8] {
    let [off_low, off_high] = instruction.off.to_ne_bytes();
    let [a, b, c, d] = instruction.imm.to_ne_bytes();
    let registers = instruction.src_reg() << 4 | instruction.dst_reg();
    [instruction.code, registers, off_low, off_high, a, b, c, d]
}
