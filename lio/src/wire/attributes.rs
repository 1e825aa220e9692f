//! Every attribute LIO has: default, range, what the kernel answers beyond it, and when it can be written. Kernels 6.1 to 6.12.
//!
//! One table for all: specifications are checked against it, plans know from it what need not be written, the fake answers by it, and the
//! conformance suite checks each row on a real kernel. What is in no table is passed through as it is: a newer kernel may know it.

use std::fmt;

/// The values that an attribute takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Range {
    /// 0 or 1.
    Flag,
    /// A whole number from the first to the second.
    Number(i64, i64),
    /// One of these words.
    Words(&'static [&'static str]),
    /// Any text of one line, at most so many bytes.
    Text(usize),
    /// The kernel takes what is written and keeps what it has.
    Ignored,
    /// The kernel lets nobody write it.
    ReadOnly,
}

impl Range {
    /// Whether the kernel takes this value; the text as it is written, plain decimal for numbers.
    #[must_use]
    pub fn allows(self, value: &str) -> bool {
        match self {
            Self::Flag => matches!(value, "0" | "1"),
            Self::Number(least, most) => value.parse().is_ok_and(|n: i64| (least..=most).contains(&n)),
            Self::Words(words) => words.contains(&value),
            Self::Text(most) => !value.is_empty() && value.len() <= most,
            Self::Ignored => true,
            Self::ReadOnly => false,
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("0 or 1"),
            Self::Number(least, most) => write!(f, "{least} to {most}"),
            Self::Words(words) => f.write_str(&words.join(", ")),
            Self::Text(most) => write!(f, "one line of at most {most} bytes"),
            Self::Ignored => f.write_str("whatever it is, the kernel ignores it"),
            Self::ReadOnly => f.write_str("whatever the kernel says; it cannot be written"),
        }
    }
}

/// Which kernels have an attribute. What counts at run time is whether the file is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kernels {
    /// 6.1 and 6.12.
    All,
    /// 6.12, not yet 6.1.
    Newer,
    /// 6.1, no more 6.12.
    Older,
}

/// An attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attribute {
    /// The name of its file.
    pub name: &'static str,
    /// What a fresh object has; `None` where it follows from the device.
    pub default: Option<&'static str>,
    /// What it takes.
    pub range: Range,
    /// What the kernel answers to another value.
    pub errno: i32,
    /// Whether it can be written while a LUN exports the backstore; if not, the kernel answers EINVAL (`export_count`,
    /// `target_core_configfs.c`).
    pub while_exported: bool,
    /// Who has it.
    pub kernels: Kernels,
}

impl Attribute {
    const fn new(name: &'static str, default: &'static str, range: Range) -> Self {
        let (errno, kernels) = (libc::EINVAL, Kernels::All);
        Self { name, default: Some(default), range, errno, while_exported: true, kernels }
    }

    /// Of the device: its default is not ours to know.
    const fn device(name: &'static str, range: Range) -> Self {
        Self { default: None, ..Self::new(name, "", range) }
    }

    const fn unexported(self) -> Self {
        Self { while_exported: false, ..self }
    }

    const fn answers(self, errno: i32) -> Self {
        Self { errno, ..self }
    }

    const fn of(self, kernels: Kernels) -> Self {
        Self { kernels, ..self }
    }
}

/// The attributes of one directory.
pub type Table = &'static [Attribute];

const U32: Range = Range::Number(0, 4_294_967_295);
const FLAG: Range = Range::Flag;
const READ_ONLY: Range = Range::ReadOnly;
const YES_NO: Range = Range::Words(&["Yes", "No"]);
const DIGEST: Range = Range::Words(&["CRC32C,None", "CRC32C", "None", "None,CRC32C"]);
const LENGTH: Range = Range::Number(512, 16_777_215);
const SECONDS: Range = Range::Number(0, 3600);

