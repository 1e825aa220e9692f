//! The frames that tell neighbours that an address has moved: gratuitous ARP and unsolicited neighbour advertisement.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The frames to send for an address on a link with this hardware address. IPv4: a request and a reply, because some neighbours heed only
/// one of the two (RFC 5227, 3); IPv6: one advertisement with the override flag (RFC 4861, 7.2.6).
pub(crate) fn frames(address: IpAddr, mac: [u8; 6]) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(ip) => vec![arp(1, ip, mac), arp(2, ip, mac)],
        IpAddr::V6(ip) => vec![advertisement(ip, mac)],
    }
}

fn arp(operation: u8, ip: Ipv4Addr, mac: [u8; 6]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x06]);
    // Ethernet, IPv4, 6, 4, operation.
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(ip.octets());
    // A request asks for whom it is; a reply says it to all.
    frame.extend(if operation == 1 { [0; 6] } else { [0xff; 6] });
    frame.extend(ip.octets());
    frame
}

fn advertisement(ip: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(ip.octets());
    message.extend([2, 1]);
    message.extend(mac);
    let sum = checksum(ip, all_nodes, &message);
    if let Some(place) = message.get_mut(2..4) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(mac);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
    frame.extend(ip.octets());
    frame.extend(all_nodes.octets());
    frame.extend(message);
    frame
}

/// The `ICMPv6` checksum over the pseudo header and the message (RFC 4443, 2.3).
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let all: Vec<u8> =
        [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, 58], message].concat();
    ones_complement(&all)
}

/// `ETH_P_ARP` and `ETH_P_IPV6`.
pub(crate) fn ethertype(address: IpAddr) -> u16 {
    if address.is_ipv4() { 0x0806 } else { 0x86dd }
}

/// The frame that asks whether somebody has an address, without saying that this machine has it: an ARP probe (RFC 5227, 2.1.1), or the
/// solicitation of duplicate detection (RFC 4862, 5.4.2).
pub(crate) fn probe(address: IpAddr, mac: [u8; 6]) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => {
            let mut frame = arp(1, ip, mac);
            // Nobody is to learn the sender's address from it.
            if let Some(sender) = frame.get_mut(28..32) {
                sender.fill(0);
            }
            frame
        }
        IpAddr::V6(ip) => {
            let [.., a, b, c] = ip.octets();
            let low = u16::from(b) << 8 | u16::from(c);
            let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low);
            let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
            message.extend(ip.octets());
            let sum = checksum(Ipv6Addr::UNSPECIFIED, group, &message);
            if let Some(place) = message.get_mut(2..4) {
                place.copy_from_slice(&sum.to_be_bytes());
            }
            let mut frame = vec![0x33, 0x33, 0xff, a, b, c];
            frame.extend(mac);
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255]);
            frame.extend(Ipv6Addr::UNSPECIFIED.octets());
            frame.extend(group.octets());
            frame.extend(message);
            frame
        }
    }
}

/// Who says in a frame that it has the address, or is asking for it at the same moment; `None` if nobody else does.
pub(crate) fn claimant(frame: &[u8], address: IpAddr, own: [u8; 6]) -> Option<[u8; 6]> {
    let bytes = |at: usize, length: usize| frame.get(at..at + length);
    let mac = |at: usize| bytes(at, 6).and_then(|b| <[u8; 6]>::try_from(b).ok()).filter(|mac| *mac != own);
    match address {
        IpAddr::V4(ip) => {
            let (sender, target) = (bytes(28, 4)?, bytes(38, 4)?);
            let ours = ip.octets();
            let asks_too = sender == [0; 4] && target == ours;
            (bytes(12, 2)? == [8, 6] && (sender == ours || asks_too)).then(|| mac(22)).flatten()
        }
        IpAddr::V6(ip) => {
            let is_icmp = bytes(12, 2)? == [0x86, 0xdd] && *frame.get(20)? == 58;
            let about_it = bytes(62, 16)? == ip.octets();
            // An advertisement, or a solicitation from nowhere.
            let says = match *frame.get(54)? {
                136 => true,
                135 => bytes(22, 16)? == Ipv6Addr::UNSPECIFIED.octets(),
                _ => false,
            };
            (is_icmp && about_it && says).then(|| mac(6)).flatten()
        }
    }
}

