//! Who listens at a port that is wanted.

use std::fs;
use std::io;
use std::net::SocketAddr;

/// The state of a socket that listens, as the kernel writes it.
const LISTENS: &str = "0A";

/// Why a port cannot be listened at.
pub(super) fn why(address: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => match holder(address.port()) {
            Some(who) => format!("{who} listens there"),
            // Ports of services are refused like this too (node-port-bind-protection).
            None => "a process that is not seen from here listens there, or it is a service's \
                     node port"
                .to_owned(),
        },
        _ => error.to_string(),
    }
}

/// The process that listens at a port, if it can be seen from here.
fn holder(port: u16) -> Option<String> {
    let sockets: Vec<String> = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|text| listening(&text, port))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let id = ids.find(|id| has_one_of(*id, &sockets))?;
    let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    Some(format!("{} (process {id})", name.trim()))
}

/// What links to the sockets that listen at a port are called, of a table as in
/// `/proc/net/tcp`.
fn listening(table: &str, port: u16) -> Vec<String> {
    let rows = table.lines().skip(1);
    let sockets = rows.filter_map(|row| {
        let mut fields = row.split_whitespace();
        let (_, at) = fields.nth(1)?.rsplit_once(':')?;
        let (state, inode) = (fields.nth(1)?, fields.nth(5)?);
        let is_there = state == LISTENS && u16::from_str_radix(at, 16) == Ok(port);
        is_there.then(|| format!("socket:[{inode}]"))
    });
    sockets.collect()
}

fn has_one_of(process: u32, sockets: &[String]) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else {
        return false;
    };
    let mut links = files
        .flatten()
        .filter_map(|file| fs::read_link(file.path()).ok());
    links.any(|link| {
        sockets
            .iter()
            .any(|socket| link.as_os_str() == socket.as_str())
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::{holder, listening};

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:7D01 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1
   1: 0100007F:7D01 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4343 1
   2: 00000000:7D02 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4444 1
   3: spoilt
";

    #[test]
    fn only_who_listens_at_the_port_is_meant() {
        assert_eq!(listening(TABLE, 32001), ["socket:[4242]"]);
        assert_eq!(listening(TABLE, 32003), [""; 0]);
        assert_eq!(listening("", 32001), [""; 0]);
    }

    #[test]
    fn a_process_is_named() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                println!("skipped: no address as {address}");
                continue;
            };
            let port = listener.local_addr().expect("an address").port();
            let named = holder(port).expect("a process");
            let own = format!("(process {})", std::process::id());
            assert!(named.ends_with(&own), "{named}");
        }
    }
}
