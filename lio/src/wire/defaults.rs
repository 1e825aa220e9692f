//! What a fresh object's files hold: what need not be written, and what the fake shows. Kernels 6.1 to 6.12.

/// `core/*/*/attrib` of the block command set (`DA_*`, `target_core_base.h`) where the value does not depend on the device.
pub const DEVICE: &[(&str, &str)] = &[
    ("emulate_model_alias", "0"),
    ("emulate_dpo", "1"),
    ("emulate_fua_write", "1"),
    ("emulate_fua_read", "1"),
    ("emulate_write_cache", "0"),
    ("emulate_ua_intlck_ctrl", "0"),
    ("emulate_tas", "1"),
    ("emulate_tpu", "0"),
    ("emulate_tpws", "0"),
    ("emulate_caw", "1"),
    ("emulate_3pc", "1"),
    ("emulate_pr", "1"),
    ("emulate_rsoc", "1"),
    ("submit_type", "0"),
    ("pi_prot_type", "0"),
    ("pi_prot_format", "0"),
    ("pi_prot_verify", "0"),
    ("enforce_pr_isids", "1"),
    ("force_pr_aptpl", "0"),
    ("emulate_rest_reord", "0"),
    ("unmap_zeroes_data", "0"),
    ("alua_support", "1"),
    ("pgr_support", "1"),
];

/// Attributes of a device that follow from the device itself, read-only ones among them.
pub const DEVICE_OWN: &[&str] = &[
    "hw_block_size",
    "hw_max_sectors",
    "hw_queue_depth",
    "hw_pi_prot_type",
    "is_nonrot",
    "emulate_write_cache",
    "alua_support",
    "pgr_support",
    "emulate_dpo",
    "emulate_fua_read",
    "pi_prot_format",
];

/// Attributes of a device that are refused with EINVAL while it is exported (`export_count`, `target_core_configfs.c`).
pub const DEVICE_UNEXPORTED: &[&str] = &[
    "emulate_model_alias",
    "emulate_ua_intlck_ctrl",
    "emulate_tas",
    "pi_prot_type",
    "pi_prot_format",
    "force_pr_aptpl",
    "block_size",
    "queue_depth",
    "optimal_sectors",
    "unmap_zeroes_data",
];

/// Attributes of a device and the read-only one whose value they have until somebody changes them.
pub const DEVICE_FROM_HARDWARE: &[(&str, &str)] = &[
    ("block_size", "hw_block_size"),
    ("queue_depth", "hw_queue_depth"),
    ("optimal_sectors", "hw_max_sectors"),
];

/// `iscsi/*/tpgt_*/attrib` (`TA_*`, `iscsi_target_core.h`).
pub const GROUP: &[(&str, &str)] = &[
    ("authentication", "1"),
    ("login_timeout", "15"),
    ("netif_timeout", "2"),
    ("default_cmdsn_depth", "64"),
    ("generate_node_acls", "0"),
    ("cache_dynamic_acls", "0"),
    ("demo_mode_write_protect", "1"),
    ("prod_mode_write_protect", "0"),
    ("demo_mode_discovery", "1"),
    ("default_erl", "0"),
    ("t10_pi", "0"),
    ("fabric_prot_type", "0"),
    ("tpg_enabled_sendtargets", "1"),
    ("login_keys_workaround", "1"),
];

/// `iscsi/*/tpgt_*/param` (`iscsi_target_parameters.h`).
pub const PARAMETER: &[(&str, &str)] = &[
    ("AuthMethod", "CHAP"),
    ("HeaderDigest", "CRC32C,None"),
    ("DataDigest", "CRC32C,None"),
    ("MaxConnections", "1"),
    ("TargetAlias", "LIO Target"),
    ("InitialR2T", "Yes"),
    ("ImmediateData", "Yes"),
    ("MaxRecvDataSegmentLength", "8192"),
    ("MaxXmitDataSegmentLength", "262144"),
    ("MaxBurstLength", "262144"),
    ("FirstBurstLength", "65536"),
    ("DefaultTime2Wait", "2"),
    ("DefaultTime2Retain", "20"),
    ("MaxOutstandingR2T", "1"),
    ("DataPDUInOrder", "Yes"),
    ("DataSequenceInOrder", "Yes"),
    ("ErrorRecoveryLevel", "0"),
    ("IFMarker", "No"),
    ("OFMarker", "No"),
    ("IFMarkInt", "Reject"),
    ("OFMarkInt", "Reject"),
];

/// `acls/*/attrib` (`NA_*`, `iscsi_target_core.h`).
pub const ACL: &[(&str, &str)] = &[
    ("authentication", "-1"),
    ("dataout_timeout", "3"),
    ("dataout_timeout_retries", "5"),
    ("default_erl", "0"),
    ("nopin_timeout", "15"),
    ("nopin_response_timeout", "30"),
    ("random_datain_pdu_offsets", "0"),
    ("random_datain_seq_offsets", "0"),
    ("random_r2t_offsets", "0"),
];

/// The default of a name in one of the tables.
#[must_use]
pub fn of(table: &[(&'static str, &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}
