//! Messages and attributes as bytes. Pure: no I/O.

use super::{NESTED, flags};

/// A message to the kernel, built in place.
///
/// ```
/// use host::nl::{Message, NESTED, attributes};
/// let message = Message::new(16, 0).with_header(&[0; 16]).with_str(3, "eth0").with_nest(18 | NESTED, |m| m.with_u32(1, 7));
/// let mut all = attributes(&message.body()[16..]);
/// assert_eq!(all.next().unwrap()?.text(), Some("eth0"));
/// # Ok::<(), host::ParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// A message of a type, with flags from [`flags`](super::flags); `REQUEST` is added when it is sent.
    #[must_use]
    pub fn new(kind: u16, flags: u16) -> Self {
        Self { kind, flags, body: Vec::with_capacity(256) }
    }

    /// Appends the family's fixed header.
    #[must_use]
    pub fn with_header(mut self, header: &[u8]) -> Self {
        self.body.extend_from_slice(header);
        self.pad();
        self
    }

    /// Adds flags.
    #[must_use]
    pub fn with_flags(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }

    /// Appends an attribute of any bytes (at most 65,531).
    #[must_use]
    pub fn with(mut self, kind: u16, payload: &[u8]) -> Self {
        // Longer than the length field can say: cut here would corrupt what follows, so the attribute says what fits and the kernel's
        // policy refuses it. No caller has such a payload; names and keys are bounded by their types.
        let payload = payload.get(..payload.len().min(usize::from(u16::MAX) - 4)).unwrap_or_default();
        let length = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
        self.body.extend_from_slice(&length.to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(payload);
        self.pad();
        self
    }

    /// Appends a number of one byte.
    #[must_use]
    pub fn with_u8(self, kind: u16, value: u8) -> Self {
        self.with(kind, &[value])
    }

    /// Appends a number of two bytes, host endian.
    #[must_use]
    pub fn with_u16(self, kind: u16, value: u16) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    /// Appends a number of four bytes, host endian.
    #[must_use]
    pub fn with_u32(self, kind: u16, value: u32) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    /// Appends a number of eight bytes, host endian.
    #[must_use]
    pub fn with_u64(self, kind: u16, value: u64) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    /// Appends a text with its closing NUL.
    #[must_use]
    pub fn with_str(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.with(kind, &bytes)
    }

    /// Appends a nest; give `kind | NESTED` where the family checks strictly.
    #[must_use]
    pub fn with_nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.body.len();
        self.body.extend_from_slice(&[0; 4]);
        let mut filled = fill(self);
        let length = u16::try_from(filled.body.len() - start).unwrap_or(u16::MAX);
        let header: Vec<u8> = length.to_ne_bytes().into_iter().chain(kind.to_ne_bytes()).collect();
        if let Some(place) = filled.body.get_mut(start..start + 4) {
            place.copy_from_slice(&header);
        }
        filled
    }

    fn pad(&mut self) {
        self.body.resize(self.body.len().next_multiple_of(4), 0);
    }

    /// The type.
    #[must_use]
    pub fn kind(&self) -> u16 {
        self.kind
    }

    /// What follows the netlink header.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The whole message as it is sent.
    #[must_use]
    pub fn encode(&self, seq: u32) -> Vec<u8> {
        let length = u32::try_from(self.body.len() + 16).unwrap_or(u32::MAX);
        let mut out = Vec::with_capacity(self.body.len() + 16);
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&(self.flags | flags::REQUEST).to_ne_bytes());
        out.extend_from_slice(&seq.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&self.body);
        out
    }
}

/// A message from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reply {
    /// The type.
    pub kind: u16,
    /// The flags.
    pub flags: u16,
    /// The sequence number of the request it answers, or of the event.
    pub seq: u32,
    /// The port it is addressed to; 0 for multicast.
    pub port: u32,
    /// What follows the netlink header.
    pub body: Vec<u8>,
}

impl Reply {
    /// Makes a reply; for fakes and codec tests.
    #[must_use]
    pub fn new(kind: u16, flags: u16, seq: u32, body: Vec<u8>) -> Self {
        Self { kind, flags, seq, port: 0, body }
    }

