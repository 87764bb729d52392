//! Whether a packet's checksums are right, worked out the slow way.

/// The Internet checksum of bytes (RFC 1071), complemented.
#[must_use]
pub fn sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            let word = [pair[0], pair.get(1).copied().unwrap_or(0)];
            total += u64::from(u16::from_be_bytes(word));
        }
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

/// Checks the IP header checksum and that of TCP, UDP and ICMP of a whole
/// packet; fragments are checked as far as their IP header.
///
/// # Errors
/// Says which checksum is wrong, or that the packet is too short.
pub fn check(frame: &[u8]) -> Result<(), String> {
    let ip = frame.get(14..).ok_or("no IP header")?;
    match frame.get(12..14) {
        Some([0x08, 0x00]) => check_v4(ip),
        Some([0x86, 0xdd]) => check_v6(ip),
        _ => Ok(()),
    }
}

fn check_v4(ip: &[u8]) -> Result<(), String> {
    let header_len = usize::from(ip.first().ok_or("empty")? & 15) * 4;
    let header = ip.get(..header_len).ok_or("short IPv4 header")?;
    if sum(&[header]) != 0 {
        return Err("IPv4 header checksum".into());
    }
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let body = ip.get(header_len..total).ok_or("short IPv4 packet")?;
    if u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0 {
        return Ok(());
    }
    let pseudo = [&ip[12..20], &[0, ip[9]], &(body.len() as u16).to_be_bytes()].concat();
    check_l4(ip[9], &pseudo, body, false)
}

fn check_v6(ip: &[u8]) -> Result<(), String> {
    let payload = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let mut next = ip[6];
    let mut at = 40;
    while matches!(next, 0 | 43 | 44 | 60) {
        let header = ip.get(at..at + 8).ok_or("short extension header")?;
        if next == 44 && u16::from_be_bytes([header[2], header[3]]) & 0xfff9 != 0 {
            return Ok(());
        }
        at += if next == 44 {
            8
        } else {
            (usize::from(header[1]) + 1) * 8
        };
        next = header[0];
    }
    let body = ip.get(at..40 + payload).ok_or("short IPv6 packet")?;
    let len = (body.len() as u32).to_be_bytes();
    let pseudo = [&ip[8..40], &len, &[0, 0, 0, next]].concat();
    check_l4(next, &pseudo, body, true)
}

fn check_l4(protocol: u8, pseudo: &[u8], body: &[u8], v6: bool) -> Result<(), String> {
    let right = match protocol {
        17 if body.get(6..8) == Some(&[0, 0]) => !v6,
        6 | 17 | 58 => sum(&[pseudo, body]) == 0,
        1 => sum(&[body]) == 0,
        _ => true,
    };
    if right {
        Ok(())
    } else {
        Err(format!("checksum of protocol {protocol}"))
    }
}
