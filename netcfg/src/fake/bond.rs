//! A bond's options as the kernel holds them.

use std::collections::BTreeMap;

use super::{Fields, Link, Refusal};
use crate::BondMode;
use crate::bond::{BondAttribute, BondMoment, BondValue, BondWire, Encoded};

/// What `bond_setup` and `bond_init` give a new bond; those of 802.3ad only with its mode.
pub(super) fn defaults(mode: BondMode) -> BTreeMap<u16, Vec<u8>> {
    let miimon = if matches!(mode.number(), 4..=6) { 100 } else { 0 };
    let value = |attribute: BondAttribute| -> u32 {
        match attribute {
            BondAttribute::Miimon => miimon,
            BondAttribute::UseCarrier
            | BondAttribute::ResendIgmp
            | BondAttribute::PeerNotices
            | BondAttribute::LearnInterval
            | BondAttribute::PacketsPerPort
            | BondAttribute::LacpActive
            | BondAttribute::TlbDynamic => 1,
            BondAttribute::MissedMax => 2,
            BondAttribute::AdActorSystemPriority => 65_535,
            _ => 0,
        }
    };
    let only_lacp = |attribute| {
        matches!(
            attribute,
            BondAttribute::AdActorSystemPriority
                | BondAttribute::AdUserPortKey
                | BondAttribute::AdActorSystem
                | BondAttribute::CoupledControl
        )
    };
    BondAttribute::all()
        .filter(|info| !only_lacp(info.attribute) || mode == BondMode::Lacp)
        // Kernel 6.1 has no coupled_control.
        .filter(|info| info.attribute != BondAttribute::CoupledControl)
        .filter_map(|info| match info.wire {
            BondWire::U8 | BondWire::U16 | BondWire::U32 => {
                let value = BondValue::Number(value(info.attribute));
                match info.encode(&value) {
                    Encoded::Bytes(bytes) => Some((info.number, bytes)),
                    Encoded::Nest(_) => None,
                }
            }
            BondWire::Mac => Some((info.number, vec![0; 6])),
            // Without targets there is no nest.
            BondWire::Targets4 | BondWire::Targets6 => None,
        })
        .collect()
}

fn number(link: &Link, number: u16) -> u32 {
    link.bond.get(&number).map_or(0, |bytes| number_of(bytes))
}

fn mode_of(link: &Link) -> BondMode {
    BondMode::from_number(u8::try_from(number(link, 1)).unwrap_or_default())
}

/// Applies options in the kernel's order, and stops at the first that is refused: what came before stays.
/// `IFLA_BOND_PRIMARY`.
pub(super) const PRIMARY: u16 = 11;

pub(super) fn set(link: &mut Link, fields: &Fields, has_ports: bool) -> Result<(), Refusal> {
    if let Some(mode) = fields.data.get(&1) {
        if has_ports {
            return Err((libc::ENOTEMPTY, Some("unable to set option because the bond device has slaves")));
        }
        if link.up {
            return Err((libc::EBUSY, Some("unable to set option because the bond is up")));
        }
        let mode = BondMode::from_number(mode.first().copied().unwrap_or_default());
        link.bond = defaults(mode);
        link.bond.insert(1, vec![mode.number()]);
    }
    for info in BondAttribute::all() {
        let Some(payload) = fields.data.get(&info.number) else { continue };
        if info.attribute == BondAttribute::CoupledControl {
            // Above this kernel's last attribute: accepted, and nothing comes of it.
            continue;
        }
        match info.refusal(BondMoment::new(mode_of(link), link.up, has_ports)) {
            Some((errno @ libc::EACCES, _)) => return Err((errno, Some("option not supported in mode"))),
            Some((errno @ libc::EBUSY, _)) => {
                return Err((errno, Some("unable to set option because the bond is up")));
            }
            Some((errno, _)) => {
                return Err((errno, Some("unable to set option because the bond device has slaves")));
            }
            None => {}
        }
        let value = info.decode(payload).filter(|value| info.check(value).is_ok());
        let Some(value) = value else { return Err((libc::EINVAL, Some("invalid option value"))) };
        let miimon = number(link, 3);
        let set = number_of(payload);
        let (on, arp) = (set > 0, BondAttribute::ArpInterval.info().number);
        match info.attribute {
            BondAttribute::UpDelay | BondAttribute::DownDelay | BondAttribute::PeerNoticeDelay => {
                if miimon == 0 {
                    return Err((libc::EPERM, None));
                }
                link.bond.insert(info.number, (set / miimon * miimon).to_ne_bytes().to_vec());
                continue;
            }
            BondAttribute::Miimon => {
                // A new miimon rescales the delays it finds.
                for delay in BondAttribute::DELAYS.map(|delay| delay.info().number) {
                    let old = number(link, delay);
                    if let Some(times) = old.checked_div(miimon) {
                        link.bond.insert(delay, (times * set).to_ne_bytes().to_vec());
                    }
                }
                if on {
                    link.bond.insert(arp, vec![0; 4]);
                }
            }
            BondAttribute::ArpInterval if on => {
                if fields.data.get(&3).is_some_and(|miimon| number_of(miimon) > 0) {
                    return Err((libc::EINVAL, Some("ARP monitoring cannot be used with MII monitoring")));
                }
                link.bond.insert(3, vec![0; 4]);
            }
            BondAttribute::ArpTargets | BondAttribute::NsTargets => {
                if matches!(&value, BondValue::Addresses(all) if all.is_empty()) {
                    link.bond.remove(&info.number);
                    continue;
                }
            }
            _ => {}
        }
        link.bond.insert(info.number, payload.clone());
    }
    if let Some(primary) = fields.data.get(&PRIMARY) {
        link.bond.insert(PRIMARY, primary.clone());
    }
    Ok(())
}

/// A number of one, two or four bytes.
pub(super) fn number_of(bytes: &[u8]) -> u32 {
    match *bytes {
        [a] => a.into(),
        [a, b] => u16::from_ne_bytes([a, b]).into(),
        [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]),
        _ => 0,
    }
}