/// `core/*/*/attrib` of the block command set: `iblock`, `fileio` and `rd_mcp` (`sbc_attrib_attrs`, `target_core_configfs.c`).
pub const DEVICE: Table = &[
    Attribute::new("emulate_model_alias", "0", FLAG).unexported(),
    Attribute::new("emulate_dpo", "1", Range::Ignored),
    Attribute::new("emulate_fua_write", "1", FLAG),
    Attribute::new("emulate_fua_read", "1", Range::Ignored),
    Attribute::device("emulate_write_cache", FLAG),
    Attribute::new("emulate_ua_intlck_ctrl", "0", Range::Number(0, 2)).unexported(),
    Attribute::new("emulate_tas", "1", FLAG).unexported(),
    Attribute::new("emulate_tpu", "0", FLAG),
    Attribute::new("emulate_tpws", "0", FLAG),
    Attribute::new("emulate_caw", "1", FLAG),
    Attribute::new("emulate_3pc", "1", FLAG),
    Attribute::new("emulate_pr", "1", FLAG),
    Attribute::new("emulate_rsoc", "1", FLAG).of(Kernels::Newer),
    Attribute::new("submit_type", "0", Range::Number(0, 2)).of(Kernels::Newer),
    Attribute::new("pi_prot_type", "0", Range::Words(&["0", "1", "3"])).unexported(),
    Attribute::new("pi_prot_format", "0", FLAG).unexported(),
    Attribute::new("pi_prot_verify", "0", FLAG),
    Attribute::new("enforce_pr_isids", "1", FLAG),
    Attribute::new("force_pr_aptpl", "0", FLAG).unexported(),
    Attribute::device("is_nonrot", FLAG),
    Attribute::new("emulate_rest_reord", "0", Range::Words(&["0"])).answers(libc::ENOSYS),
    Attribute::device("block_size", Range::Words(&["512", "1024", "2048", "4096"])).unexported(),
    Attribute::device("queue_depth", Range::Number(1, 4_294_967_295)).unexported(),
    Attribute::device("optimal_sectors", U32).unexported(),
    Attribute::device("max_unmap_lba_count", U32),
    Attribute::device("max_unmap_block_desc_count", U32),
    Attribute::device("unmap_granularity", U32),
    Attribute::device("unmap_granularity_alignment", U32),
    Attribute::device("max_write_same_len", U32),
    Attribute::device("unmap_zeroes_data", FLAG).unexported(),
    Attribute::new("alua_support", "1", Range::Words(&["1"])).answers(libc::ENOSYS),
    Attribute::new("pgr_support", "1", FLAG).answers(libc::ENOSYS),
    Attribute::device("hw_block_size", READ_ONLY).answers(libc::EACCES),
    Attribute::device("hw_max_sectors", READ_ONLY).answers(libc::EACCES),
    Attribute::device("hw_queue_depth", READ_ONLY).answers(libc::EACCES),
    Attribute::device("hw_pi_prot_type", READ_ONLY).answers(libc::EACCES),
];

/// `core/*/*/attrib` of pscsi and user (`passthrough_attrib_attrs`, and `tcmu_attrib_attrs` of `target_core_user.c`).
pub const PASSTHROUGH: Table = &[
    Attribute::new("emulate_pr", "1", FLAG),
    Attribute::device("alua_support", FLAG).answers(libc::ENOSYS),
    Attribute::device("pgr_support", FLAG).answers(libc::ENOSYS),
    Attribute::new("submit_type", "0", Range::Number(0, 2)).of(Kernels::Newer),
    Attribute::new("enforce_pr_isids", "1", FLAG),
    Attribute::new("force_pr_aptpl", "0", FLAG).unexported(),
    Attribute::device("hw_block_size", READ_ONLY).answers(libc::EACCES),
    Attribute::device("hw_max_sectors", READ_ONLY).answers(libc::EACCES),
    Attribute::device("hw_queue_depth", READ_ONLY).answers(libc::EACCES),
    Attribute::device("hw_pi_prot_type", READ_ONLY).answers(libc::EACCES),
    Attribute::device("cmd_time_out", U32).unexported(),
    Attribute::device("qfull_time_out", Range::Number(-1, 2_147_483)),
];

/// `core/*/*/alua/*`: an asymmetric access group (`target_core_alua_tg_pt_gp_attrs`). State, type and status are written as numbers and
/// read as words; [`number`](super::alua::number) turns them back.
pub const ALUA: Table = &[
    Attribute::new("alua_access_type", "3", Range::Number(0, 3)),
    Attribute::new("alua_support_transitioning", "1", FLAG),
    Attribute::new("alua_support_offline", "1", FLAG),
    Attribute::new("alua_support_lba_dependent", "0", FLAG),
    Attribute::new("alua_support_unavailable", "1", FLAG),
    Attribute::new("alua_support_standby", "1", FLAG),
    Attribute::new("alua_support_active_nonoptimized", "1", FLAG),
    Attribute::new("alua_support_active_optimized", "1", FLAG),
    Attribute::new("alua_write_metadata", "0", FLAG),
    Attribute::new("nonop_delay_msecs", "100", Range::Number(0, 10_000)),
    Attribute::new("trans_delay_msecs", "0", Range::Number(0, 30_000)),
    Attribute::new("implicit_trans_secs", "0", Range::Number(0, 255)),
    Attribute::new("preferred", "0", FLAG),
    Attribute::new("alua_access_state", "0", Range::Words(&["0", "1", "2", "3", "4", "14", "15"])),
    Attribute::new("alua_access_status", "0", Range::Number(0, 2)),
];