/// An echo request that makes an IP packet of this many bytes.
pub(crate) fn echo_request(peer: IpAddr, packet: u32, id: u16, sequence: u16) -> Vec<u8> {
    let (header, kind) = if peer.is_ipv4() { (20, 8) } else { (40, 128) };
    let length = usize::try_from(packet).unwrap_or(0).saturating_sub(header).max(8);
    let mut message = vec![kind, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.resize(length, 0x5a);
    // The kernel does the sum of ICMPv6 itself.
    if peer.is_ipv4() {
        let sum = ones_complement(&message);
        if let Some(place) = message.get_mut(2..4) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
    }
    message
}

/// Whether what a raw socket received answers a request: with its IP header for IPv4, without for IPv6.
pub(crate) fn is_echo_reply(received: &[u8], peer: IpAddr, id: u16, sequence: u16) -> bool {
    let (at, kind) = match peer {
        IpAddr::V4(_) => (received.first().map_or(20, |first| usize::from(first & 15) * 4), 0),
        IpAddr::V6(_) => (0, 129),
    };
    let wanted = [id.to_be_bytes(), sequence.to_be_bytes()].concat();
    received.get(at) == Some(&kind) && received.get(at + 4..at + 8) == Some(&wanted[..])
}

fn ones_complement(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| {
        u32::from(pair.first().copied().unwrap_or(0)) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))
    };
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

    #[test]
    fn both_forms_of_gratuitous_arp() {
        let frames = frames("10.1.24.10".parse().expect("v4"), MAC);
        assert_eq!(frames.len(), 2);
        for (frame, operation) in frames.iter().zip([1, 2]) {
            assert_eq!(frame.len(), 42);
            assert_eq!((&frame[..6], &frame[12..14], frame[21]), (&[0xff; 6][..], &[8, 6][..], operation));
            assert_eq!(
                (&frame[22..28], &frame[28..32], &frame[38..42]),
                (&MAC[..], &[10, 1, 24, 10][..], &[10, 1, 24, 10][..])
            );
        }
    }

    #[test]
    fn a_probe_claims_nothing_and_finds_the_owner() {
        let other = [0x52, 0x54, 0, 9, 9, 9];
        for text in ["10.1.24.10", "fd00::10"] {
            let ip: IpAddr = text.parse().expect("address");
            let asked = probe(ip, MAC);
            assert_eq!(claimant(&asked, ip, MAC), None, "our own question");
            assert_eq!(claimant(&asked, ip, other), Some(MAC), "somebody asks at the same moment");
            for answer in frames(ip, other) {
                assert_eq!(claimant(&answer, ip, MAC), Some(other), "{text}");
                assert_eq!(claimant(&answer, "10.1.24.11".parse().expect("v4"), MAC), None);
                assert_eq!(claimant(&answer[..30], ip, MAC), None);
            }
        }
        let IpAddr::V6(six) = "fd00::10".parse().expect("v6") else { panic!("v6") };
        let frame = probe(six.into(), MAC);
        let group: Ipv6Addr = "ff02::1:ff00:10".parse().expect("v6");
        assert_eq!(
            (frame.len(), &frame[..6], &frame[38..54]),
            (78, &[0x33, 0x33, 0xff, 0, 0, 0x10][..], &group.octets()[..])
        );
        assert_eq!(checksum(Ipv6Addr::UNSPECIFIED, group, &frame[54..]), 0);
    }

    #[test]
    fn an_echo_has_the_length_it_is_asked_for() {
        let four: IpAddr = "10.0.0.1".parse().expect("v4");
        let request = echo_request(four, 9000, 7, 1);
        assert_eq!((request.len(), ones_complement(&request)), (8980, 0));
        let mut reply = [vec![0x45; 20], request].concat();
        reply[20] = 0;
        assert!(is_echo_reply(&reply, four, 7, 1) && !is_echo_reply(&reply, four, 7, 2));
        assert_eq!(echo_request("::1".parse().expect("v6"), 1500, 7, 1).len(), 1460);
    }

    #[test]
    fn the_advertisement_sums_to_ones() {
        let ip: Ipv6Addr = "fd00::10".parse().expect("v6");
        let frame = advertisement(ip, MAC);
        assert_eq!((frame.len(), frame[21], frame[54], frame[58]), (86, 255, 136, 0x20));
        assert_eq!(checksum(ip, "ff02::1".parse().expect("v6"), &frame[54..]), 0);
    }
}
