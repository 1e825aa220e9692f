//! How a volume is opened.

use std::fmt;

bitflags::bitflags! {
    /// How a volume is opened: the bits of `CRYPT_ACTIVATE_*` (libcryptsetup.h), all but those of dm-verity, which LUKS has no use for. Bits that
    /// this crate does not know are kept.
    ///
    /// Some can also be kept in a LUKS2 header ([`PERSISTENT`](Self::PERSISTENT)), and are then added to every opening.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
    pub struct OpenFlags: u32 {
        /// No writes; `--readonly`.
        const READ_ONLY = 1;
        /// Device-mapper gets no UUID: nothing can tell what the mapping is.
        const NO_UUID = 1 << 1;
        /// Several mappings of one device that do not overlap (plain only); `--shared`.
        const SHARED = 1 << 2;
        /// Discards reach the disk; who has the disk then sees which blocks are in use. `--allow-discards`.
        const ALLOW_DISCARDS = 1 << 3;
        /// udev makes no links to it.
        const PRIVATE = 1 << 4;
        /// dm-integrity or dm-verity found corruption (seen, not set).
        const CORRUPTED = 1 << 5;
        /// Encrypts on the processor that submitted the request; `--perf-same_cpu_crypt`.
        const SAME_CPU = 1 << 6;
        /// Submits writes from the encrypting thread, unsorted; `--perf-submit_from_crypt_cpus`.
        const SUBMIT_FROM_CRYPT_CPUS = 1 << 7;
        /// The volume key goes to the kernel's keyring and not into the table.
        const KEYRING_KEY = 1 << 11;
        /// No journal of dm-integrity: faster, and a crash may leave sectors that read as errors; `--integrity-no-journal`.
        const NO_JOURNAL = 1 << 12;
        /// dm-integrity opens what cannot be recovered otherwise, read-only; `--integrity-recovery-mode`.
        const RECOVERY = 1 << 13;
        /// Leaves out the flags kept in the header.
        const IGNORE_PERSISTENT = 1 << 14;
        /// A key of a slot that holds none of the data's is accepted, where nothing is opened: it is only checked.
        const ALLOW_UNBOUND_KEY = 1 << 16;
        /// dm-integrity calculates its tags anew in the background; `integritysetup open --integrity-recalculate`.
        const RECALCULATE = 1 << 17;
        /// Changes the flags of the mapping that is there; see [`Luks::refresh`](crate::Luks::refresh).
        const REFRESH = 1 << 18;
        /// One memory-hard key derivation at a time on this machine; `--serialize-memory-hard-pbkdf`.
        const SERIALIZE_KDF = 1 << 19;
        /// dm-integrity's bitmap mode is off.
        const NO_JOURNAL_BITMAP = 1 << 20;
        /// It is suspended (seen, not set).
        const SUSPENDED = 1 << 21;
        /// Initialisation vectors count in encryption sectors (plain; LUKS2 does always); `--iv-large-sectors`.
        const IV_LARGE_SECTORS = 1 << 22;
        /// Decrypts where the disk's interrupt arrives; `--perf-no_read_workqueue`.
        const NO_READ_WORKQUEUE = 1 << 24;
        /// Encrypts where the write is submitted; `--perf-no_write_workqueue`.
        const NO_WRITE_WORKQUEUE = 1 << 25;
        /// As [`RECALCULATE`](Self::RECALCULATE), from the beginning; `integritysetup open --integrity-recalculate-reset`.
        const RECALCULATE_RESET = 1 << 26;
        /// Work queues of high priority; `--perf-high_priority`. Since libcryptsetup 2.8 and Linux 6.10; older ones refuse or pass over it.
        const HIGH_PRIORITY = 1 << 28;

        const _ = !0;
    }
}

impl OpenFlags {
    /// Those that a LUKS2 header can keep; `cryptsetup open --persistent`.
    pub const PERSISTENT: Self = Self::ALLOW_DISCARDS
        .union(Self::SAME_CPU)
        .union(Self::SUBMIT_FROM_CRYPT_CPUS)
        .union(Self::NO_JOURNAL)
        .union(Self::NO_READ_WORKQUEUE)
        .union(Self::NO_WRITE_WORKQUEUE);

    /// The options of `cryptsetup open` for these flags, each after a space; flags that have none are left out.
    pub(crate) fn options(self) -> impl fmt::Display {
        let words = [
            (Self::READ_ONLY, "--readonly"),
            (Self::SHARED, "--shared"),
            (Self::ALLOW_DISCARDS, "--allow-discards"),
            (Self::SAME_CPU, "--perf-same_cpu_crypt"),
            (Self::SUBMIT_FROM_CRYPT_CPUS, "--perf-submit_from_crypt_cpus"),
            (Self::NO_JOURNAL, "--integrity-no-journal"),
            (Self::RECOVERY, "--integrity-recovery-mode"),
            (Self::SERIALIZE_KDF, "--serialize-memory-hard-pbkdf"),
            (Self::IV_LARGE_SECTORS, "--iv-large-sectors"),
            (Self::NO_READ_WORKQUEUE, "--perf-no_read_workqueue"),
            (Self::NO_WRITE_WORKQUEUE, "--perf-no_write_workqueue"),
            (Self::HIGH_PRIORITY, "--perf-high_priority"),
        ];
        words
            .iter()
            .filter(|(flag, _)| self.contains(*flag))
            .map(|(_, word)| format!(" {word}"))
            .collect::<String>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_as_a_person_would_have_typed_them() {
        let flags = OpenFlags::ALLOW_DISCARDS | OpenFlags::NO_READ_WORKQUEUE | OpenFlags::PRIVATE;
        assert_eq!(flags.options().to_string(), " --allow-discards --perf-no_read_workqueue");
        assert_eq!(OpenFlags::empty().options().to_string(), "");
    }

    #[test]
    fn bits_of_a_newer_library_are_kept() {
        let flags = OpenFlags::from_bits_retain(1 << 30 | 1);
        assert_eq!(flags.bits(), 1 << 30 | 1);
        assert!(flags.contains(OpenFlags::READ_ONLY));
    }
}
