//! DELs that the agent carries out when it is back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use axon_api::agent::{DELETE_QUEUE, EndpointDelete};

/// Writes an order down for an agent that is away, in the queue beside its
/// socket; the same order twice is one.
///
/// The file appears whole or not at all: an agent that starts meanwhile never
/// reads half an order.
///
/// # Errors
/// The kernel's answer, with the path.
pub fn postpone(socket: &Path, order: &EndpointDelete) -> io::Result<PathBuf> {
    let directory = socket.parent().unwrap_or(Path::new("/")).join(DELETE_QUEUE);
    put(&directory, order)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", directory.display())))
}

fn put(directory: &Path, order: &EndpointDelete) -> io::Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let name = order.queue_file();
    let file = directory.join(&name);
    let draft = directory.join(format!(".{name}.{}", std::process::id()));
    fs::write(&draft, serde_json::to_vec(order)?)?;
    fs::rename(&draft, &file)?;
    Ok(file)
}
