//! What verbs print: tables for people, JSON for programs.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::failure::Failure;

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether stdout gets colours.
    pub(crate) fn is_on(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                io::stdout().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            }
        }
    }
}

/// Prints an answer: as it is for programs, rendered for people.
pub(crate) fn print<T: Serialize>(
    format: Format,
    answer: &T,
    render: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    match format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut stdout, answer)?;
            writeln!(stdout)?;
        }
        Format::Table => {
            let text = plain(render(answer));
            stdout.write_all(text.as_bytes())?;
            if !text.is_empty() && !text.ends_with('\n') {
                writeln!(stdout)?;
            }
        }
    }
    Ok(stdout.flush()?)
}

/// A text without what a terminal would obey: names and messages in it come
/// from whoever may make a pod.
fn plain(text: String) -> String {
    let obeyed = |c: char| c.is_control() && c != '\n';
    if !text.contains(obeyed) {
        return text;
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if obeyed(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Rows under a header, in columns with nothing but space between them.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// An empty cell that people see.
pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_name_rules_the_terminal() {
        let text = "a\x1b[2J\r\u{9b}1m\tb\nü\n".to_owned();
        assert_eq!(super::plain(text), "a\\u{1b}[2J\\r\\u{9b}1m\\tb\nü\n");
    }

    #[test]
    fn tables_are_columns_and_space() {
        let rows = [
            ["1".to_owned(), "a long one".to_owned(), "x\ny".to_owned()],
            ["22".to_owned(), String::new(), super::or_dash("")],
        ];
        assert_eq!(
            super::table(["ID", "NAME", "REST"], rows),
            "ID  NAME        REST\n\
             1   a long one  x\n\
             \u{20}               y\n\
             22              -\n"
        );
    }
}
