//! LUKS headers, read in pure Rust: no library, no lock, no repair on the side. Safe on hostile bytes.
//!
//! LUKS1: 592 bytes, big endian. LUKS2: two copies of a 4096-byte binary header followed by JSON, each with its own checksum; the valid copy
//! with the higher sequence number counts (LUKS2 on-disk format specification 1.0).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use sha2::Digest;

use crate::Uuid;
use crate::error::{Error, Result};

const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
const SECOND_MAGIC: &[u8; 6] = b"SKUL\xba\xbe";
const BINARY: usize = 4096;
/// The sizes a LUKS2 header copy can have, which are also the places of the second copy.
const SIZES: [u64; 9] =
    [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];

/// The version of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Version {
    /// LUKS1: one copy, eight key slots, PBKDF2.
    Luks1,
    /// LUKS2: two copies, up to 32 key slots, Argon2.
    Luks2,
}

/// What a header says of its volume. `cryptsetup luksDump`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Header {
    /// Its version.
    pub version: Version,
    /// The volume's UUID.
    pub uuid: Uuid,
    /// Its label; empty if it has none (LUKS1 never has).
    pub label: String,
    /// The cipher of the data: "aes-xts-plain64".
    pub cipher: String,
    /// The size of an encryption sector in bytes: 512 to 4096.
    pub sector_size: u32,
    /// Where the data begins, in bytes.
    pub data_offset: u64,
    /// The key slots in use.
    pub keyslots: Vec<Keyslot>,
    /// Grows with each change of the header (LUKS2).
    pub sequence: u64,
    /// A copy of the header is damaged though the volume can be read: repair it (`cryptsetup repair`).
    pub needs_repair: bool,
}

/// One key slot in use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Keyslot {
    /// Its number.
    pub number: u32,
    /// The key derivation: "argon2id", "pbkdf2".
    pub kdf: String,
    /// Iterations (PBKDF2) or passes (Argon2).
    pub cost: u64,
    /// The memory it takes, in KiB (Argon2; 0 for PBKDF2).
    pub memory_kib: u64,
    /// Its lanes (Argon2; 1 for PBKDF2).
    pub lanes: u32,
}

impl Header {
    /// Reads the header of a device or image.
    ///
    /// # Errors
    /// [`Error::NotLuks`], [`Error::Damaged`] if no copy can be trusted, [`Error::Io`] if the device cannot be read.
    pub fn read(device: impl AsRef<Path>) -> Result<Self> {
        let device = device.as_ref();
        let failed = |source| Error::Io { what: format!("read {}", device.display()), source };
        let mut file = File::open(device).map_err(failed)?;
        match Self::parse(&mut file).map_err(failed)? {
            Parsed::Header(header) => Ok(header),
            Parsed::NotLuks => Err(Error::NotLuks { device: device.to_path_buf() }),
            Parsed::Damaged(reason) => Err(Error::Damaged { device: device.to_path_buf(), reason }),
        }
    }

    /// Reads a header from bytes: a file, or a captured image.
    ///
    /// # Errors
    /// The bytes cannot be read.
    pub fn parse(from: &mut (impl Read + Seek)) -> io::Result<Parsed> {
        let first = read_at(from, 0, BINARY)?;
        match (first.get(..6) == Some(MAGIC), be_u16(&first, 6)) {
            (true, Some(1)) => return Ok(luks1(&first)),
            (true, Some(2)) => {}
            (true, version) => {
                return Ok(Parsed::Damaged(format!("unknown version {}", version.unwrap_or(0))));
            }
            // The first copy may be overwritten; the second tells what this was.
            (false, _) => {}
        }
        let primary = copy_at(from, 0, MAGIC)?;
        let mut places: Vec<u64> = primary.as_ref().ok().map(|copy| copy.size).into_iter().collect();
        places.extend(SIZES);
        let mut secondary = Err("not found".to_owned());
        for place in places {
            match copy_at(from, place, SECOND_MAGIC)? {
                Ok(copy) => {
                    secondary = Ok(copy);
                    break;
                }
                Err(reason) if reason == NO_MAGIC => {}
                Err(reason) => secondary = Err(reason),
            }
        }
        let healthy = primary.is_ok() && secondary.is_ok();
        let is_luks = first.get(..6) == Some(MAGIC) || !matches!(&secondary, Err(r) if r == "not found");
        let best = match (primary, secondary) {
            (Ok(a), Ok(b)) => Ok(if b.sequence > a.sequence { b } else { a }),
            (Ok(a), Err(_)) => Ok(a),
            (Err(_), Ok(b)) => Ok(b),
            (Err(a), Err(b)) => Err(format!("first copy: {a}; second copy: {b}")),
        };
        match best {
            Ok(copy) => Ok(copy.header(!healthy)),
            Err(_) if !is_luks => Ok(Parsed::NotLuks),
            Err(reason) => Ok(Parsed::Damaged(reason)),
        }
    }
}

