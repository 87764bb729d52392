//! What was meant, where a name is not known.

/// Adds to "unknown field" the known field it is most like.
pub(super) fn suggest(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (true, Some(wrong)) = (message.starts_with("unknown"), quoted.next()) else {
        return message.to_owned();
    };
    match quoted.map(|known| (distance(wrong, known), known)).min() {
        Some((distance, known)) if distance <= 1 + wrong.len() / 4 => {
            format!("{message}; did you mean `{known}`?")
        }
        _ => message.to_owned(),
    }
}

/// How many letters differ (Levenshtein), whatever their case.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(64).enumerate() {
        let mut next = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let same = ca.eq_ignore_ascii_case(cb);
            let replaced = row.get(j).copied().unwrap_or_default() + usize::from(!same);
            let removed = row.get(j + 1).copied().unwrap_or_default() + 1;
            let added = next.last().copied().unwrap_or_default() + 1;
            next.push(replaced.min(removed).min(added));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
