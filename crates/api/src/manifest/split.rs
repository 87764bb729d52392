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

#[cfg(test)]
mod tests {
    use super::documents;

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
}