    /// The messages of a datagram. A cut one ends the list with an error.
    pub fn parse_all(mut datagram: &[u8]) -> impl Iterator<Item = Result<Self, crate::ParseError>> + '_ {
        std::iter::from_fn(move || {
            if datagram.is_empty() {
                return None;
            }
            let parsed = Self::parse_one(datagram);
            match &parsed {
                Some((_, rest)) => datagram = rest,
                None => datagram = &[],
            }
            Some(
                parsed.map(|(reply, _)| reply).ok_or_else(|| {
                    crate::ParseError::new("netlink message", "", "shorter than its header says")
                }),
            )
        })
    }

    fn parse_one(data: &[u8]) -> Option<(Self, &[u8])> {
        let (length, kind) = (u32_at(data, 0)?, u16_at(data, 4)?);
        let length = usize::try_from(length).ok().filter(|n| *n >= 16)?;
        let body = data.get(16..length)?.to_vec();
        let rest = data.get(length.next_multiple_of(4)..).unwrap_or_default();
        let reply =
            Self { kind, flags: u16_at(data, 6)?, seq: u32_at(data, 8)?, port: u32_at(data, 12)?, body };
        Some((reply, rest))
    }

    /// The same message as bytes; for fakes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Message { kind: self.kind, flags: 0, body: self.body.clone() }.encode(self.seq);
        if let Some(place) = out.get_mut(6..8) {
            place.copy_from_slice(&self.flags.to_ne_bytes());
        }
        out
    }
}

pub(crate) fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

/// One attribute of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attribute<'a> {
    /// The number, without the flag bits 14 and 15.
    pub kind: u16,
    /// The number with the flag bits, as it was sent.
    pub raw_kind: u16,
    /// The content.
    pub payload: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// A number of one byte.
    #[must_use]
    pub fn u8(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    /// A number of two bytes.
    #[must_use]
    pub fn u16(&self) -> Option<u16> {
        u16_at(self.payload, 0)
    }

    /// A number of four bytes.
    #[must_use]
    pub fn u32(&self) -> Option<u32> {
        u32_at(self.payload, 0)
    }

    /// A number of eight bytes.
    #[must_use]
    pub fn u64(&self) -> Option<u64> {
        Some(u64::from_ne_bytes(self.payload.get(..8)?.try_into().ok()?))
    }

    /// A text up to its NUL; `None` if it is no UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        let end = self.payload.iter().position(|b| *b == 0).unwrap_or(self.payload.len());
        std::str::from_utf8(self.payload.get(..end)?).ok()
    }

    /// The attributes in a nest.
    #[must_use]
    pub fn nested(&self) -> Attributes<'a> {
        attributes(self.payload)
    }
}

/// The attributes of a message or nest, one after the other. A cut one is an error and ends the list.
#[must_use]
pub fn attributes(data: &[u8]) -> Attributes<'_> {
    Attributes(data)
}

/// Iterator of [`attributes`].
#[derive(Debug, Clone)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, crate::ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let data = std::mem::take(&mut self.0);
        let parsed = (|| {
            let (length, raw_kind) = (usize::from(u16_at(data, 0)?), u16_at(data, 2)?);
            let payload = data.get(4..length)?;
            self.0 = data.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some(Attribute { kind: raw_kind & !(NESTED | 0x4000), raw_kind, payload })
        })();
        Some(
            parsed.ok_or_else(|| {
                crate::ParseError::new("netlink attribute", "", "shorter than its header says")
            }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_is_built_as_the_kernel_reads_it() {
        let message = Message::new(0x20, 0)
            .with_header(&[7, 1, 0, 0])
            .with_nest(2 | NESTED, |m| m.with_str(0x4002, "r0"));
        assert_eq!(
            message.encode(1),
            [
                32, 0, 0, 0, 0x20, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 1, 0, 0, 12, 0, 2, 0x80, 7, 0, 2,
                0x40, b'r', b'0', 0, 0
            ]
        );
        let nest = attributes(&message.body()[4..]).next().expect("one").expect("whole");
        assert_eq!((nest.kind, nest.raw_kind), (2, 0x8002));
        let name = nest.nested().next().expect("one").expect("whole");
        assert_eq!((name.kind, name.text()), (2, Some("r0")));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let replies: Vec<_> = Reply::parse_all(&data).collect();
            prop_assert!(replies.len() <= data.len() / 16 + 1);
            let found: Vec<_> = attributes(&data).collect();
            prop_assert!(found.len() <= data.len() / 4 + 1);
        }
    }
}
