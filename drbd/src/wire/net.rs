//! The options of a connection: `net { }` of drbd.conf, `struct net_conf`, nest 5.
//!
//! Numbers and types: `include/linux/drbd_genl.h`; ranges and defaults: `include/linux/drbd_limits.h`; Linux 6.1 (6.12 has the same).

use super::nest;
use super::table::{Kind, OptionRow, Unit};

const fn number(min: u64, max: u64, default: u64, unit: Unit) -> Kind {
    Kind::Number { min, max, default, unit }
}
const NO: Kind = Kind::Flag { default: false };
const YES: Kind = Kind::Flag { default: true };
const TEXT: Kind = Kind::Text { max: 63 };

const fn row(number: u16, name: &'static str, kind: Kind, doc: &'static str) -> OptionRow {
    OptionRow::new(nest::NET_CONF, number, name, kind, doc)
}

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
/// `fencing` (`enum drbd_fencing_policy`, include/linux/drbd.h).
pub(super) const FENCING: &[(&str, u32)] =
    &[("dont-care", 0), ("resource-only", 1), ("resource-and-stonith", 2)];
const RR_CONFLICT: &[(&str, u32)] = &[("disconnect", 0), ("call-pri-lost", 9), ("violently", 10)];
const RR_CONFLICT_9: &[(&str, u32)] = &[
    ("disconnect", 0),
    ("call-pri-lost", 9),
    ("violently", 10),
    ("retry-connect", 11),
    ("auto-discard", 12),
];
const ON_CONGESTION: &[(&str, u32)] = &[("block", 0), ("pull-ahead", 1), ("disconnect", 2)];

/// The greatest serial number of a key.
const KEY: u64 = 0x7fff_ffff;

