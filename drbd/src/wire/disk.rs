//! The options of a volume's disk (`disk { }`, `struct disk_conf`, nest 3) and of a resource (`options { }`, `struct res_opts`, nest 4).
//!
//! Numbers and types: `include/linux/drbd_genl.h`; ranges and defaults: `include/linux/drbd_limits.h`; Linux 6.1 (6.12 has the same).
//! In 8.4 the speed of a resync and the fencing policy stand here; DRBD 9 moved them.

use super::table::{Kind, OptionRow, Unit};

const fn number(min: u64, max: u64, default: u64, unit: Unit) -> Kind {
    Kind::Number { min, max, default, unit }
}
const NO: Kind = Kind::Flag { default: false };
const YES: Kind = Kind::Flag { default: true };

const ON_IO_ERROR: &[(&str, u32)] = &[("pass_on", 0), ("call-local-io-error", 1), ("detach", 2)];
const FENCING: &[(&str, u32)] = &[("dont-care", 0), ("resource-only", 1), ("resource-and-stonith", 2)];
const READ_BALANCING: &[(&str, u32)] = &[
    ("prefer-local", 0),
    ("prefer-remote", 1),
    ("round-robin", 2),
    ("least-pending", 3),
    ("when-congested-remote", 4),
    ("32K-striping", 5),
    ("64K-striping", 6),
    ("128K-striping", 7),
    ("256K-striping", 8),
    ("512K-striping", 9),
    ("1M-striping", 10),
];
const ON_NO_DATA: &[(&str, u32)] = &[("io-error", 0), ("suspend-io", 1)];

/// The most KiB/s of `resync-rate` and its kin (`DRBD_RESYNC_RATE_MAX`).
const MAX_RATE: u64 = 4 << 20;

/// All options of a disk, by attribute number. 1, 2 and 3 are the devices themselves, which a volume's spec holds.
pub(crate) const DISK: &[OptionRow] = &[
    OptionRow::new(
        4,
        "size",
        Kind::Wide { max: 1 << 41, unit: Unit::Sectors },
        "Use only this much of the device; 0 for all.",
    )
    .once(),
    OptionRow::new(
        5,
        "max-bio-bvecs",
        number(0, 128, 0, Unit::One),
        "Limit of segments a request; 0 for none.",
    )
    .once(),
    OptionRow::new(
        6,
        "on-io-error",
        Kind::Choice { words: ON_IO_ERROR, default: 2 },
        "The disk fails: pass the error on, call a handler, or go on with the peer's disk.",
    ),
    OptionRow::new(
        7,
        "fencing",
        Kind::Choice { words: FENCING, default: 0 },
        "The peer is lost: ask a handler to fence it before writing on; with stonith I/O stands still until it has.",
    ),
    OptionRow::new(
        8,
        "resync-rate",
        number(1, MAX_RATE, 250, Unit::KibPerSecond),
        "Speed of a resync when c-plan-ahead is 0.",
    ),
    OptionRow::new(9, "resync-after", Kind::MinorOrNone, "Sync only after that device has."),
    OptionRow::new(
        10,
        "al-extents",
        number(67, 65_534, 1237, Unit::One),
        "Hot extents of 4 MiB: what is resynced after a crash of the Primary.",
    ),
    OptionRow::new(
        11,
        "c-plan-ahead",
        number(0, 300, 20, Unit::Deciseconds),
        "How far the resync controller looks ahead; 0 switches it off.",
    ),
    OptionRow::new(
        12,
        "c-delay-target",
        number(1, 100, 10, Unit::Deciseconds),
        "The round-trip time the controller aims at, if c-fill-target is 0.",
    ),
    OptionRow::new(
        13,
        "c-fill-target",
        number(0, 1 << 20, 100, Unit::Sectors),
        "Resync data in flight that the controller aims at.",
    ),
    OptionRow::new(
        14,
        "c-max-rate",
        number(250, MAX_RATE, 102_400, Unit::KibPerSecond),
        "The controller's greatest speed.",
    ),
    OptionRow::new(
        15,
        "c-min-rate",
        number(0, MAX_RATE, 250, Unit::KibPerSecond),
        "The speed a resync may have while applications write; 0 for no limit.",
    ),
    OptionRow::new(16, "disk-barrier", NO, "Order writes by barriers."),
    OptionRow::new(
        17,
        "disk-flushes",
        YES,
        "Flush the disk's cache. Switching it off is safe only with a battery-backed cache.",
    ),
    OptionRow::new(18, "disk-drain", YES, "Wait for writes before dependent ones. Never switch it off."),
    OptionRow::new(19, "md-flushes", YES, "Flush after metadata writes; the same condition."),
    OptionRow::new(
        20,
        "disk-timeout",
        number(0, 6000, 0, Unit::Deciseconds),
        "A disk slower than this is detached; 0 for never. Dangerous: late writes may still reach the disk.",
    ),
    OptionRow::new(
        21,
        "read-balancing",
        Kind::Choice { words: READ_BALANCING, default: 0 },
        "Which disk is read.",
    ),
    OptionRow::new(23, "al-updates", YES, "Keep the activity log; without it a crash means a full resync."),
    OptionRow::new(
        24,
        "discard-zeroes-if-aligned",
        YES,
        "Take aligned discards for zeroing on thin devices that do so without saying it.",
    ),
    OptionRow::new(
        25,
        "rs-discard-granularity",
        number(0, 1 << 20, 0, Unit::Bytes),
        "Resync zeroed areas of this size as discards; 0 for never.",
    ),
    OptionRow::new(26, "disable-write-same", NO, "Hide WRITE SAME from the users of the device."),
];

/// All options of a resource, by attribute number.
pub(crate) const RESOURCE: &[OptionRow] = &[
    OptionRow::new(
        1,
        "cpu-mask",
        Kind::Text { max: 31 },
        "The CPUs of DRBD's threads, in hexadecimal; empty for all.",
    ),
    OptionRow::new(
        2,
        "on-no-data-accessible",
        Kind::Choice { words: ON_NO_DATA, default: 0 },
        "No copy of the data can be reached: fail the I/O or let it wait.",
    ),
];
