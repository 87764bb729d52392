//! Errors as plugins answer them.

use serde::{Deserialize, Serialize};

use super::SpecVersion;

/// The codes of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u32", from = "u32")]
pub enum ErrorCode {
    /// The version asked for is not spoken.
    IncompatibleVersion,
    /// A field of the network configuration is not supported.
    UnsupportedField,
    /// The container is unknown or does not exist (any more).
    UnknownContainer,
    /// A variable of the environment is missing or wrong.
    InvalidEnvironment,
    /// Reading the configuration failed.
    IoFailure,
    /// The configuration is no JSON of the expected form.
    DecodingFailure,
    /// The configuration is well formed but wrong.
    InvalidNetworkConfig,
    /// Later it may work.
    TryAgainLater,
    /// STATUS: ADD would fail.
    NotAvailable,
    /// STATUS: ADD would fail, and existing containers suffer.
    NotAvailableLimited,
    /// CHECK and others: our own codes, from 100.
    Plugin(u32),
}

impl ErrorCode {
    /// The number.
    pub fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnsupportedField => 2,
            Self::UnknownContainer => 3,
            Self::InvalidEnvironment => 4,
            Self::IoFailure => 5,
            Self::DecodingFailure => 6,
            Self::InvalidNetworkConfig => 7,
            Self::TryAgainLater => 11,
            Self::NotAvailable => 50,
            Self::NotAvailableLimited => 51,
            Self::Plugin(number) => number,
        }
    }
}

impl From<ErrorCode> for u32 {
    fn from(code: ErrorCode) -> Self {
        code.number()
    }
}

impl From<u32> for ErrorCode {
    fn from(number: u32) -> Self {
        match number {
            1 => Self::IncompatibleVersion,
            2 => Self::UnsupportedField,
            3 => Self::UnknownContainer,
            4 => Self::InvalidEnvironment,
            5 => Self::IoFailure,
            6 => Self::DecodingFailure,
            7 => Self::InvalidNetworkConfig,
            11 => Self::TryAgainLater,
            50 => Self::NotAvailable,
            51 => Self::NotAvailableLimited,
            other => Self::Plugin(other),
        }
    }
}

/// An error as the runtime gets it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}")]
pub struct Error {
    /// Its code.
    pub code: ErrorCode,
    /// What is wrong, short.
    pub msg: String,
    /// What there is to say beyond; empty if nothing.
    pub details: String,
}

impl Error {
    /// An error without details.
    pub fn new(code: ErrorCode, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// The error with details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// What goes to stdout.
    pub fn to_json(&self, version: SpecVersion) -> serde_json::Value {
        let mut body = serde_json::json!({
            "cniVersion": version.to_string(),
            "code": self.code.number(),
            "msg": self.msg,
        });
        if !self.details.is_empty() {
            body["details"] = self.details.clone().into();
        }
        body
    }
}
