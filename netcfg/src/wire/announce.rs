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
    let mut sum: u32 = all
        .chunks(2)
        .map(|pair| {
            u32::from(pair.first().copied().unwrap_or(0)) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))
        })
        .sum();
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
    fn the_advertisement_sums_to_ones() {
        let ip: Ipv6Addr = "fd00::10".parse().expect("v6");
        let frame = advertisement(ip, MAC);
        assert_eq!((frame.len(), frame[21], frame[54], frame[58]), (86, 255, 136, 0x20));
        assert_eq!(checksum(ip, "ff02::1".parse().expect("v6"), &frame[54..]), 0);
    }
}
