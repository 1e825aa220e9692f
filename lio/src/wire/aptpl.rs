//! Persistent reservations as the kernel keeps them in a file (`<dbroot>/pr/aptpl_SERIAL`) and takes them back (`pr/res_aptpl_metadata`):
//! `core_scsi3_update_aptpl_buf`, `target_core_pr.c`, and `target_pr_res_aptpl_metadata_store`, `target_core_configfs.c`.

use std::collections::BTreeMap;

use host::{Iqn, ParseError};

/// A registration of an initiator with a disk, and whether it holds the reservation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Registration {
    /// Who registered.
    pub initiator: Iqn,
    /// Its part of the session identifier, in hexadecimal, where it was part of the registration.
    pub isid: Option<String>,
    /// The key.
    pub key: u64,
    /// The type of reservation that it holds (SPC-4, table 63: 1, 3 and 5 to 8); `None` if it holds none.
    pub holds: Option<u8>,
    /// Whether it is registered at all target ports.
    pub all_ports: bool,
    /// The LUN as the initiator sees it.
    pub mapped_lun: u64,
    /// The target it came through.
    pub target: Iqn,
    /// The tag of the portal group it came through.
    pub tag: u16,
    /// The relative port identifier it came through. The kernel takes that of the group instead.
    pub port_id: u16,
    /// The LUN of the target.
    pub lun: u64,
}

impl Registration {
    /// The one line that is written to `pr/res_aptpl_metadata`.
    ///
    /// The type is in decimal: the kernel writes `08` into its file and reads that as a wrong octal number.
    #[must_use]
    pub fn metadata(&self) -> String {
        let isid = self.isid.as_ref().map_or_else(String::new, |isid| format!(",initiator_sid={isid}"));
        let (holder, kind) = (u8::from(self.holds.is_some()), self.holds.unwrap_or(0));
        let kind = if holder == 1 { format!(",res_type={kind},res_scope=0") } else { String::new() };
        format!(
            "initiator_fabric=iSCSI,initiator_node={}{isid},sa_res_key={},res_holder={holder}{kind},res_all_tg_pt={},mapped_lun={},\
             target_fabric=iSCSI,target_node={},tpgt={},port_rtpi={},target_lun={}",
            self.initiator,
            self.key,
            u8::from(self.all_ports),
            self.mapped_lun,
            self.target,
            self.tag,
            self.port_id,
            self.lun
        )
    }
}

/// Reads the file. One without registrations gives none.
///
/// # Errors
/// A line that is no `KEY=VALUE`, a number that is none, or a registration without one of its parts.
pub fn parse(text: &str) -> Result<Vec<Registration>, ParseError> {
    let bad = |line: &str, reason: &str| ParseError::new("file of persistent reservations", line, reason);
    let mut found = Vec::new();
    let mut values: Option<BTreeMap<&str, &str>> = None;
    // The kernel writes the end of its string too.
    for line in text.split(['\n', '\0']).map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with("PR_REG_START:") {
            values = Some(BTreeMap::new());
        } else if line.starts_with("PR_REG_END:") {
            let values = values.take().ok_or_else(|| bad(line, "it ends what did not begin"))?;
            found.push(
                registration(&values)
                    .map_err(|key| bad(line, &format!("the registration above has no valid {key}")))?,
            );
        } else if let Some(values) = &mut values {
            let (key, value) = line.split_once('=').ok_or_else(|| bad(line, "KEY=VALUE is expected"))?;
            values.insert(key, value);
        }
    }
    match values {
        Some(_) => Err(bad("", "the last registration does not end; the file was cut off")),
        None => Ok(found),
    }
}

fn registration(values: &BTreeMap<&str, &str>) -> Result<Registration, &'static str> {
    let text = |key: &'static str| values.get(key).copied().ok_or(key);
    let number = |key: &'static str| text(key)?.parse::<u64>().map_err(|_| key);
    let small = |key: &'static str| number(key).and_then(|n| u16::try_from(n).map_err(|_| key));
    let holds = match number("res_holder")? {
        0 => None,
        // In hexadecimal, of two digits.
        _ => Some(u8::from_str_radix(text("res_type")?, 16).map_err(|_| "res_type")?),
    };
    Ok(Registration {
        initiator: Iqn::from_kernel(text("initiator_node")?),
        isid: values.get("initiator_sid").map(|isid| (*isid).to_owned()),
        key: number("sa_res_key")?,
        holds,
        all_ports: number("res_all_tg_pt")? != 0,
        mapped_lun: number("mapped_lun")?,
        target: Iqn::from_kernel(text("target_node")?),
        tag: small("tpgt")?,
        port_id: small("port_rtpi")?,
        lun: number("target_lun")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.1 writes it.
    const FILE: &str = "PR_REG_START: 0\ninitiator_fabric=iSCSI\ninitiator_node=iqn.2026-01.lab:a\ninitiator_sid=00023d010000\nsa_res_key=4660\n\
        res_holder=1\nres_type=08\nres_scope=00\nres_all_tg_pt=0\nmapped_lun=3\ntarget_fabric=iSCSI\ntarget_node=iqn.2026-01.lab:t\ntpgt=1\n\
        port_rtpi=1\ntarget_lun=0\nPR_REG_END: 0\n\
        PR_REG_START: 1\ninitiator_fabric=iSCSI\ninitiator_node=iqn.2026-01.lab:b\nsa_res_key=1\nres_holder=0\nres_all_tg_pt=1\nmapped_lun=0\n\
        target_fabric=iSCSI\ntarget_node=iqn.2026-01.lab:t\ntpgt=1\nport_rtpi=1\ntarget_lun=0\nPR_REG_END: 1\n\0";

    #[test]
    fn the_kernels_file_is_read_and_given_back_in_its_own_words() {
        let found = parse(FILE).expect("as the kernel writes it");
        assert_eq!((found.len(), found[0].key, found[0].holds, found[1].holds), (2, 0x1234, Some(8), None));
        assert_eq!((found[0].isid.as_deref(), found[1].isid.as_deref()), (Some("00023d010000"), None));
        assert!(found[1].all_ports && found[0].mapped_lun == 3);
        let line = found[0].metadata();
        for part in [
            "initiator_sid=00023d010000,",
            "sa_res_key=4660,",
            "res_holder=1,res_type=8,res_scope=0,",
            "mapped_lun=3,",
        ] {
            assert!(line.contains(part), "{line}");
        }
        assert!(!found[1].metadata().contains("res_type") && line.len() < 4096);
        assert_eq!(parse("No Registrations or Reservations\0"), Ok(Vec::new()));
    }

    #[test]
    fn what_was_cut_off_is_no_registration() {
        for at in 1..FILE.len() - 60 {
            let cut = FILE.get(..at).expect("ASCII");
            let found = parse(cut);
            assert!(found.is_err() || found.is_ok_and(|found| found.len() < 2), "{cut:?}");
        }
        assert!(parse("PR_REG_START: 0\nnonsense\n").is_err());
    }
}
