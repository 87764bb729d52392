//! The plugin's log: one line a call, where the network configuration says.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// Appends a line; a log that cannot be written is no reason to fail.
pub(crate) fn line(file: &str, text: &str) {
    if file.is_empty() {
        return;
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let line = format!(
        "{}.{:03} axon-cni[{}] {}\n",
        now.as_secs(),
        now.subsec_millis(),
        std::process::id(),
        // One call is one line, whatever stands in its arguments.
        text.replace(|c: char| c.is_control(), " ")
    );
    // One write of one line: lines of plugins that run at the same time do
    // not mix (O_APPEND).
    if let Ok(mut log) = OpenOptions::new().create(true).append(true).open(file) {
        let _ = log.write_all(line.as_bytes());
    }
}
