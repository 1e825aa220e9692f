//! LUKS headers as bytes: what stands where. Nothing here reads a device.
//!
//! Cited: LUKS On-Disk Format Specification 1.2.3 (LUKS1) and LUKS2 On-Disk Format Specification 1.1.3, and what
//! libcryptsetup refuses (`lib/luks2/luks2_json_metadata.c`).

pub(crate) mod luks1;
pub(crate) mod luks2;
pub(crate) mod metadata;
#[cfg(feature = "libcryptsetup")]
pub(crate) mod token;

/// The first six bytes of LUKS1, and of LUKS2's first copy.
pub(crate) const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
/// The first six bytes of LUKS2's second copy.
pub(crate) const SECOND_MAGIC: &[u8; 6] = b"SKUL\xba\xbe";
/// The binary part of a LUKS2 copy; LUKS1's 592 bytes fit into it.
pub(crate) const BINARY: usize = 4096;

/// The version field, which both formats have at the same place.
pub(crate) fn version(head: &[u8]) -> u16 {
    be_u16(head, 6).unwrap_or_default()
}

pub(crate) fn be_u16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(data.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub(crate) fn be_u32(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(crate) fn be_u64(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(data.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// A text field, which ends at its first NUL byte.
pub(crate) fn text_at(data: &[u8], at: usize, length: usize) -> String {
    let field = data.get(at..at.saturating_add(length)).unwrap_or_default();
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
}
