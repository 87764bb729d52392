//! What is told beside the policies, by lines of the record.

use std::collections::BTreeMap;

use crate::problem::short;

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
    /// Notes something about a line: of a long text its beginning.
    pub(crate) fn add(&mut self, line: u64, text: &str) {
        let text = short(text);
        if self.by_text.len() >= NOTES_MAX && !self.by_text.contains_key(&text) {
            self.more += 1;
            return;
        }
        let (lines, more) = self.by_text.entry(text).or_default();
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

#[cfg(test)]
mod tests {
    use super::{NOTES_MAX, Notes};

    #[test]
    fn notes_are_few_and_short_whatever_is_quoted() {
        let mut notes = Notes::default();
        for line in 1..=2 * NOTES_MAX as u64 {
            notes.add(line, &format!("{line} {}", "x".repeat(1 << 16)));
        }
        let told = notes.told();
        assert_eq!(told.len(), NOTES_MAX + 1);
        assert!(told.iter().all(|note| note.len() < 400), "{}", told[0]);
        assert!(told[0].starts_with("line 1: 1 xxx"), "{}", told[0]);
        assert_eq!(told[NOTES_MAX], "200 more lines that are left out");
    }
}
