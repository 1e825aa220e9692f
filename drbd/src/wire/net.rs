//! The options of a connection: `net { }` of drbd.conf, `struct net_conf`, nest 5.
//!
//! Numbers and types: `include/linux/drbd_genl.h`; ranges and defaults: `include/linux/drbd_limits.h`; Linux 6.1 (6.12 has the same).

use super::table::{Kind, OptionRow, Unit};

const fn number(min: u64, max: u64, default: u64, unit: Unit) -> Kind {
    Kind::Number { min, max, default, unit }
}
const NO: Kind = Kind::Flag { default: false };
const YES: Kind = Kind::Flag { default: true };
const TEXT: Kind = Kind::Text { max: 63 };

/// `protocol`.
const PROTOCOLS: &[(&str, u32)] = &[("A", 1), ("B", 2), ("C", 3)];
/// `after-sb-0pri` (`enum drbd_after_sb_p`, include/linux/drbd.h).
const AFTER_SB_0: &[(&str, u32)] = &[
    ("disconnect", 0),
    ("discard-younger-primary", 1),
    ("discard-older-primary", 2),
    ("discard-zero-changes", 3),
    ("discard-least-changes", 4),
    ("discard-local", 5),
    ("discard-remote", 6),
];
const AFTER_SB_1: &[(&str, u32)] = &[
    ("disconnect", 0),
    ("consensus", 7),
    ("discard-secondary", 8),
    ("call-pri-lost-after-sb", 9),
    ("violently-as0p", 10),
];
const AFTER_SB_2: &[(&str, u32)] =
    &[("disconnect", 0), ("call-pri-lost-after-sb", 9), ("violently-as0p", 10)];
const RR_CONFLICT: &[(&str, u32)] = &[("disconnect", 0), ("call-pri-lost", 9), ("violently", 10)];
const ON_CONGESTION: &[(&str, u32)] = &[("block", 0), ("pull-ahead", 1), ("disconnect", 2)];

/// All options of a connection, by attribute number.
pub(crate) const NET: &[OptionRow] = &[
    OptionRow::new(
        1,
        "shared-secret",
        Kind::Secret { max: 63 },
        "What both nodes prove to know when they connect; needs cram-hmac-alg.",
    ),
    OptionRow::new(
        2,
        "cram-hmac-alg",
        TEXT,
        "The digest that proves it, a name of /proc/crypto: sha1, sha256.",
    ),
    OptionRow::new(
        3,
        "data-integrity-alg",
        TEXT,
        "A digest over each block on the wire. For tests: buffers that change in flight make it drop the connection.",
    ),
    OptionRow::new(4, "verify-alg", TEXT, "The digest of online verify."),
    OptionRow::new(5, "csums-alg", TEXT, "The digest that spares equal blocks in a resync."),
    OptionRow::new(
        6,
        "protocol",
        Kind::Choice { words: PROTOCOLS, default: 3 },
        "When a write is done: A sent, B received by the peer, C on the peer's disk.",
    ),
    OptionRow::new(7, "connect-int", number(1, 120, 10, Unit::Seconds), "Time between two tries to connect."),
    OptionRow::new(
        8,
        "timeout",
        number(1, 600, 60, Unit::Deciseconds),
        "How long the peer may take to answer; less than ping-int and connect-int.",
    ),
    OptionRow::new(
        9,
        "ping-int",
        number(1, 120, 10, Unit::Seconds),
        "Idle time before the peer is asked for a sign of life.",
    ),
    OptionRow::new(10, "ping-timeout", number(1, 300, 5, Unit::Deciseconds), "How long that sign may take."),
    OptionRow::new(11, "sndbuf-size", number(0, 10 << 20, 0, Unit::Bytes), "Send buffer; 0 lets TCP choose."),
    OptionRow::new(
        12,
        "rcvbuf-size",
        number(0, 10 << 20, 0, Unit::Bytes),
        "Receive buffer; 0 lets TCP choose.",
    ),
    OptionRow::new(
        13,
        "ko-count",
        number(0, 200, 7, Unit::One),
        "How many timeouts a request may take; 0 for any.",
    ),
    OptionRow::new(14, "max-buffers", number(32, 131_072, 2048, Unit::One), "Pages the receiver may hold."),
    OptionRow::new(15, "max-epoch-size", number(1, 20_000, 2048, Unit::One), "Writes between two barriers."),
    OptionRow::new(
        16,
        "unplug-watermark",
        number(1, 131_072, 128, Unit::One),
        "Pending requests at which the peer's disk is kicked. DRBD 9 has it no more.",
    ),
    OptionRow::new(
        17,
        "after-sb-0pri",
        Kind::Choice { words: AFTER_SB_0, default: 0 },
        "Split brain found, no node Primary.",
    ),
    OptionRow::new(
        18,
        "after-sb-1pri",
        Kind::Choice { words: AFTER_SB_1, default: 0 },
        "Split brain found, one node Primary.",
    ),
    OptionRow::new(
        19,
        "after-sb-2pri",
        Kind::Choice { words: AFTER_SB_2, default: 0 },
        "Split brain found, both nodes Primary.",
    ),
    OptionRow::new(
        20,
        "rr-conflict",
        Kind::Choice { words: RR_CONFLICT, default: 0 },
        "The sync's direction contradicts the roles.",
    ),
    OptionRow::new(
        21,
        "on-congestion",
        Kind::Choice { words: ON_CONGESTION, default: 0 },
        "The send buffer is full; pull-ahead needs protocol A.",
    ),
    OptionRow::new(
        22,
        "congestion-fill",
        number(0, 20 << 20, 0, Unit::Sectors),
        "Data in flight that counts as congestion.",
    ),
    OptionRow::new(
        23,
        "congestion-extents",
        number(67, 65_534, 1237, Unit::One),
        "Hot extents that count as congestion.",
    ),
    OptionRow::new(24, "allow-two-primaries", NO, "Both nodes may be Primary; needs protocol C."),
    OptionRow::new(
        25,
        "discard-my-data",
        NO,
        "After split brain: this node's changes are thrown away. Destroys data; holds for one connect.",
    )
    .once(),
    OptionRow::new(26, "tcp-cork", YES, "Whether small packets are gathered."),
    OptionRow::new(27, "always-asbp", NO, "The after-sb policies hold for unrelated data too."),
    OptionRow::new(28, "tentative", NO, "Only find out which way a sync would go, then disconnect.").once(),
    OptionRow::new(29, "use-rle", YES, "Whether bitmaps are compressed on the wire."),
    OptionRow::new(33, "csums-after-crash-only", NO, "csums-alg only after the Primary crashed."),
    OptionRow::new(
        34,
        "socket-check-timeout",
        number(0, 300, 0, Unit::Deciseconds),
        "How long a fresh socket is checked; 0 takes ping-timeout.",
    ),
];
