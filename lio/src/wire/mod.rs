//! Texts of the kernel, without I/O: what configfs files say and what portal directories are called.

pub mod alua;
pub mod aptpl;
pub mod attributes;
pub mod info;
pub mod scst;
pub mod session;
pub mod tcp;

use std::net::SocketAddr;

/// The directory name of a portal: `192.0.2.1:3260`, `[2001:db8::1]:3260`. The kernel takes other spellings of the same IPv6 address for
/// another portal and then fails to bind it (`lio_target_call_addnptotpg`, `iscsi_target_configfs.c`), hence one canonical text.
#[must_use]
pub fn portal_name(portal: &SocketAddr) -> String {
    portal.to_string()
}

/// Reads the directory name of a portal; `None` for what is no address and port.
#[must_use]
pub fn parse_portal(name: &str) -> Option<SocketAddr> {
    name.parse().ok()
}

/// A number after a prefix, in the kernel's base 0: `lun_5`, `tpgt_0x10`, `tpgt_01` (octal).
#[must_use]
pub fn numbered(name: &str, prefix: &str) -> Option<u64> {
    let text = name.strip_prefix(prefix)?;
    match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => u64::from_str_radix(text.get(2..)?, 16).ok(),
        [b'0', _, ..] => u64::from_str_radix(text, 8).ok(),
        _ => text.parse().ok(),
    }
}

/// Takes the value out of `T10 VPD Unit Serial Number: VALUE`; `None` for an empty one (`target_core_configfs.c`).
#[must_use]
pub fn after_colon(text: &str) -> Option<String> {
    let value = text.split_once(':').map_or(text, |(_, value)| value).trim();
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portals_have_one_name() {
        for (text, name) in [
            ("10.1.24.10:3260", "10.1.24.10:3260"),
            ("[fd00:0:0:0:0:0:0:1]:3260", "[fd00::1]:3260"),
            ("[::]:3260", "[::]:3260"),
        ] {
            assert_eq!(portal_name(&parse_portal(text).expect(text)), name);
        }
        assert_eq!(parse_portal("iser"), None);
    }

    #[test]
    fn numbers_are_read_as_the_kernel_reads_them() {
        for (name, number) in
            [("lun_0", Some(0)), ("lun_17", Some(17)), ("lun_0x10", Some(16)), ("lun_010", Some(8))]
        {
            assert_eq!(numbered(name, "lun_"), number, "{name}");
        }
        assert_eq!(numbered("lun_x", "lun_"), None);
        assert_eq!(numbered("np", "lun_"), None);
    }

    #[test]
    fn a_serial_that_is_not_set_is_none() {
        assert_eq!(after_colon("T10 VPD Unit Serial Number: \n"), None);
        assert_eq!(after_colon("T10 VPD Unit Serial Number: ab:cd\n").as_deref(), Some("ab:cd"));
    }
}
