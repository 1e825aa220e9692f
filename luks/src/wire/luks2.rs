//! LUKS2: two copies, each a 4096-byte binary header and a JSON area with one checksum over both.

use std::fmt;

use sha2::Digest;

use super::{BINARY, be_u64, text_at, version};

/// The sizes a copy can have, which are also the places of the second copy (specification, 2.1 and 2.2).
pub(crate) const SIZES: [u64; 9] =
    [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];
/// The field that holds the checksum, which is taken with this field zeroed.
const SUM_AT: std::ops::Range<usize> = 448..512;

/// What is wrong with one copy of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Damage {
    /// No signature stands where the copy should begin: overwritten, or never there.
    NoSignature,
    /// The version is none that exists.
    Version(u16),
    /// The size of the copy, in bytes, is none that exists.
    Size(u64),
    /// The copy says that it stands at another place (in bytes): it was copied there.
    Place(u64),
    /// The device ends within the copy.
    Cut,
    /// A checksum of this kind is not known.
    ChecksumKind(String),
    /// The checksum is not that of the bytes.
    Checksum,
    /// The UUID is none.
    Uuid(String),
    /// The metadata contradict themselves, though the checksum is right; libcryptsetup refuses them too.
    Metadata(String),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSignature => f.write_str("no signature"),
            Self::Version(n) => write!(f, "unknown version {n}"),
            Self::Size(n) => write!(f, "impossible size of {n} bytes"),
            Self::Place(at) => write!(f, "it belongs to byte {at}"),
            Self::Cut => f.write_str("cut short"),
            Self::ChecksumKind(kind) => write!(f, "unknown checksum {kind:?}"),
            Self::Checksum => f.write_str("wrong checksum"),
            Self::Uuid(text) => write!(f, "its UUID is {text:?}"),
            Self::Metadata(reason) => write!(f, "its metadata are wrong: {reason}"),
        }
    }
}

/// The binary part of a copy.
#[derive(Debug)]
pub(crate) struct Binary {
    /// The size of the copy with its JSON area, in bytes.
    pub(crate) size: u64,
    pub(crate) sequence: u64,
    pub(crate) label: String,
    pub(crate) subsystem: String,
    pub(crate) uuid: String,
    pub(crate) checksum: String,
}

/// Reads the binary part of the copy at a place, checked against that place.
pub(crate) fn binary(head: &[u8], place: u64, magic: &[u8; 6]) -> Result<Binary, Damage> {
    if head.get(..6) != Some(magic) {
        return Err(Damage::NoSignature);
    }
    if head.len() < BINARY {
        return Err(Damage::Cut);
    }
    if version(head) != 2 {
        return Err(Damage::Version(version(head)));
    }
    let number = |at| be_u64(head, at).unwrap_or_default();
    let size = number(8);
    if !SIZES.contains(&size) {
        return Err(Damage::Size(size));
    }
    if number(256) != place || (place != 0 && place != size) {
        return Err(Damage::Place(number(256)));
    }
    Ok(Binary {
        size,
        sequence: number(16),
        label: text_at(head, 24, 48),
        checksum: text_at(head, 72, 32),
        uuid: text_at(head, 168, 40),
        subsystem: text_at(head, 208, 48),
    })
}

impl Binary {
    /// How long the JSON area is, in bytes.
    pub(crate) fn json_length(&self) -> usize {
        usize::try_from(self.size).unwrap_or(BINARY).saturating_sub(BINARY)
    }

    /// Compares the checksum with the bytes of both parts.
    pub(crate) fn verify(&self, head: &[u8], json: &[u8]) -> Result<(), Damage> {
        if json.len() < self.json_length() {
            return Err(Damage::Cut);
        }
        let pieces = [
            head.get(..SUM_AT.start).unwrap_or_default(),
            &[0; 64],
            head.get(SUM_AT.end..).unwrap_or_default(),
            json,
        ];
        let sum = match self.checksum.as_str() {
            "sha256" => digest::<sha2::Sha256>(pieces),
            "sha512" => digest::<sha2::Sha512>(pieces),
            other => return Err(Damage::ChecksumKind(other.to_owned())),
        };
        let stored = head.get(SUM_AT).and_then(|field| field.get(..sum.len()));
        if stored == Some(sum.as_slice()) { Ok(()) } else { Err(Damage::Checksum) }
    }
}

fn digest<D: Digest>(pieces: [&[u8]; 4]) -> Vec<u8> {
    let mut hash = D::new();
    pieces.into_iter().for_each(|piece| hash.update(piece));
    hash.finalize().to_vec()
}