/// What [`Header::parse`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Parsed {
    /// A header that can be trusted.
    Header(Header),
    /// Something else, or nothing.
    NotLuks,
    /// A header that cannot be trusted, and why.
    Damaged(String),
}

const NO_MAGIC: &str = "no signature";

/// One copy of a LUKS2 header whose checksum is right.
struct Copy {
    size: u64,
    sequence: u64,
    label: String,
    uuid: String,
    json: Vec<u8>,
}

/// Reads the copy at a place; a broken one is an inner error, a device that cannot be read an outer one.
fn copy_at(
    from: &mut (impl Read + Seek),
    place: u64,
    magic: &[u8; 6],
) -> io::Result<std::result::Result<Copy, String>> {
    let binary = read_at(from, place, BINARY)?;
    if binary.get(..6) != Some(magic) {
        return Ok(Err(NO_MAGIC.to_owned()));
    }
    let Some(size) = be_u64(&binary, 8).filter(|size| SIZES.contains(size)) else {
        return Ok(Err("impossible size".to_owned()));
    };
    let rest = usize::try_from(size).unwrap_or(BINARY).saturating_sub(BINARY);
    let json = read_at(from, place + 4096, rest)?;
    if json.len() < rest {
        return Ok(Err("cut short".to_owned()));
    }
    // The checksum stands at 448..512 and is taken with that field zeroed (LUKS2 specification, 2.1).
    let stored = binary.get(448..512).unwrap_or_default().to_vec();
    let mut summed = binary.clone();
    summed.iter_mut().skip(448).take(64).for_each(|b| *b = 0);
    let sum: Vec<u8> = match text_at(&binary, 72, 32).as_str() {
        "sha256" => sha2::Sha256::new().chain_update(&summed).chain_update(&json).finalize().to_vec(),
        "sha512" => sha2::Sha512::new().chain_update(&summed).chain_update(&json).finalize().to_vec(),
        other => return Ok(Err(format!("unknown checksum {other:?}"))),
    };
    if stored.get(..sum.len()) != Some(sum.as_slice()) {
        return Ok(Err("wrong checksum".to_owned()));
    }
    Ok(Ok(Copy {
        size,
        sequence: be_u64(&binary, 16).unwrap_or_default(),
        label: text_at(&binary, 24, 48),
        uuid: text_at(&binary, 168, 40),
        json,
    }))
}

