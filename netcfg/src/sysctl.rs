//! Kernel parameters of a storage node: what each is good for, sets of them for a purpose, and the file that sets them at boot.

use std::collections::BTreeMap;
use std::fmt;

use crate::parameter::{SysctlBound, SysctlSpec};

/// What is to be thought of setting a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Advice {
    /// Of use on a storage node.
    Useful,
    /// The kernel has it as its default; setting it does no harm and no good.
    Default,
    /// Of use only if measured to be: setting it blindly costs something.
    Measure,
    /// It has no effect, or none here.
    Useless,
    /// The kernel has it no more.
    Removed,
    /// It makes things worse.
    Harmful,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Useful => "useful",
            Self::Default => "the default",
            Self::Measure => "only if measured",
            Self::Useless => "useless",
            Self::Removed => "removed",
            Self::Harmful => "harmful",
        })
    }
}

/// A verdict with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// The parameter.
    pub key: &'static str,
    /// The value it is about; `None` for any.
    pub value: Option<&'static str>,
    /// What is to be thought of it.
    pub advice: Advice,
    /// Why.
    pub reason: &'static str,
}

const fn verdict(
    key: &'static str,
    value: Option<&'static str>,
    advice: Advice,
    reason: &'static str,
) -> Verdict {
    Verdict { key, value, advice, reason }
}

/// From `Documentation/networking/ip-sysctl.rst`, `Documentation/admin-guide/sysctl/{net,vm}.rst` and the code of 6.1. More special rows first.
const VERDICTS: &[Verdict] = &[
    verdict(
        "net.ipv4.tcp_sack",
        Some("0"),
        Advice::Harmful,
        "without selective acknowledgements there is no RACK and no undo of a false retransmission: one lost packet is repaired per round trip, and packets out of order (balance-rr) look like losses",
    ),
    verdict("net.ipv4.tcp_sack", Some("1"), Advice::Default, "selective acknowledgements are on"),
    verdict(
        "net.ipv4.tcp_dsack",
        Some("0"),
        Advice::Harmful,
        "without duplicate reports TCP cannot learn that a retransmission was needless and keeps slowing down when packets are reordered",
    ),
    verdict("net.ipv4.tcp_dsack", Some("1"), Advice::Default, "duplicate reports are on"),
    verdict(
        "net.ipv4.tcp_timestamps",
        Some("0"),
        Advice::Harmful,
        "without timestamps nothing protects against wrapped sequence numbers (4 GiB: 3.4 s at 10 Gbit/s), and round trips are measured once per window",
    ),
    verdict("net.ipv4.tcp_timestamps", Some("1"), Advice::Default, "timestamps are on"),
    verdict(
        "net.ipv4.tcp_window_scaling",
        Some("0"),
        Advice::Harmful,
        "without scaling a window ends at 64 KiB",
    ),
    verdict("net.ipv4.tcp_window_scaling", None, Advice::Default, "windows are scaled"),
    verdict(
        "net.ipv4.tcp_reordering",
        None,
        Advice::Useful,
        "how many packets may be overtaken before TCP takes that for a loss: raise it (127) where a bond sends in turn (balance-rr)",
    ),
    verdict(
        "net.ipv4.tcp_max_reordering",
        None,
        Advice::Useful,
        "how far TCP may raise tcp_reordering by itself: the kernel's documentation says to raise it with balance-rr",
    ),
    verdict(
        "net.core.rmem_max",
        None,
        Advice::Useful,
        "the largest buffer a program may ask for (DRBD does): a minimum, as newer kernels have more",
    ),
    verdict("net.core.wmem_max", None, Advice::Useful, "as rmem_max, for sending"),
    verdict(
        "net.core.rmem_default",
        None,
        Advice::Measure,
        "it is the buffer of every socket that says nothing, UDP and netlink too, and costs memory for each; TCP does not look at it",
    ),
    verdict("net.core.wmem_default", None, Advice::Measure, "as rmem_default, for sending"),
    verdict(
        "net.ipv4.tcp_rmem",
        None,
        Advice::Useful,
        "smallest, first and largest receive buffer of TCP: a minimum, as an old list may be below what newer kernels have",
    ),
    verdict("net.ipv4.tcp_wmem", None, Advice::Useful, "as tcp_rmem, for sending"),
    verdict(
        "net.ipv4.tcp_mem",
        None,
        Advice::Harmful,
        "it is in pages and the kernel sizes it by the machine's memory: a copied value can make TCP drop packets",
    ),
    verdict(
        "net.ipv4.tcp_no_metrics_save",
        None,
        Advice::Useful,
        "what a dying path did to TCP is not remembered for the path that replaces it",
    ),
    verdict(
        "net.ipv4.tcp_slow_start_after_idle",
        Some("0"),
        Advice::Useful,
        "a connection that was silent goes on at its speed: iSCSI and DRBD come in bursts",
    ),
    verdict(
        "net.ipv4.tcp_mtu_probing",
        None,
        Advice::Useful,
        "TCP finds its way round a switch that drops large frames silently",
    ),
    verdict(
        "net.ipv4.tcp_fin_timeout",
        None,
        Advice::Useless,
        "it is about connections that were closed on one side; iSCSI and DRBD keep theirs",
    ),
    verdict(
        "net.core.netdev_max_backlog",
        None,
        Advice::Measure,
        "only if column 2 of /proc/net/softnet_stat grows: a long queue is delay. It is not used by drivers with NAPI on the way in",
    ),
    verdict(
        "net.core.netdev_budget",
        None,
        Advice::Measure,
        "only if column 3 of /proc/net/softnet_stat grows",
    ),
    verdict(
        "vm.min_free_kbytes",
        None,
        Advice::Measure,
        "a reserve for allocations that cannot wait; too much of it makes reclaim start early, more than 5 % of the memory can starve the machine",
    ),
    verdict("net.ipv4.tcp_fack", None, Advice::Useless, "the kernel keeps the name and does nothing"),
    verdict("net.ipv4.tcp_low_latency", None, Advice::Useless, "the kernel keeps the name and does nothing"),
    verdict(
        "net.ipv4.tcp_adv_win_scale",
        None,
        Advice::Useless,
        "newer kernels find the share of overhead themselves",
    ),
    verdict(
        "net.ipv4.tcp_tw_recycle",
        None,
        Advice::Removed,
        "gone since Linux 4.12; it broke clients behind NAT",
    ),
    verdict(
        "net.core.somaxconn",
        None,
        Advice::Useless,
        "a queue of connections not yet accepted; iSCSI has a handful",
    ),
    verdict("net.ipv4.tcp_max_syn_backlog", None, Advice::Useless, "as somaxconn"),
    verdict(
        "net.ipv4.conf.all.arp_ignore",
        Some("1"),
        Advice::Useful,
        "a link answers only for its own addresses: needed where two portals are in one network",
    ),
    verdict(
        "net.ipv4.conf.all.arp_announce",
        Some("2"),
        Advice::Useful,
        "ARP requests carry the address of the link they leave by",
    ),
    verdict(
        "net.ipv4.conf.all.rp_filter",
        Some("1"),
        Advice::Harmful,
        "strict: a packet that comes in by another link than the answer would leave by is dropped, which two paths in one network do",
    ),
    verdict(
        "net.ipv4.conf.all.rp_filter",
        None,
        Advice::Useful,
        "2 (loose) where several links are in one network",
    ),
    verdict(
        "net.ipv4.conf.all.promote_secondaries",
        Some("1"),
        Advice::Useful,
        "removing one address leaves the others of its network: floating addresses need it",
    ),
    verdict(
        "net.ipv4.conf.all.arp_notify",
        None,
        Advice::Useless,
        "it acts when a link comes up or changes its hardware address, not when an address is added",
    ),
];

