//! iSCSI PDUs of a discovery session (RFC 7143): login, text, logout.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use host::Iqn;

use crate::state::Discovered;

/// The basic header segment.
pub(crate) const HEADER: usize = 48;
/// What we accept in one PDU.
pub(crate) const MAX_DATA: usize = 262_144;

pub(crate) const LOGIN: u8 = 0x43;
pub(crate) const LOGIN_RESPONSE: u8 = 0x23;
pub(crate) const TEXT: u8 = 0x04;
pub(crate) const TEXT_RESPONSE: u8 = 0x24;
pub(crate) const LOGOUT: u8 = 0x46;

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

    /// How many bytes follow a header: additional headers and padded data. `Err` if it is more than we accept.
    pub(crate) fn rest(header: &[u8; HEADER]) -> Result<(usize, usize), String> {
        let [.., ahs, a, b, c] = header[..8] else { return Err("short header".to_owned()) };
        let data = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if data > MAX_DATA {
            return Err(format!("a PDU of {data} bytes, more than the {MAX_DATA} it was told to send"));
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

/// Reads the answer to SendTargets: `TargetName`, then its `TargetAddress` lines. Names the kernel could not have are passed over.
pub(crate) fn targets(data: &[u8]) -> Vec<Discovered> {
    let mut found: Vec<Discovered> = Vec::new();
    for (key, value) in keys(data) {
        match key.as_str() {
            "TargetName" => found.push(Discovered::new(Iqn::from_kernel(value))),
            "TargetAddress" => {
                let (address, tag) = value.rsplit_once(',').unwrap_or((&value, "1"));
                let address = if address.contains("]:") || address.matches(':').count() == 1 {
                    address.to_owned()
                } else {
                    format!("{address}:3260")
                };
                // A portal by DNS name is passed over: whoever uses names resolves them.
                if let (Ok(address), Ok(tag), Some(last)) =
                    (address.parse::<SocketAddr>(), tag.parse(), found.last_mut())
                {
                    last.portals.push((address, tag));
                }
            }
            _ => {}
        }
    }
    found
}

/// What a login's status class and detail mean, and what to do (RFC 7143, 11.13.5).
pub(crate) fn status_text(class: u8, detail: u8) -> String {
    let known = match (class, detail) {
        (1, _) => "it sends us to another address",
        (2, 1) => "wrong CHAP user or secret",
        (2, 2) => "this initiator may not use the target; add its name to the target's ACLs",
        (2, 3) => "no such target here",
        (2, 4) => "the target has been removed",
        (2, 5) => "protocol version not supported",
        (2, 6) => "too many connections",
        (2, 7) => "a parameter is missing; the target wants CHAP",
        (2, _) => "the initiator is at fault",
        (3, 1) => "service unavailable; the target is not enabled yet, try again",
        (3, _) => "the target is in trouble, try again",
        _ => "unknown status",
    };
    format!("{known} (status {class:#04x}/{detail:#04x})")
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
        assert_eq!(Pdu::rest(&header), Ok((0, 22)));
    }

    #[test]
    fn targets_with_both_address_families() {
        let data = text(&[
            ("TargetName", "iqn.2026-01.a:x"),
            ("TargetAddress", "10.1.24.10:3260,1"),
            ("TargetAddress", "[fd00::10]:3260,1"),
            ("TargetAddress", "san.example:3260,1"),
            ("TargetName", "iqn.2026-01.a:y"),
        ]);
        let found = targets(&data);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0].portals.iter().map(|(a, t)| format!("{a} {t}")).collect::<Vec<_>>(),
            ["10.1.24.10:3260 1", "[fd00::10]:3260 1"]
        );
        assert!(found[1].portals.is_empty());
    }

    proptest! {
        #[test]
        fn hostile_answers_are_only_data(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(targets(&data).len() <= data.len());
            prop_assert!(pairs(&data).len() <= data.len());
        }
    }
}