impl Copy {
    fn header(self, needs_repair: bool) -> Parsed {
        let end = self.json.iter().position(|b| *b == 0).unwrap_or(self.json.len());
        let json: serde_json::Value = match serde_json::from_slice(self.json.get(..end).unwrap_or_default()) {
            Ok(json) => json,
            Err(error) => return Parsed::Damaged(format!("its JSON cannot be read: {error}")),
        };
        let Ok(uuid) = self.uuid.parse() else {
            return Parsed::Damaged(format!("its UUID is {:?}", self.uuid));
        };
        // 64-bit numbers are JSON strings there.
        let number = |v: &serde_json::Value| v.as_u64().or_else(|| v.as_str().and_then(|s| s.parse().ok()));
        let segments = json.get("segments").and_then(|s| s.as_object());
        let segment = segments.and_then(|s| s.get("0").or_else(|| s.values().next()));
        let of = |key: &str| segment.and_then(|s| s.get(key));
        let slots = json.get("keyslots").and_then(|s| s.as_object());
        let keyslots = slots.into_iter().flatten().filter_map(|(name, slot)| {
            let kdf = slot.get("kdf")?;
            let cost = kdf.get("time").or_else(|| kdf.get("iterations")).and_then(number);
            let lanes = kdf.get("cpus").and_then(number).and_then(|n| u32::try_from(n).ok());
            Some(Keyslot {
                number: name.parse().ok()?,
                kdf: kdf.get("type")?.as_str()?.to_owned(),
                cost: cost.unwrap_or_default(),
                memory_kib: kdf.get("memory").and_then(number).unwrap_or_default(),
                lanes: lanes.unwrap_or(1),
            })
        });
        let mut keyslots: Vec<_> = keyslots.collect();
        keyslots.sort_by_key(|slot| slot.number);
        let sector_size = of("sector_size").and_then(number).and_then(|n| u32::try_from(n).ok());
        Parsed::Header(Header {
            version: Version::Luks2,
            uuid,
            label: self.label,
            cipher: of("encryption").and_then(|e| e.as_str()).unwrap_or_default().to_owned(),
            sector_size: sector_size.unwrap_or(512),
            data_offset: of("offset").and_then(number).unwrap_or_default(),
            keyslots,
            sequence: self.sequence,
            needs_repair,
        })
    }
}

fn luks1(binary: &[u8]) -> Parsed {
    /// The mark of a key slot in use.
    const ACTIVE: u32 = 0x00ac_71f3;
    let Ok(uuid) = text_at(binary, 168, 40).parse() else {
        return Parsed::Damaged(format!("its UUID is {:?}", text_at(binary, 168, 40)));
    };
    let slots = (0_u32..8).zip((208_usize..).step_by(48));
    let keyslots = slots.filter(|(_, at)| be_u32(binary, *at) == Some(ACTIVE)).map(|(number, at)| Keyslot {
        number,
        kdf: "pbkdf2".to_owned(),
        cost: be_u32(binary, at + 4).unwrap_or_default().into(),
        memory_kib: 0,
        lanes: 1,
    });
    Parsed::Header(Header {
        version: Version::Luks1,
        uuid,
        label: String::new(),
        cipher: format!("{}-{}", text_at(binary, 8, 32), text_at(binary, 40, 32)),
        sector_size: 512,
        data_offset: u64::from(be_u32(binary, 104).unwrap_or_default()) * 512,
        keyslots: keyslots.collect(),
        sequence: 0,
        needs_repair: false,
    })
}

/// Reads up to `length` bytes at a place; fewer at the end.
fn read_at(from: &mut (impl Read + Seek), place: u64, length: usize) -> io::Result<Vec<u8>> {
    from.seek(SeekFrom::Start(place))?;
    let mut out = Vec::with_capacity(length);
    from.take(u64::try_from(length).unwrap_or(u64::MAX)).read_to_end(&mut out)?;
    Ok(out)
}

fn be_u16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

fn be_u32(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

fn be_u64(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(data.get(at..at + 8)?.try_into().ok()?))
}

fn text_at(data: &[u8], at: usize, length: usize) -> String {
    let field = data.get(at..at + length).unwrap_or_default();
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_not_luks() {
        assert_eq!(Header::parse(&mut io::Cursor::new(vec![0; 1 << 20])).expect("reads"), Parsed::NotLuks);
        assert_eq!(Header::parse(&mut io::Cursor::new(vec![])).expect("reads"), Parsed::NotLuks);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..9000), version in 0u8..4) {
            if bytes.len() > 8 {
                bytes[..6].copy_from_slice(MAGIC);
                (bytes[6], bytes[7]) = (0, version);
            }
            let parsed = Header::parse(&mut io::Cursor::new(bytes)).expect("reads");
            let trusted = matches!(parsed, Parsed::Header(Header { version: Version::Luks2, .. }));
            prop_assert!(!trusted);
        }
    }
}
