//! The options of a volume's disk (`disk { }`, `struct disk_conf`, nest 3) and of a resource (`options { }`, `struct res_opts`, nest 4).
//!
//! Numbers and types: `include/linux/drbd_genl.h`; ranges and defaults: `include/linux/drbd_limits.h`; Linux 6.1 (6.12 has the same).
//! In 8.4 the speed of a resync and the fencing policy stand here; DRBD 9 moved them.

use super::nest;
use super::net::FENCING;
use super::table::{Kind, OptionRow, Unit};

const fn number(min: u64, max: u64, default: u64, unit: Unit) -> Kind {
    Kind::Number { min, max, default, unit }
}
const NO: Kind = Kind::Flag { default: false };
const YES: Kind = Kind::Flag { default: true };

const fn disk(number: u16, name: &'static str, kind: Kind, doc: &'static str) -> OptionRow {
    OptionRow::new(nest::DISK_CONF, number, name, kind, doc)
}

/// An option of DRBD 9 that stands in `disk { }` and goes to another nest.
const fn beside(nest: u16, number: u16, name: &'static str, kind: Kind, doc: &'static str) -> OptionRow {
    let row = OptionRow::new(nest, nest * 256 + number, name, kind, doc);
    row.moved(nest, number).only_9()
}

const fn resource(number: u16, name: &'static str, kind: Kind, doc: &'static str) -> OptionRow {
    OptionRow::new(nest::RESOURCE_OPTS, number, name, kind, doc)
}

const ON_IO_ERROR: &[(&str, u32)] = &[("pass_on", 0), ("call-local-io-error", 1), ("detach", 2)];
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
/// That of `resync-rate` in DRBD 9.
const MAX_RATE_9: u64 = 8 << 20;

/// All options of a disk, by attribute number. 1, 2 and 3 are the devices themselves, which a volume's spec holds.
pub(crate) static DISK: &[OptionRow] = &[
    disk(4,
        "size",
        Kind::Wide { max: 1 << 41, unit: Unit::Sectors },
        "Use only this much of the device; 0 for all.",
    )
    .once(),
    disk(5,
        "max-bio-bvecs",
        number(0, 128, 0, Unit::One),
        "Limit of segments a request; 0 for none.",
    )
    .once().only_84(),
    disk(6,
        "on-io-error",
        Kind::Choice { words: ON_IO_ERROR, default: 2 },
        "The disk fails: pass the error on, call a handler, or go on with the peer's disk.",
    ),
    disk(7,
        "fencing",
        Kind::Choice { words: FENCING, default: 0 },
        "The peer is lost: ask a handler to fence it before writing on; with stonith I/O stands still until it has.",
    ).only_84(),
    disk(8,
        "resync-rate",
        number(1, MAX_RATE, 250, Unit::KibPerSecond),
        "Speed of a resync when c-plan-ahead is 0.",
    ).moved(nest::PEER_DEVICE_OPTS, 1).with_9(number(1, MAX_RATE_9, 250, Unit::KibPerSecond)),
    disk(9, "resync-after", Kind::MinorOrNone, "Sync only after that device has."),
    disk(10,
        "al-extents",
        number(67, 65_534, 1237, Unit::One),
        "Hot extents of 4 MiB: what is resynced after a crash of the Primary.",
    ),
    disk(11,
        "c-plan-ahead",
        number(0, 300, 20, Unit::Deciseconds),
        "How far the resync controller looks ahead; 0 switches it off.",
    ).moved(nest::PEER_DEVICE_OPTS, 2),
    disk(12,
        "c-delay-target",
        number(1, 100, 10, Unit::Deciseconds),
        "The round-trip time the controller aims at, if c-fill-target is 0.",
    ).moved(nest::PEER_DEVICE_OPTS, 3),
    disk(13,
        "c-fill-target",
        number(0, 1 << 20, 100, Unit::Sectors),
        "Resync data in flight that the controller aims at.",
    ).moved(nest::PEER_DEVICE_OPTS, 4),
    disk(14,
        "c-max-rate",
        number(250, MAX_RATE, 102_400, Unit::KibPerSecond),
        "The controller's greatest speed.",
    ).moved(nest::PEER_DEVICE_OPTS, 5).with_9(number(0, MAX_RATE, 102_400, Unit::KibPerSecond)),
    disk(15,
        "c-min-rate",
        number(0, MAX_RATE, 250, Unit::KibPerSecond),
        "The speed a resync may have while applications write; 0 for no limit.",
    ).moved(nest::PEER_DEVICE_OPTS, 6),
    disk(16, "disk-barrier", NO, "Order writes by barriers."),
    disk(17,
        "disk-flushes",
        YES,
        "Flush the disk's cache. Switching it off is safe only with a battery-backed cache.",
    ),
    disk(18, "disk-drain", YES, "Wait for writes before dependent ones. Never switch it off."),
    disk(19, "md-flushes", YES, "Flush after metadata writes; the same condition."),
    disk(20,
        "disk-timeout",
        number(0, 6000, 0, Unit::Deciseconds),
        "A disk slower than this is detached; 0 for never. Dangerous: late writes may still reach the disk.",
    ),
    disk(21,
        "read-balancing",
        Kind::Choice { words: READ_BALANCING, default: 0 },
        "Which disk is read.",
    ),
    disk(23, "al-updates", YES, "Keep the activity log; without it a crash means a full resync."),
    disk(24,
        "discard-zeroes-if-aligned",
        YES,
        "Take aligned discards for zeroing on thin devices that do so without saying it.",
    ),
    disk(25,
        "rs-discard-granularity",
        number(0, 1 << 20, 0, Unit::Bytes),
        "Resync zeroed areas of this size as discards; 0 for never.",
    ),
    disk(26, "disable-write-same", NO, "Hide WRITE SAME from the users of the device."),
    disk(27, "bitmap", YES, "Whether this node keeps a bitmap for its peers.").only_9(),
    beside(
        nest::DEVICE_CONF,
        1,
        "max-bio-size",
        number(512, 1 << 20, 1 << 20, Unit::Bytes),
        "The largest request, for all nodes.",
    )
    .once(),
    beside(nest::DEVICE_CONF, 2, "diskless", NO, "Whether this node has no disk on purpose.").once(),
    beside(
        nest::DEVICE_CONF,
        3,
        "block-size",
        number(512, 4096, 512, Unit::Bytes),
        "The block size that all nodes show.",
    ),
    beside(
        nest::DEVICE_CONF,
        4,
        "discard-granularity",
        number(0, 128 << 20, 0, Unit::Bytes),
        "The granularity of discards that the device shows.",
    ),
    beside(nest::PEER_DEVICE_OPTS, 7, "peer-bitmap", YES, "Whether a bitmap is kept for this peer."),
    beside(
        nest::PEER_DEVICE_OPTS,
        8,
        "resync-without-replication",
        YES,
        "Whether a resync may run between two nodes without a Primary.",
    ),
    beside(nest::PEER_DEVICE_OPTS, 9, "peer-tiebreaker", YES, "Whether a diskless peer counts for quorum."),
];
const U32: u64 = 0xffff_ffff;
/// `quorum`: a number of nodes, or one of these (`QOU_*`, `drbd_limits.h`).
const QUORUM: Kind = Kind::NumberOrWord {
    min: 1,
    max: 32,
    words: &[("off", 0), ("majority", 1024), ("all", 1025)],
    default: 0,
};