/// `iscsi/*/tpgt_*/attrib` (`TA_*`, `iscsi_target_core.h`, `iscsi_target_tpg.c`).
pub const GROUP: Table = &[
    Attribute::new("authentication", "1", FLAG),
    Attribute::new("login_timeout", "15", Range::Number(5, 30)),
    Attribute::new("netif_timeout", "2", Range::Number(2, 15)).of(Kernels::Older),
    Attribute::new("default_cmdsn_depth", "64", Range::Number(1, 512)),
    Attribute::new("generate_node_acls", "0", FLAG),
    Attribute::new("cache_dynamic_acls", "0", FLAG),
    Attribute::new("demo_mode_write_protect", "1", FLAG),
    Attribute::new("prod_mode_write_protect", "0", FLAG),
    Attribute::new("demo_mode_discovery", "1", FLAG),
    Attribute::new("default_erl", "0", Range::Number(0, 2)),
    Attribute::new("t10_pi", "0", FLAG),
    Attribute::new("fabric_prot_type", "0", Range::Words(&["0", "1", "3"])),
    Attribute::new("tpg_enabled_sendtargets", "1", FLAG),
    Attribute::new("login_keys_workaround", "1", FLAG),
];

/// `iscsi/*/tpgt_*/param`, the keys of RFC 7143 (`iscsi_target_parameters.h`).
pub const PARAMETER: Table = &[
    Attribute::new("AuthMethod", "CHAP", Range::Words(&["CHAP", "None", "CHAP,None", "None,CHAP"])),
    Attribute::new("HeaderDigest", "CRC32C,None", DIGEST),
    Attribute::new("DataDigest", "CRC32C,None", DIGEST),
    Attribute::new("MaxConnections", "1", Range::Number(1, 65_535)),
    Attribute::new("TargetAlias", "LIO Target", Range::Text(255)),
    Attribute::new("InitialR2T", "Yes", YES_NO),
    Attribute::new("ImmediateData", "Yes", YES_NO),
    Attribute::new("MaxRecvDataSegmentLength", "8192", LENGTH),
    Attribute::new("MaxXmitDataSegmentLength", "262144", LENGTH),
    Attribute::new("MaxBurstLength", "262144", LENGTH),
    Attribute::new("FirstBurstLength", "65536", LENGTH),
    Attribute::new("DefaultTime2Wait", "2", SECONDS),
    Attribute::new("DefaultTime2Retain", "20", SECONDS),
    Attribute::new("MaxOutstandingR2T", "1", Range::Number(1, 65_535)),
    Attribute::new("DataPDUInOrder", "Yes", YES_NO),
    Attribute::new("DataSequenceInOrder", "Yes", YES_NO),
    Attribute::new("ErrorRecoveryLevel", "0", Range::Number(0, 2)),
    Attribute::new("IFMarker", "No", YES_NO),
    Attribute::new("OFMarker", "No", YES_NO),
    Attribute::new("IFMarkInt", "Reject", Range::Text(255)),
    Attribute::new("OFMarkInt", "Reject", Range::Text(255)),
];

/// `acls/*/attrib` (`NA_*`, `iscsi_target_core.h`, `iscsi_target_nodeattrib.c`).
pub const ACL: Table = &[
    Attribute::new("authentication", "-1", Range::Number(-1, 1)),
    Attribute::new("dataout_timeout", "3", Range::Number(2, 60)),
    Attribute::new("dataout_timeout_retries", "5", Range::Number(1, 15)),
    Attribute::new("default_erl", "0", Range::Number(0, 2)),
    Attribute::new("nopin_timeout", "15", Range::Number(0, 60)),
    Attribute::new("nopin_response_timeout", "30", Range::Number(3, 60)),
    Attribute::new("random_datain_pdu_offsets", "0", FLAG),
    Attribute::new("random_datain_seq_offsets", "0", FLAG),
    Attribute::new("random_r2t_offsets", "0", FLAG),
];

/// Attributes of a device and the read-only one whose value they have until somebody changes them.
pub const FROM_HARDWARE: &[(&str, &str)] = &[
    ("block_size", "hw_block_size"),
    ("queue_depth", "hw_queue_depth"),
    ("optimal_sectors", "hw_max_sectors"),
];

/// The row of a name.
#[must_use]
pub fn of(table: Table, name: &str) -> Option<&'static Attribute> {
    table.iter().find(|known| known.name == name)
}

/// The default of a name.
#[must_use]
pub fn default_of(table: Table, name: &str) -> Option<&'static str> {
    of(table, name)?.default
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_in_their_ranges_and_names_are_there_once() {
        for table in [DEVICE, PASSTHROUGH, ALUA, GROUP, PARAMETER, ACL] {
            for (place, row) in table.iter().enumerate() {
                let default = row.default.unwrap_or("1");
                assert!(row.default.is_none() || row.range.allows(default), "{row:?}");
                assert!(
                    !row.range.allows("a\u{1}b") || matches!(row.range, Range::Text(_) | Range::Ignored),
                    "{row:?}"
                );
                assert_eq!(table.iter().position(|other| other.name == row.name), Some(place), "{row:?}");
                assert!(!row.range.to_string().is_empty());
            }
        }
    }
}
