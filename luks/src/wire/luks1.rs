//! LUKS1: one copy of 592 bytes, big endian, eight key slots. It has no checksum, so only impossible values betray damage.

use super::{be_u32, text_at};
use crate::Uuid;
use crate::wire::luks2::Damage;

/// What the 592 bytes say.
#[derive(Debug)]
pub(crate) struct Luks1 {
    pub(crate) uuid: Uuid,
    /// Name and mode: "aes-xts-plain64".
    pub(crate) cipher: String,
    pub(crate) key_bytes: u32,
    /// Where the data begins, in bytes; 0 if the header is detached.
    pub(crate) data_offset: u64,
    pub(crate) slots: Vec<Slot>,
}

/// A key slot in use.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) number: u32,
    pub(crate) iterations: u32,
    /// In bytes.
    pub(crate) area_offset: u64,
    pub(crate) stripes: u32,
}

/// The marks of a key slot in use and of one that is free.
const ACTIVE: u32 = 0x00ac_71f3;
const FREE: u32 = 0x0000_dead;

pub(crate) fn parse(head: &[u8]) -> Result<Luks1, Damage> {
    let field = |at| be_u32(head, at).ok_or(Damage::Cut);
    let shown = text_at(head, 168, 40);
    let uuid = shown.parse().map_err(|_| Damage::Uuid(shown))?;
    let mut slots = Vec::new();
    for (number, at) in (0_u32..8).zip((208_usize..).step_by(48)) {
        match field(at)? {
            FREE => {}
            ACTIVE => slots.push(Slot {
                number,
                iterations: field(at + 4)?,
                area_offset: u64::from(field(at + 40)?) * 512,
                stripes: field(at + 44)?,
            }),
            other => {
                return Err(Damage::Metadata(format!(
                    "key slot {number} has the impossible mark {other:#010x}"
                )));
            }
        }
    }
    let key_bytes = field(108)?;
    // libcryptsetup refuses the same (LUKS_check_keyslots and crypt_load): a volume key has 1 to 512 bytes.
    if !(1..=512).contains(&key_bytes) {
        return Err(Damage::Metadata(format!("a volume key of {key_bytes} bytes")));
    }
    Ok(Luks1 {
        uuid,
        cipher: format!("{}-{}", text_at(head, 8, 32), text_at(head, 40, 32)),
        key_bytes,
        data_offset: u64::from(field(104)?) * 512,
        slots,
    })
}
