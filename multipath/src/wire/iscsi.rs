//! iSCSI PDUs of a discovery session (RFC 7143): login, text, logout; their text, and what a login's status means.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use host::Iqn;

use crate::state::Discovered;

/// The basic header segment.
pub(crate) const HEADER: usize = 48;
/// What we accept in one PDU.
pub(crate) const MAX_DATA: usize = 262_144;
/// What a target may send in one PDU before it was told otherwise (RFC 7143, 13.12), with room for those that do not count well.
pub(crate) const MAX_LOGIN_DATA: usize = 65_536;
/// The port of iSCSI.
pub(crate) const PORT: u16 = 3260;
/// A tag that says "none" (RFC 7143, 11.1: reserved value of task and transfer tags).
pub(crate) const NO_TAG: u32 = u32::MAX;

pub(crate) const NOP_OUT: u8 = 0x00;
pub(crate) const LOGIN: u8 = 0x43;
pub(crate) const TEXT: u8 = 0x04;
pub(crate) const LOGOUT: u8 = 0x46;
pub(crate) const NOP_IN: u8 = 0x20;
pub(crate) const LOGIN_RESPONSE: u8 = 0x23;
pub(crate) const TEXT_RESPONSE: u8 = 0x24;
pub(crate) const LOGOUT_RESPONSE: u8 = 0x26;
pub(crate) const ASYNC: u8 = 0x32;
pub(crate) const REJECT: u8 = 0x3f;

/// One PDU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pdu {
    pub(crate) header: [u8; HEADER],
    pub(crate) data: Vec<u8>,
}

impl Pdu {
    /// A PDU of an opcode with flags in byte 1.
    pub(crate) fn new(opcode: u8, flags: u8) -> Self {
        let mut header = [0; HEADER];
        (header[0], header[1]) = (opcode, flags);
        Self { header, data: Vec::new() }
    }

    pub(crate) fn set(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.header.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        self.header.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
    }

    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.header.get(at).copied().unwrap_or(0)
    }

    pub(crate) fn opcode(&self) -> u8 {
        self.byte(0) & 0x3f
    }

    /// As it is sent: length into bytes 5..8, data padded to 4.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.header.to_vec();
        let length = u32::try_from(self.data.len()).unwrap_or(u32::MAX).to_be_bytes();
        out.iter_mut().skip(5).zip(length.iter().skip(1)).for_each(|(to, from)| *to = *from);
        out.extend(&self.data);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    /// How many bytes follow a header: additional headers and data before its padding. `Err` if it is more than `most`, before anything is
    /// allocated for it.
    pub(crate) fn rest(header: &[u8; HEADER], most: usize) -> Result<(usize, usize), String> {
        let [.., ahs, a, b, c] = header[..8] else { return Err("short header".to_owned()) };
        let data = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if data > most {
            return Err(format!("a PDU of {data} bytes, more than the {most} it may send"));
        }
        Ok((usize::from(ahs) * 4, data))
    }
}

/// Writes `key=value` pairs with their closing NULs.
pub(crate) fn text(pairs: &[(&str, &str)]) -> Vec<u8> {
    pairs.iter().flat_map(|(key, value)| format!("{key}={value}\0").into_bytes()).collect()
}

/// Reads `key=value` pairs; of a key given twice the last counts.
pub(crate) fn pairs(data: &[u8]) -> BTreeMap<String, String> {
    keys(data).collect()
}

fn keys(data: &[u8]) -> impl Iterator<Item = (String, String)> + '_ {
    data.split(|b| *b == 0).filter_map(|item| {
        let item = std::str::from_utf8(item).ok()?;
        item.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))
    })
}

/// Where something is: an address, or a name that somebody has to look up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// An address of either family.
    Address(SocketAddr),
    /// A name and its port.
    Name(String, u16),
}

/// Reads `TargetAddress`: `domainname[:port][,portal-group-tag]` (RFC 7143, 13.8). IPv6 stands in brackets, and without them where there
/// is no port; names may stand in brackets, too. `None` for what is none of these.
pub(crate) fn address(text: &str) -> Option<(Place, Option<u16>)> {
    let (place, tag) = match text.rsplit_once(',') {
        Some((place, tag)) => (place, Some(tag.parse().ok()?)),
        None => (text, None),
    };
    if let Ok(bare) = place.parse::<Ipv6Addr>() {
        return Some((Place::Address(SocketAddr::new(bare.into(), PORT)), tag));
    }
    let (name, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (name, rest) = rest.split_once(']')?;
            (name, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => place.split_once(':').map_or((place, None), |(name, port)| (name, Some(port))),
    };
    let port = port.map_or(Some(PORT), |port| port.parse().ok().filter(|port| *port != 0))?;
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Some((Place::Address(SocketAddr::new(ip, port)), tag));
    }
    // A link-local address has its zone inside the brackets; the standard library knows zones by number.
    if let Ok(scoped) = format!("[{name}]:{port}").parse() {
        return Some((Place::Address(scoped), tag));
    }
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let is_name = (1..=253).contains(&name.len()) && name.bytes().all(fine);
    is_name.then(|| (Place::Name(name.to_owned(), port), tag))
}