/// All options of a resource, by attribute number.
pub(crate) static RESOURCE: &[OptionRow] = &[
    resource(
        1,
        "cpu-mask",
        Kind::Text { max: 31 },
        "The CPUs of DRBD's threads, in hexadecimal; empty for all.",
    ),
    resource(
        2,
        "on-no-data-accessible",
        Kind::Choice { words: ON_NO_DATA, default: 0 },
        "No copy of the data can be reached: fail the I/O or let it wait.",
    ),
    resource(3, "auto-promote", YES, "Opening the device for writing promotes.").only_9(),
    resource(
        5,
        "peer-ack-window",
        number(2048, 204_800, 4096, Unit::Sectors),
        "Data written before the peers are told what others have.",
    )
    .only_9(),
    resource(
        6,
        "twopc-timeout",
        number(50, 600, 300, Unit::Deciseconds),
        "How long a change of state over all nodes may take.",
    )
    .only_9(),
    resource(
        7,
        "twopc-retry-timeout",
        number(1, 50, 1, Unit::Deciseconds),
        "The pause before such a change is tried again.",
    )
    .only_9(),
    resource(
        8,
        "peer-ack-delay",
        number(1, 10_000, 100, Unit::Milliseconds),
        "The idle time after which the peers are told.",
    )
    .only_9(),
    resource(
        9,
        "auto-promote-timeout",
        number(0, 600, 20, Unit::Deciseconds),
        "How long an open waits for the promotion.",
    )
    .only_9(),
    resource(10, "max-io-depth", number(4, U32, 8000, Unit::One), "Requests in flight.").only_9(),
    resource(11, "quorum", QUORUM, "How many nodes must be there for a node to write.").only_9(),
    resource(
        12,
        "on-no-quorum",
        Kind::Choice { words: ON_NO_DATA, default: 1 },
        "Quorum is lost: fail the I/O or let it wait.",
    )
    .only_9(),
    resource(13, "quorum-minimum-redundancy", QUORUM, "How many of them must have UpToDate disks.").only_9(),
    resource(
        14,
        "on-suspended-primary-outdated",
        Kind::Choice { words: &[("disconnect", 0), ("force-secondary", 1)], default: 0 },
        "A Primary whose I/O waits meets newer data: leave, or give the role up.",
    )
    .only_9(),
    resource(16, "drbd8-api-compatibility", NO, "Behave as 8.4 towards old tools.").only_9(),
];
