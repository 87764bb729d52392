//! What is told beside the policies, by lines of the record.

use std::collections::BTreeMap;

/// Lines that are named for each note, the rest is counted.
const LINES_MAX: usize = 5;
/// Different notes that are kept: they may quote what was read.
const NOTES_MAX: usize = 200;

/// Notes, each with the lines that it is about.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    by_text: BTreeMap<String, (Vec<u64>, u64)>,
    more: u64,
}

impl Notes {
    /// Notes something about a line.
    pub(crate) fn add(&mut self, line: u64, text: &str) {
        if self.by_text.len() >= NOTES_MAX && !self.by_text.contains_key(text) {
            self.more += 1;
            return;
        }
        let (lines, more) = self.by_text.entry(text.to_owned()).or_default();
        match lines.len() < LINES_MAX {
            true => lines.push(line),
            false => *more += 1,
        }
    }

    /// The notes, in the order of their first lines.
    pub(crate) fn told(self) -> Vec<String> {
        let mut notes: Vec<(Vec<u64>, String)> = Vec::new();
        for (text, (mut lines, more)) in self.by_text {
            lines.sort_unstable();
            let named: Vec<String> = lines.iter().map(u64::to_string).collect();
            let word = if named.len() == 1 { "line" } else { "lines" };
            let more = match more {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            notes.push((lines, format!("{word} {}{more}: {text}", named.join(", "))));
        }
        notes.sort();
        let mut told: Vec<String> = notes.into_iter().map(|(_, text)| text).collect();
        if self.more > 0 {
            told.push(format!("{} more lines that are left out", self.more));
        }
        told
    }
}
