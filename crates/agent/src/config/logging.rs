//! The log: how much of it, and how it is written.

use tracing_subscriber::EnvFilter;

use super::read::Reader;

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text for each event.
    Text,
    /// A line of JSON for each event.
    Json,
}

/// The log.
#[derive(Clone, Debug)]
pub struct Logging {
    /// A level, or a filter by module.
    pub filter: String,
    /// How it is written.
    pub format: LogFormat,
}

impl Logging {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let filter = reader.settings.text("log-level").to_owned();
        if !is_filter(&filter) {
            reader.refuse(
                "log-level",
                "error, warn, info, debug, trace, or a filter as warn,axon_agent=debug",
            );
        }
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        Self {
            filter,
            format: reader.word("log-format", &formats, LogFormat::Text),
        }
    }

    /// Starts logging to standard error. Does nothing where it was started
    /// before, as in tests.
    pub fn start(&self) {
        let filter = EnvFilter::try_new(&self.filter).unwrap_or_default();
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr);
        let started = match self.format {
            LogFormat::Text => log.with_ansi(false).try_init(),
            LogFormat::Json => log.json().flatten_event(true).try_init(),
        };
        if started.is_err() {
            tracing::debug!("the log was started before");
        }
    }
}

/// Whether each part is a level, or something of which a level is told: a
/// lone word is a module to the parser, and a misspelt level the end of the log.
fn is_filter(text: &str) -> bool {
    let told = |part: &str| {
        part.contains('=') || part.parse::<tracing::level_filters::LevelFilter>().is_ok()
    };
    !text.is_empty() && text.split(',').map(str::trim).all(told) && EnvFilter::try_new(text).is_ok()
}