/// Whether a name can be a target's: it becomes part of paths and of arguments.
fn is_target(name: &str) -> bool {
    let typed = ["iqn.", "eui.", "naa."].iter().any(|kind| name.starts_with(kind));
    typed && name.len() <= 223 && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
}

/// Reads the answer to SendTargets: `TargetName`, then its `TargetAddress` lines. What cannot be a name or an address is passed over; a target
/// without addresses is at `asked`, the portal that was asked (RFC 7143, appendix C.2).
pub(crate) fn targets(data: &[u8], asked: Option<SocketAddr>) -> Vec<Discovered> {
    let mut found: Vec<Discovered> = Vec::new();
    // Addresses behind a name that was passed over belong to nobody.
    let mut has_name = false;
    for (key, value) in keys(data) {
        match key.as_str() {
            "TargetName" => {
                has_name = is_target(&value);
                if has_name {
                    found.push(Discovered::new(Iqn::from_kernel(value)));
                }
            }
            "TargetAddress" if has_name => {
                let Some(last) = found.last_mut() else { continue };
                match address(&value) {
                    Some((Place::Address(portal), tag)) => last.portals.push((portal, tag.unwrap_or(1))),
                    Some((Place::Name(name, port), tag)) => last.names.push((name, port, tag.unwrap_or(1))),
                    None => {}
                }
            }
            _ => {}
        }
    }
    if let Some(asked) = asked {
        let silent = found.iter_mut().filter(|d| d.portals.is_empty() && d.names.is_empty());
        silent.for_each(|d| d.portals.push((asked, 1)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pdu_is_padded_and_says_its_length() {
        let mut pdu = Pdu::new(LOGIN, 0x87);
        pdu.data = text(&[("SessionType", "Discovery")]);
        let bytes = pdu.encode();
        assert_eq!((bytes[0], bytes[1], &bytes[5..8]), (0x43, 0x87, &[0, 0, 22][..]));
        assert_eq!(bytes.len(), 48 + 24);
        let header: [u8; 48] = bytes[..48].try_into().expect("a header");
        assert_eq!(Pdu::rest(&header, MAX_DATA), Ok((0, 22)));
        assert!(Pdu::rest(&header, 21).is_err());
    }

    #[test]
    fn targets_with_both_address_families_and_names() {
        let data = text(&[
            ("TargetAddress", "10.9.9.9:3260,9"),
            ("TargetName", "iqn.2026-01.a:x"),
            ("TargetAddress", "10.1.24.10:3260,1"),
            ("TargetAddress", "[fd00::10]:3260,2"),
            ("TargetAddress", "san.example:3261,2"),
            ("TargetName", "../../etc/passwd"),
            ("TargetAddress", "10.1.24.11:3260,1"),
            ("TargetName", "iqn.2026-01.a:y"),
        ]);
        let found = targets(&data, Some(SocketAddr::from(([10, 1, 24, 10], 3260))));
        let shown = |d: &Discovered| d.portals.iter().map(|(a, t)| format!("{a} {t}")).collect::<Vec<_>>();
        assert_eq!(found.len(), 2);
        assert_eq!(shown(&found[0]), ["10.1.24.10:3260 1", "[fd00::10]:3260 2"]);
        assert_eq!(found[0].names, [("san.example".to_owned(), 3261, 2)]);
        assert_eq!(found[0].groups().keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(shown(&found[1]), ["10.1.24.10:3260 1"], "without addresses it is where we asked");
    }

    #[test]
    fn addresses_as_targets_write_them() {
        for (written, read) in [
            ("10.0.0.1", "10.0.0.1:3260"),
            ("10.0.0.1:860,7", "10.0.0.1:860"),
            ("fd00::1", "[fd00::1]:3260"),
            ("fd00::1,1", "[fd00::1]:3260"),
            ("[fd00::1],1", "[fd00::1]:3260"),
            ("[fd00::1]:860,1", "[fd00::1]:860"),
            ("[fe80::1%2]:3260,1", "[fe80::1%2]:3260"),
            ("[10.0.0.1]:860", "10.0.0.1:860"),
        ] {
            let (place, _) = address(written).unwrap_or_else(|| panic!("{written} is an address"));
            assert_eq!(place, Place::Address(read.parse().expect("an address")), "{written}");
        }
        assert_eq!(
            address("[san-1.example]:860,2"),
            Some((Place::Name("san-1.example".into(), 860), Some(2)))
        );
        for wrong in
            ["", "[", "[fd00::1", "[fd00::1]x", "10.0.0.1:0", "10.0.0.1:99999", "a b", "a/b:1", "x,y"]
        {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn hostile_answers_are_only_data(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(targets(&data, None).len() <= data.len());
            prop_assert!(pairs(&data).len() <= data.len());
        }

        #[test]
        fn any_text_is_an_address_or_none(text in "[\\[\\]:,.%a-f0-9-]{0,40}") {
            if let Some((Place::Name(name, _), _)) = address(&text) {
                prop_assert!(!name.is_empty() && !name.contains('/'));
            }
        }
    }
}