/// The verdict on setting a parameter to a value; `None` for one this table does not know.
#[must_use]
pub fn explain(key: &str, value: &str) -> Option<&'static Verdict> {
    let value = value.trim();
    VERDICTS.iter().find(|verdict| verdict.key == key && verdict.value.is_none_or(|v| v == value))
}

/// A set of parameters for a purpose. Every one is a minimum or a switch; nothing of it lowers what a kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Profile {
    /// A target that is reached over several portals.
    IscsiTarget,
    /// Replication over a bond that sends in turn (balance-rr).
    ReplicationRoundRobin,
    /// An initiator with several paths.
    MultipathInitiator,
}

impl Profile {
    /// The parameters of this set.
    #[must_use]
    pub fn specs(self) -> Vec<SysctlSpec> {
        const BUFFERS: [(&str, &str, SysctlBound); 4] = [
            ("net.core.rmem_max", "33554432", SysctlBound::AtLeast),
            ("net.core.wmem_max", "33554432", SysctlBound::AtLeast),
            ("net.ipv4.tcp_rmem", "4096 131072 33554432", SysctlBound::AtLeast),
            ("net.ipv4.tcp_wmem", "4096 16384 33554432", SysctlBound::AtLeast),
        ];
        const STEADY: [(&str, &str, SysctlBound); 3] = [
            ("net.ipv4.tcp_no_metrics_save", "1", SysctlBound::Exactly),
            ("net.ipv4.tcp_slow_start_after_idle", "0", SysctlBound::Exactly),
            ("net.ipv4.tcp_mtu_probing", "1", SysctlBound::AtLeast),
        ];
        const PATHS: [(&str, &str, SysctlBound); 3] = [
            ("net.ipv4.conf.all.arp_ignore", "1", SysctlBound::AtLeast),
            ("net.ipv4.conf.all.arp_announce", "2", SysctlBound::AtLeast),
            ("net.ipv4.conf.all.rp_filter", "2", SysctlBound::Exactly),
        ];
        const TARGET: [(&str, &str, SysctlBound); 1] =
            [("net.ipv4.conf.all.promote_secondaries", "1", SysctlBound::Exactly)];
        const IN_TURN: [(&str, &str, SysctlBound); 2] = [
            ("net.ipv4.tcp_reordering", "127", SysctlBound::AtLeast),
            ("net.ipv4.tcp_max_reordering", "1000", SysctlBound::AtLeast),
        ];
        let parts: &[&[(&str, &str, SysctlBound)]] = match self {
            Self::IscsiTarget => &[&BUFFERS, &STEADY, &PATHS, &TARGET],
            Self::ReplicationRoundRobin => &[&BUFFERS, &STEADY, &IN_TURN],
            Self::MultipathInitiator => &[&BUFFERS, &STEADY, &PATHS],
        };
        let spec = |(key, value, bound): &(&str, &str, SysctlBound)| SysctlSpec {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
            bound: *bound,
            force: false,
        };
        parts.iter().flat_map(|part| part.iter()).map(spec).collect()
    }
}

