//! The activity log: a ring of 4 KiB transactions that say which extents of 4 MiB were being written.
//!
//! `struct al_transaction_on_disk` (`drivers/block/drbd/drbd_actlog.c`, Linux 6.1): big endian; magic, number, CRC-32C of the block with that
//! field zero, type, number of updates, size of the context, its first slot, four reserved words, 64 slots and 64 extents that changed, and
//! the extents of 919 slots in turn. The set of extents is what all transactions from the oldest to the newest say together.

use std::collections::{BTreeMap, BTreeSet};

/// The size of a transaction.
pub(crate) const BLOCK: usize = 4096;
/// `DRBD_AL_MAGIC`.
const MAGIC: u32 = 0x69cb_65a2;
/// Of a log in persistent memory (DRBD 9).
const MAGIC_PMEM: u32 = 0x6aa6_67a6;
/// `AL_TR_INITIALIZED`: a block of a new log.
const INITIALIZED: u16 = 0xffff;
const UPDATES: usize = 64;
const CONTEXT: usize = 919;
/// No extent, no slot.
const NONE: u32 = u32::MAX;
/// `DRBD_AL_EXTENTS_MAX`: slots beyond are nonsense.
const SLOTS: u32 = 65_534;

/// Continues a CRC-32C (Castagnoli), without the usual inversions: the kernel's `crc32c(0, ...)`.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 })
    })
}

/// The bytes of a new log of so many pages.
pub(crate) fn new(pages: usize) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = block.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(0, &MAGIC.to_be_bytes());
    put(12, &INITIALIZED.to_be_bytes());
    let sum = crc32c(&block);
    if let Some(place) = block.get_mut(8..12) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    block.repeat(pages)
}

/// What a log says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Replay {
    /// These extents may differ from what the bitmap says; none in a log that was never used.
    Extents(BTreeSet<u32>),
    /// It cannot be read: no transaction in it is whole, or too few.
    Damaged,
    /// It is in persistent memory, which has another format.
    Persistent,
}

struct Transaction<'a> {
    number: u32,
    block: &'a [u8],
}

impl Transaction<'_> {
    fn short(&self, at: usize) -> u16 {
        self.block.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_be_bytes)
    }

    fn word(&self, at: usize) -> u32 {
        self.block.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
    }

    /// Tells of each slot what stands in it from now on.
    fn enter(&self, slots: &mut BTreeMap<u32, u32>) {
        let (updates, size, start) = (self.short(14), self.short(16), self.short(18));
        let mut set = |slot: u32, extent: u32| {
            if slot < SLOTS {
                slots.insert(slot, extent);
            }
        };
        for (n, at) in (0_u32..).zip((420..).step_by(4).take(CONTEXT)) {
            let (slot, extent) = (u32::from(start) + n, self.word(at));
            if extent != NONE || slot < u32::from(size) {
                set(slot, extent);
            }
        }
        for n in 0..UPDATES {
            let slot = self.short(36 + 2 * n);
            if n < usize::from(updates) || slot != u16::MAX {
                set(u32::from(slot), self.word(164 + 4 * n));
            }
        }
    }
}

/// The transaction in a block, if it is whole.
fn transaction(block: &[u8]) -> Option<Transaction<'_>> {
    let word = |at: usize| Some(u32::from_be_bytes(block.get(at..at + 4)?.try_into().ok()?));
    let mut plain = block.get(..BLOCK)?.to_vec();
    plain.get_mut(8..12)?.fill(0);
    (word(0)? == MAGIC && word(8)? == crc32c(&plain)).then_some(Transaction { number: word(4)?, block })
}