/// All options of a connection, by attribute number.
pub(crate) static NET: &[OptionRow] = &[
    row(1,
        "shared-secret",
        Kind::Secret { max: 63 },
        "What both nodes prove to know when they connect; needs cram-hmac-alg.",
    ),
    row(2,
        "cram-hmac-alg",
        TEXT,
        "The digest that proves it, a name of /proc/crypto: sha1, sha256.",
    ),
    row(3,
        "data-integrity-alg",
        TEXT,
        "A digest over each block on the wire. For tests: buffers that change in flight make it drop the connection.",
    ),
    row(4, "verify-alg", TEXT, "The digest of online verify."),
    row(5, "csums-alg", TEXT, "The digest that spares equal blocks in a resync."),
    row(6,
        "protocol",
        Kind::Choice { words: PROTOCOLS, default: 3 },
        "When a write is done: A sent, B received by the peer, C on the peer's disk.",
    ),
    row(7, "connect-int", number(1, 120, 10, Unit::Seconds), "Time between two tries to connect."),
    row(8,
        "timeout",
        number(1, 600, 60, Unit::Deciseconds),
        "How long the peer may take to answer; less than ping-int and connect-int.",
    ),
    row(9,
        "ping-int",
        number(1, 120, 10, Unit::Seconds),
        "Idle time before the peer is asked for a sign of life.",
    ),
    row(10, "ping-timeout", number(1, 300, 5, Unit::Deciseconds), "How long that sign may take."),
    row(11, "sndbuf-size", number(0, 10 << 20, 0, Unit::Bytes), "Send buffer; 0 lets TCP choose.")
        .with_9(number(0, 128 << 20, 0, Unit::Bytes)),
    row(12,
        "rcvbuf-size",
        number(0, 10 << 20, 0, Unit::Bytes),
        "Receive buffer; 0 lets TCP choose.",
    )
    .with_9(number(0, 128 << 20, 0, Unit::Bytes)),
    row(13,
        "ko-count",
        number(0, 200, 7, Unit::One),
        "How many timeouts a request may take; 0 for any.",
    ),
    row(14, "max-buffers", number(32, 131_072, 2048, Unit::One), "Pages the receiver may hold.")
        .moved(nest::NET_CONF, 36),
    row(15, "max-epoch-size", number(1, 20_000, 2048, Unit::One), "Writes between two barriers."),
    row(16,
        "unplug-watermark",
        number(1, 131_072, 128, Unit::One),
        "Pending requests at which the peer's disk is kicked. DRBD 9 has it no more.",
    )
    .only_84(),
    row(17,
        "after-sb-0pri",
        Kind::Choice { words: AFTER_SB_0, default: 0 },
        "Split brain found, no node Primary.",
    ),
    row(18,
        "after-sb-1pri",
        Kind::Choice { words: AFTER_SB_1, default: 0 },
        "Split brain found, one node Primary.",
    ),
    row(19,
        "after-sb-2pri",
        Kind::Choice { words: AFTER_SB_2, default: 0 },
        "Split brain found, both nodes Primary.",
    ),
    row(20,
        "rr-conflict",
        Kind::Choice { words: RR_CONFLICT, default: 0 },
        "The sync's direction contradicts the roles.",
    )
    .with_9(Kind::Choice { words: RR_CONFLICT_9, default: 0 }),
    row(21,
        "on-congestion",
        Kind::Choice { words: ON_CONGESTION, default: 0 },
        "The send buffer is full; pull-ahead needs protocol A.",
    ),
    row(22,
        "congestion-fill",
        number(0, 20 << 20, 0, Unit::Sectors),
        "Data in flight that counts as congestion.",
    ),
    row(23,
        "congestion-extents",
        number(67, 65_534, 1237, Unit::One),
        "Hot extents that count as congestion.",
    ),
    row(24, "allow-two-primaries", NO, "Both nodes may be Primary; needs protocol C."),
    row(25,
        "discard-my-data",
        NO,
        "After split brain: this node's changes are thrown away. Destroys data; holds for one connect.",
    )
    .moved(nest::CONNECT_PARMS, 2)
    .once(),
    row(26, "tcp-cork", YES, "Whether small packets are gathered."),
    row(27, "always-asbp", NO, "The after-sb policies hold for unrelated data too."),
    row(28, "tentative", NO, "Only find out which way a sync would go, then disconnect.")
        .moved(nest::CONNECT_PARMS, 1)
        .once(),
    row(29, "use-rle", YES, "Whether bitmaps are compressed on the wire."),
    row(
        30,
        "fencing",
        Kind::Choice { words: FENCING, default: 0 },
        "The peer is lost: ask a handler to fence it before writing on. 8.4 has it among the options of a disk.",
    )
    .only_9(),
    row(31, "_name", TEXT, "The name of the peer: drbdsetup shows it and drbdadm makes it.")
        .only_9()
        .once(),
    row(33, "csums-after-crash-only", NO, "csums-alg only after the Primary crashed."),
    row(34,
        "socket-check-timeout",
        number(0, 300, 0, Unit::Deciseconds),
        "How long a fresh socket is checked; 0 takes ping-timeout.",
    ),
    row(35, "transport", TEXT, "What carries the data: tcp, lb-tcp, rdma.").only_9().once(),
    row(37, "allow-remote-read", YES, "Whether this node reads from the peer.").only_9(),
    row(38, "tls", NO, "Whether the kernel encrypts the connection.").only_9(),
    row(39, "tls-privkey", number(0, KEY, 0, Unit::One), "The serial number of a key.").only_9(),
    row(40, "tls-certificate", number(0, KEY, 0, Unit::One), "The serial number of a key.").only_9(),
    row(41, "tls-keyring", number(0, KEY, 0, Unit::One), "The serial number of a keyring.").only_9(),
    row(42, "load-balance-paths", NO, "Whether all paths carry data at once.").only_9().once(),
    row(43, "rdma-ctrl-rcvbuf-size", number(0, 10 << 20, 0, Unit::Bytes), "For small messages over RDMA.")
        .only_9(),
    row(44, "rdma-ctrl-sndbuf-size", number(0, 10 << 20, 0, Unit::Bytes), "For small messages over RDMA.")
        .only_9(),
];