/// The text of a file for `/etc/sysctl.d` that sets these parameters at boot, each with its verdict as a comment. A minimum is written as the
/// larger of itself and `current`, the machine's values by file below `/proc/sys` (without those, as itself): sysctl.d(5) knows no minimums.
#[must_use]
pub fn file(specs: &[SysctlSpec], current: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    for spec in specs {
        if let Some(verdict) = explain(&spec.key, &spec.value) {
            out.push_str(&format!("# {}: {}\n", verdict.advice, verdict.reason));
        }
        let now = current.get(&spec.path());
        let value = now.and_then(|now| match spec.wanted_over(now) {
            // As it should be already.
            None => Some(now.split_whitespace().collect::<Vec<_>>().join(" ")),
            wanted => wanted,
        });
        // With slashes: a dot inside an interface's name is then a dot.
        let key = spec.path().trim_start_matches("/proc/sys/").to_owned();
        out.push_str(&format!("{key} = {}\n", value.unwrap_or_else(|| spec.value.clone())));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_the_list_people_copy_has_a_verdict() {
        for (key, value, advice) in [
            ("net.ipv4.tcp_reordering", "127", Advice::Useful),
            ("net.core.rmem_max", "33554432", Advice::Useful),
            ("net.core.wmem_max", "33554432", Advice::Useful),
            ("net.core.rmem_default", "16777216", Advice::Measure),
            ("net.core.wmem_default", "16777216", Advice::Measure),
            ("net.ipv4.tcp_rmem", "131072 524288 33554432", Advice::Useful),
            ("net.ipv4.tcp_wmem", "131072 524288 33554432", Advice::Useful),
            ("net.ipv4.tcp_no_metrics_save", "1", Advice::Useful),
            ("net.ipv4.tcp_window_scaling", "1", Advice::Default),
            ("net.ipv4.tcp_timestamps", "0", Advice::Harmful),
            ("net.ipv4.tcp_sack", "0", Advice::Harmful),
            ("net.ipv4.tcp_dsack", "0", Advice::Harmful),
            ("net.ipv4.tcp_fin_timeout", "15", Advice::Useless),
            ("net.core.netdev_max_backlog", "300000", Advice::Measure),
            ("vm.min_free_kbytes", "720896", Advice::Measure),
        ] {
            assert_eq!(explain(key, value).map(|v| v.advice), Some(advice), "{key}={value}");
        }
        assert_eq!(explain("net.ipv4.tcp_sack", "1").map(|v| v.advice), Some(Advice::Default));
        assert_eq!(explain("kernel.hostname", "x"), None);
    }

    #[test]
    fn no_profile_has_what_is_not_of_use() {
        for profile in [Profile::IscsiTarget, Profile::ReplicationRoundRobin, Profile::MultipathInitiator] {
            for spec in profile.specs() {
                let verdict = explain(&spec.key, &spec.value).expect("has a verdict");
                assert_eq!(verdict.advice, Advice::Useful, "{}", spec.key);
            }
        }
    }

    #[test]
    fn the_file_for_boot_lowers_nothing() {
        let specs = [
            SysctlSpec::at_least("net.ipv4.tcp_rmem", "131072 524288 33554432").expect("good"),
            SysctlSpec::at_least("net.core.rmem_max", "33554432").expect("good"),
            SysctlSpec::exactly("net.ipv4.conf.eth0/5.rp_filter", "2").expect("good"),
        ];
        let current = [
            ("/proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t67108864\n"),
            ("/proc/sys/net/core/rmem_max", "67108864\n"),
        ];
        let current = current.map(|(path, value)| (path.to_owned(), value.to_owned())).into();
        let text = file(&specs, &current);
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "net/ipv4/tcp_rmem = 131072 524288 67108864",
                "net/core/rmem_max = 67108864",
                "net/ipv4/conf/eth0.5/rp_filter = 2"
            ]
        );
        assert!(text.starts_with("# useful: smallest, first and largest"));
    }
}
