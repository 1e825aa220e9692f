//! The activity log applied to the bitmap.

use std::collections::BTreeSet;
use std::path::Path;

use host::{Bytes, Host};

use super::{Place, claim, finish};
use crate::wire::activity_log::{Replay, replay};
use crate::wire::superblock::{Metadata, MetadataFlags};
use crate::{Error, MetaDisk, Result};

/// What a bitmap holds of an extent of the activity log: 4 MiB at a bit for 4 KiB.
const EXTENT: u64 = 128;

/// What came of the replay of an activity log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Replayed {
    /// How many extents of 4 MiB were in the log of a node that had been Primary; 0 if it had not.
    pub extents: u64,
    /// What was marked to be synced in addition, over all peers.
    pub marked: Bytes,
}

impl Metadata {
    /// Replays the activity log, if it is not clean: what was being written when the machine died is marked to be synced. `None` if there
    /// was nothing to do, or no metadata. `drbdmeta apply-al`.
    ///
    /// The kernel leaves the log unclean always while a disk is attached, and attaches clean ones only. The plan of
    /// [`Drbd::ensure`](crate::Drbd::ensure) has this step.
    ///
    /// # Errors
    /// [`Error::DiskInUse`] if the disk is attached; [`Error::Metadata`] if the log of a node that was Primary cannot be read; then only a
    /// full sync is safe. Logs of DRBD 8.3 and those in persistent memory are not supported.
    #[doc(alias = "drbdadm apply-al")]
    pub fn apply_al(host: &Host, disk: &Path, meta: &MetaDisk) -> Result<Option<Replayed>> {
        match Self::find(host, disk, meta)? {
            Some(found) if !found.is_clean => {}
            _ => return Ok(None),
        }
        let device = claim_unclean(host, disk, meta)?;
        let Some(mut place) = Place::of(device, disk, host, meta)? else { return Ok(None) };
        let bad = |reason: &str| Error::Metadata {
            path: place.disk.path().to_path_buf(),
            reason: reason.to_owned(),
        };
        let length = usize::try_from(place.layout.log_len).unwrap_or_default();
        let log = place.disk.at(place.layout.log, length)?;
        let words = |n: u32| usize::try_from(n).unwrap_or_default();
        let was_primary = place.metadata.flags.has(MetadataFlags::PRIMARY);
        let extents = match replay(&log, words(place.metadata.stripes), words(place.metadata.stripe_pages)) {
            Replay::Extents(extents) => extents,
            // A Secondary writes what its Primary has in its log.
            _ if !was_primary => BTreeSet::new(),
            Replay::Damaged => {
                return Err(bad(
                    "its activity log cannot be read, and the node was Primary: only a full sync is safe",
                ));
            }
            Replay::Persistent => {
                return Err(bad("its activity log is in persistent memory, which is not supported"));
            }
        };
        let extents = if was_primary { extents } else { BTreeSet::new() };
        let marked = place.mark(&extents)?;
        place.disk.sync()?;
        place.metadata.is_clean = true;
        finish(&mut place.disk, &place.layout, &place.metadata)?;
        let replayed = Replayed { extents: u64::try_from(extents.len()).unwrap_or(u64::MAX), marked };
        log::debug!("drbd: activity log of {} replayed: {replayed:?}", place.disk.path().display());
        Ok(Some(replayed))
    }
}

/// A device with places for several is held by the kernel as long as one of them is attached; that this one is not, the kernel says at the
/// attach that follows.
fn claim_unclean(host: &Host, disk: &Path, meta: &MetaDisk) -> Result<super::Disk> {
    match (claim(host, meta.device(disk), meta), meta) {
        (Err(Error::DiskInUse { path, .. }), MetaDisk::Indexed(..)) => super::Disk::share(host, &path),
        (other, _) => other,
    }
}

impl Place {
    /// Sets the bits of these extents, for all peers; their words stand side by side.
    fn mark(&mut self, extents: &BTreeSet<u32>) -> Result<Bytes> {
        let size = EXTENT.saturating_mul(u64::from(self.metadata.max_peers));
        let end = self.bitmap_bytes()?;
        let mut bits = 0;
        for extent in extents {
            let from = u64::from(*extent).saturating_mul(size);
            let length = usize::try_from(size.min(end.saturating_sub(from))).unwrap_or_default();
            if length == 0 {
                log::debug!("drbd: extent {extent} is beyond the end of the bitmap");
                continue;
            }
            let place = self.layout.bitmap.saturating_add(from);
            let before = self.disk.at(place, length)?;
            bits += before.iter().map(|byte| u64::from(byte.count_zeros())).sum::<u64>();
            self.disk.write(place, &vec![0xff; length])?;
        }
        Ok(Bytes(bits.saturating_mul(4096)))
    }
}
