//! How deep the stack is along the calls of a program.

use std::collections::BTreeMap;

use aya_obj::generated::bpf_insn;

/// Opcode of a call.
const CALL: u8 = 0x85;
/// Its source register, if it calls a function of the same program.
const PSEUDO_CALL: u8 = 1;
/// What kernels before 6.8 round each frame up to.
const FRAME: u32 = 32;
/// The verifier allows no deeper chain.
const FRAMES_MAX: usize = 8;

/// Bytes of each function's frame, in the order in which the functions lie,
/// from the verifier's line `stack depth 96+0+240`.
pub(super) fn frames(log: &str) -> Option<Vec<u32>> {
    log.lines()
        .find_map(|line| line.strip_prefix("stack depth "))?
        .split_whitespace()
        .next()?
        .split('+')
        .map(|depth| depth.parse().ok())
        .collect()
}

/// Instructions walked, from the line `processed 9 insns (limit 1000000) …`.
pub(super) fn processed(log: &str) -> Option<u32> {
    log.lines()
        .find_map(|line| line.strip_prefix("processed "))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Bytes of the deepest chain of calls.
pub(super) fn deepest(instructions: &[bpf_insn], frames: &[u32]) -> u32 {
    let calls: Vec<(usize, usize)> = instructions
        .iter()
        .enumerate()
        .filter(|(_, instruction)| instruction.code == CALL && instruction.src_reg() == PSEUDO_CALL)
        .filter_map(|(at, instruction)| {
            Some((at, (at + 1).checked_add_signed(instruction.imm as isize)?))
        })
        .collect();
    deepest_of(&calls, frames)
}

/// As [`deepest`], from calls as pairs of the calling and the called
/// instruction.
fn deepest_of(calls: &[(usize, usize)], frames: &[u32]) -> u32 {
    let mut starts: Vec<usize> = calls.iter().map(|(_, to)| *to).chain([0]).collect();
    starts.sort_unstable();
    starts.dedup();
    let function = |at: usize| {
        starts
            .partition_point(|start| *start <= at)
            .saturating_sub(1)
    };
    let mut callees: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (from, to) in calls {
        callees
            .entry(function(*from))
            .or_default()
            .push(function(*to));
    }
    depth(0, frames, &callees, FRAMES_MAX)
}

fn depth(
    function: usize,
    frames: &[u32],
    callees: &BTreeMap<usize, Vec<usize>>,
    left: usize,
) -> u32 {
    let own = frames
        .get(function)
        .copied()
        .unwrap_or(0)
        .max(1)
        .next_multiple_of(FRAME);
    let below = callees.get(&function).into_iter().flatten();
    let deepest = below
        .map(|callee| {
            if left > 0 {
                depth(*callee, frames, callees, left - 1)
            } else {
                0
            }
        })
        .max();
    own + deepest.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{deepest_of, frames, processed};

    #[test]
    fn frames_are_read_from_the_log() {
        let log = "verification time 3 usec\nstack depth 96+0+240\nprocessed 9 insns\n";
        assert_eq!(frames(log), Some(vec![96, 0, 240]));
        assert_eq!(processed(log), Some(9));
        assert_eq!(frames("stack depth 8 max 8\n"), Some(vec![8]));
        assert_eq!(frames("processed 9 insns"), None);
    }

    #[test]
    fn the_deepest_chain_counts() {
        // main (0..10) calls 10 and 20; 10 calls 30; frames are of 0, 10, 20, 30.
        let calls = [(2, 10), (5, 20), (12, 30)];
        assert_eq!(deepest_of(&calls, &[40, 8, 200, 100]), 64 + 224, "main, 20");
        assert_eq!(
            deepest_of(&calls, &[40, 64, 64, 100]),
            64 + 64 + 128,
            "main, 10, 30"
        );
        assert_eq!(deepest_of(&[], &[0]), 32);
    }
}