/// Reads a log of `stripes` stripes of `pages` pages each. Transaction n stands in stripe n modulo their number.
pub(crate) fn replay(log: &[u8], stripes: usize, pages: usize) -> Replay {
    if log.starts_with(&MAGIC_PMEM.to_be_bytes()) {
        return Replay::Persistent;
    }
    let count = stripes.saturating_mul(pages);
    let place = |n: usize| (n % stripes.max(1)) * pages + n / stripes.max(1);
    let blocks = (0..count).map(|n| log.chunks_exact(BLOCK).nth(place(n)).and_then(transaction));
    let blocks: Vec<Option<Transaction<'_>>> = blocks.collect();
    let whole = blocks.iter().flatten().count();
    let mut updates: Vec<&Transaction<'_>> =
        blocks.iter().flatten().filter(|t| t.short(12) != INITIALIZED).collect();
    if updates.is_empty() {
        // The first transaction of all may have been cut off.
        let first_broke = whole + 1 == count && blocks.first().is_some_and(Option::is_none);
        return match whole == count || first_broke {
            true => Replay::Extents(BTreeSet::new()),
            false => Replay::Damaged,
        };
    }
    // From the oldest to the newest; the number wraps round.
    let base = updates.first().map_or(0, |t| t.number);
    updates.sort_by_key(|t| t.number.wrapping_sub(base).cast_signed());
    let mut slots = BTreeMap::new();
    updates.iter().for_each(|t| t.enter(&mut slots));
    Replay::Extents(slots.into_values().filter(|extent| *extent != NONE).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A transaction with these updates and this context from slot `start` on.
    fn made(number: u32, updates: &[(u16, u32)], start: u16, context: &[u32]) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[420..420 + 4 * CONTEXT].fill(0xff);
        block[36..164].fill(0xff);
        block[..4].copy_from_slice(&MAGIC.to_be_bytes());
        block[4..8].copy_from_slice(&number.to_be_bytes());
        block[14..16].copy_from_slice(&u16::try_from(updates.len()).expect("few").to_be_bytes());
        block[16..18].copy_from_slice(&10_u16.to_be_bytes());
        block[18..20].copy_from_slice(&start.to_be_bytes());
        for (n, (slot, extent)) in updates.iter().enumerate() {
            block[36 + 2 * n..38 + 2 * n].copy_from_slice(&slot.to_be_bytes());
            block[164 + 4 * n..168 + 4 * n].copy_from_slice(&extent.to_be_bytes());
        }
        for (n, extent) in context.iter().enumerate() {
            block[420 + 4 * n..424 + 4 * n].copy_from_slice(&extent.to_be_bytes());
        }
        let sum = crc32c(&block);
        block[8..12].copy_from_slice(&sum.to_be_bytes());
        block
    }

    fn extents(log: &[u8], stripes: usize, pages: usize) -> Vec<u32> {
        match replay(log, stripes, pages) {
            Replay::Extents(extents) => extents.into_iter().collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_new_log_has_the_checksum_that_drbdmeta_writes() {
        let log = new(8);
        assert_eq!(log.len(), 8 * BLOCK);
        assert_eq!(log[8..12], 0x709c_c651_u32.to_be_bytes());
        assert_eq!(extents(&log, 1, 8), Vec::<u32>::new());
    }

    #[test]
    fn later_transactions_replace_what_earlier_ones_said() {
        let mut log = new(8);
        log[..BLOCK].copy_from_slice(&made(7, &[(0, 5), (1, 6)], 0, &[]));
        log[BLOCK..2 * BLOCK].copy_from_slice(&made(8, &[(0, 9)], 1, &[6, 77]));
        assert_eq!(extents(&log, 1, 8), [6, 9, 77]);
        // A slot that was emptied.
        log[2 * BLOCK..3 * BLOCK].copy_from_slice(&made(9, &[(2, NONE)], 4, &[]));
        assert_eq!(extents(&log, 1, 8), [6, 9]);
    }

    #[test]
    fn the_ring_and_its_numbers_wrap() {
        let mut log = new(8);
        // The newest stands first.
        log[..BLOCK].copy_from_slice(&made(0, &[(0, 3)], 20, &[]));
        log[7 * BLOCK..].copy_from_slice(&made(u32::MAX, &[(0, 1), (1, 2)], 20, &[]));
        assert_eq!(extents(&log, 1, 8), [2, 3]);
    }

    #[test]
    fn stripes_take_turns() {
        let mut log = new(8);
        // Two stripes of four: transaction 1 stands in the second stripe.
        log[..BLOCK].copy_from_slice(&made(0, &[(0, 3)], 0, &[]));
        log[4 * BLOCK..5 * BLOCK].copy_from_slice(&made(1, &[(0, 4)], 0, &[]));
        assert_eq!(extents(&log, 2, 4), [4]);
    }

    #[test]
    fn a_broken_log_is_told_from_a_new_one() {
        assert_eq!(replay(&[0; 8 * BLOCK], 1, 8), Replay::Damaged);
        let mut log = new(8);
        log[100] = 1;
        assert_eq!(extents(&log, 1, 8), Vec::<u32>::new(), "the first was cut off");
        log[BLOCK + 100] = 1;
        assert_eq!(replay(&log, 1, 8), Replay::Damaged);
        log[..4].copy_from_slice(&MAGIC_PMEM.to_be_bytes());
        assert_eq!(replay(&log, 1, 8), Replay::Persistent);
    }
}
