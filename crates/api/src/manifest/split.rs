//! Cuts a text into its documents.
//!
//! A line that starts with `---` or `...` and goes on with white space or not
//! at all is a marker wherever it stands: YAML allows it inside no scalar.

/// Each document with the line, from 1, on which it starts.
pub(super) fn documents(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = vec![(1, 0)];
    let mut offset = 0;
    for (n, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line, "---") {
            chunks.push((n + 1, offset));
        }
        offset += line.len();
    }
    let ends: Vec<usize> = chunks.iter().skip(1).map(|(_, start)| *start).collect();
    chunks
        .into_iter()
        .zip(ends.into_iter().chain([text.len()]))
        .filter_map(|((line, start), end)| Some((line, text.get(start..end)?)))
        .filter(|(_, chunk)| !is_empty(chunk))
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Whether there is nothing but comments, directives and markers.
fn is_empty(chunk: &str) -> bool {
    chunk.lines().all(|line| {
        let start = line.trim_start();
        let bare = ["---", "..."]
            .iter()
            .any(|marker| is_marker(line, marker) && line.len() <= marker.len() + 1);
        start.is_empty() || start.starts_with('#') || line.starts_with('%') || bare
    })
}

/// The line of the chunk, from 1, on which more than `max` flow collections
/// (`[`, `{`) are open within each other for the first time.
///
/// The parser's time grows with the square of that depth, and it reads a whole
/// document before it hands out the first value, so one must know before. An
/// estimate: quotes and comments are skipped, block scalars are not.
pub(super) fn too_deep(chunk: &str, max: usize) -> Option<usize> {
    let (mut depth, mut line) = (0_usize, 1);
    let (mut quote, mut comment) = (None, false);
    // The character before, and the last one before that is no white space.
    let (mut before, mut token) = ('\n', '\n');
    for c in chunk.chars() {
        match c {
            '\n' => {
                line += 1;
                comment = false;
            }
            _ if comment => {}
            // In quotes nothing counts but their end.
            _ if quote == Some(c) && before != '\\' => quote = None,
            _ if quote.is_some() => {}
            '[' | '{' if depth > 0 || before.is_whitespace() => {
                depth += 1;
                if depth > max {
                    return Some(line);
                }
            }
            ']' | '}' => depth = depth.saturating_sub(1),
            '"' | '\'' if depth > 0 && "[{,:?".contains(token) => quote = Some(c),
            '#' => comment = before.is_whitespace(),
            _ => {}
        }
        before = c;
        if !c.is_whitespace() {
            token = c;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{documents, too_deep};

    #[test]
    fn documents_know_their_lines() {
        let text = "# first\na: 1\n---\n# nothing\n---\nb: |\n  ---\n  x\n--- # last\nc: 1\n...\n";
        let found: Vec<_> = documents(text)
            .map(|(line, chunk)| (line, chunk.len()))
            .collect();
        assert_eq!(found, [(1, 13), (5, 19), (9, 20)]);
        assert_eq!(documents("%YAML 1.2\n---\na: 1\n").count(), 1);
        assert_eq!(documents("").count(), 0);
        assert_eq!(documents("---").count(), 0);
        assert_eq!(documents("----\n").count(), 1, "no marker");
    }

    #[test]
    fn depth_of_flow_collections_is_bounded_before_parsing() {
        assert_eq!(too_deep("a: [[{b: [1]}]]\n", 4), None);
        assert_eq!(too_deep("a: [[{b: [1]}]]\n", 3), Some(1));
        assert_eq!(too_deep("a: b\nc: [\n[\n", 1), Some(3));
        assert_eq!(too_deep(&"- [1]\n".repeat(9), 1), None, "side by side");
        assert_eq!(too_deep("a: x[[[\nb: \"it's\"\n", 1), None, "plain text");
        assert_eq!(too_deep("[ ']', [ \"]\", [ # ]\n [", 3), Some(2), "hidden");
    }
}
