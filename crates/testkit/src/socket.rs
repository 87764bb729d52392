//! A socket in memory.

use axon_abi::{Be16, IpKey};
use axon_datapath::Socket;

/// A socket with the address that a call names or tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemSocket {
    /// IP protocol number.
    pub protocol: u32,
    /// Whether it is one of IPv6.
    pub is_v6: bool,
    /// The address.
    pub addr: IpKey,
    /// Its port.
    pub port: u16,
    /// What it is told from all others by.
    pub cookie: u64,
    /// The same of its namespace.
    pub netns_cookie: u64,
}

impl MemSocket {
    /// A socket of the address's family.
    pub fn new(protocol: u8, addr: &str, port: u16) -> Self {
        let addr: std::net::IpAddr = addr.parse().expect("an address");
        Self {
            protocol: protocol.into(),
            is_v6: addr.is_ipv6(),
            addr: addr.into(),
            port,
            cookie: 1,
            netns_cookie: 1,
        }
    }

    /// The address and port as text.
    pub fn names(&self) -> String {
        std::net::SocketAddr::new(self.addr.into(), self.port).to_string()
    }
}

impl Socket for MemSocket {
    fn protocol(&self) -> u32 {
        self.protocol
    }
    fn is_v6(&self) -> bool {
        self.is_v6
    }
    fn addr(&self) -> IpKey {
        self.addr
    }
    fn port(&self) -> Be16 {
        Be16::new(self.port)
    }
    fn cookie(&self) -> u64 {
        self.cookie
    }
    fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }
    fn redirect(&mut self, addr: &IpKey, port: Be16) {
        assert!(
            self.is_v6 || addr.is_v4(),
            "a socket of IPv4 has no room for {addr:?}"
        );
        self.addr = *addr;
        self.port = port.get();
    }
}
