//! The kernel's tables of TCP connections: `/proc/net/tcp` and `tcp6` (`get_tcp4_sock`, `net/ipv4/tcp_ipv4.c`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The connections that are established: this machine's end and the other one. IPv4 addresses in IPv6 clothes are IPv4 addresses.
pub fn established(text: &str) -> impl Iterator<Item = (SocketAddr, SocketAddr)> + '_ {
    rows(text)
        .filter(|(_, _, state)| *state == "01")
        .filter_map(|(local, remote, _)| Some((end(local)?, end(remote)?)))
}

/// Whether something listens on a port.
#[must_use]
pub fn listens(text: &str, port: u16) -> bool {
    rows(text).any(|(local, _, state)| state == "0A" && end(local).is_some_and(|local| local.port() == port))
}

/// `SL: LOCAL REMOTE STATE ...`, below a heading.
fn rows(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    text.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?, words.next()?, words.next()?))
    })
}

/// `ADDRESS:PORT` in hexadecimal, the address as words of 32 bits of this machine.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (part, at) in bytes.chunks_exact_mut(4).zip((0..32).step_by(8)) {
                part.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_ports_and_connections_are_found() {
        let text = "  sl  local_address rem_address   st\n   0: 00000000:0CBC 00000000:0000 0A 00000000\n   1: 0100007F:0CBC 0200007F:1234 01 0\n";
        assert!(listens(text, 3260) && !listens(text, 4660));
        let found: Vec<_> = established(text).map(|(local, remote)| format!("{local} {remote}")).collect();
        assert_eq!(found, ["127.0.0.1:3260 127.0.0.2:4660"]);
    }

    #[test]
    fn addresses_of_ipv6_are_read_as_words() {
        let text = "heading\n 0: 00000000000000000000000001000000:0CBC B80D0120000000000000000002000000:0001 01 0\n\
            1: 0000000000000000FFFF00000100007F:0CBC 0000000000000000FFFF00000200007F:0002 01 0\n";
        let found: Vec<_> = established(text).map(|(local, remote)| format!("{local} {remote}")).collect();
        assert_eq!(found, ["[::1]:3260 [2001:db8::2]:1", "127.0.0.1:3260 127.0.0.2:2"]);
    }
}
