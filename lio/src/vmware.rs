//! What VMware ESXi asks of a target and of its disks.

use std::collections::BTreeMap;

use crate::name::Lun;
use crate::spec::{BackstoreSpec, TargetSpec};

/// The commands that an initiator may have in flight: what ESXi queues for a disk by itself.
const QUEUE_DEPTH: u16 = 128;

/// Negotiated at login (RFC 7143, 13): a first burst of 256 KiB goes out with the command, without a round trip.
const PARAMETERS: [(&str, &str); 6] = [
    ("InitialR2T", "No"),
    ("ImmediateData", "Yes"),
    ("FirstBurstLength", "262144"),
    ("MaxBurstLength", "524288"),
    ("MaxRecvDataSegmentLength", "262144"),
    ("MaxXmitDataSegmentLength", "262144"),
];

/// What ESXi hands over to a disk (VAAI), the attribute that it needs, and what it does without.
const OFFLOADS: [(&str, &str); 3] = [
    ("emulate_caw", "compare and write (ATS) is off: whole disks are reserved to lock a file"),
    ("emulate_3pc", "extended copy is off: ESXi copies disks itself, over the network and back"),
    ("max_write_same_len", "write same is off: ESXi sends zeros over the network"),
];

impl TargetSpec {
    /// Sets what VMware ESXi is served best with, where the specification does not say something else: compare and write (ATS) and extended
    /// copy, a queue of 128 commands for each initiator, large bursts without a round trip, and for each disk a product of its own, made of
    /// the last eight characters of its serial.
    ///
    /// Give each disk its serial, initiators and LUNs before; [`vmware_findings`](Self::vmware_findings) says what it cannot do for you.
    /// Space that guests free is given back with the attributes `emulate_tpu` and `emulate_tpws` 1, where the device below has discard.
    ///
    /// ```
    /// use lio::{AclSpec, BackstoreSpec, TargetSpec};
    /// let target = TargetSpec::new("iqn.2026-01.com.example:r0".parse()?)
    ///     .with_lun(0, BackstoreSpec::block("r0".parse()?, "/dev/drbd0").with_serial("0a1b2c3d4e5f".parse()?))
    ///     .with_acl(AclSpec::new("iqn.1998-01.com.vmware:esx1".parse()?))
    ///     .for_vmware();
    /// assert_eq!(target.luns[&0.into()].product.as_ref().map(|product| product.as_str()), Some("2c3d4e5f"));
    /// assert!(target.vmware_findings().is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "VAAI")]
    #[must_use]
    pub fn for_vmware(mut self) -> Self {
        let set = |values: &mut BTreeMap<String, String>, name: &str, value: &str| {
            values.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        };
        for (name, value) in PARAMETERS {
            set(&mut self.parameters, name, value);
        }
        set(&mut self.attributes, "default_cmdsn_depth", &QUEUE_DEPTH.to_string());
        for acl in self.acls.values_mut() {
            acl.queue_depth.get_or_insert(QUEUE_DEPTH);
        }
        for disk in self.luns.values_mut().filter(|disk| !disk.backing.is_passthrough()) {
            set(&mut disk.attributes, "emulate_caw", "1");
            set(&mut disk.attributes, "emulate_3pc", "1");
            if disk.product.is_none() {
                // The last: serials made in one go, or from names, begin alike.
                disk.product = disk.serial.as_ref().and_then(|serial| {
                    let serial = serial.to_string();
                    serial.get(serial.len().checked_sub(8)?..)?.parse().ok()
                });
            }
        }
        self
    }

    /// Says what of a target VMware ESXi would stumble over, a line each; empty if nothing. Reads nothing: it judges the specification.
    ///
    /// * Disks are told apart by the first eight characters of the product too, so these differ.
    /// * A disk has the same LUN number for all hosts that see it, and 512 bytes a block.
    /// * What ESXi would hand over is on (VAAI).
    #[must_use]
    pub fn vmware_findings(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut products = BTreeMap::new();
        for (lun, disk) in &self.luns {
            let seen: String = disk.shown_product().chars().take(8).collect();
            if let Some(other) = products.insert(seen.clone(), lun) {
                found.push(format!(
                    "LUN {other} and LUN {lun} are both called {seen:?} in the first 8 characters of the product; set one with with_product"
                ));
            }
            found.extend(of_disk(*lun, disk));
        }
        let mut numbers = BTreeMap::new();
        for acl in self.acls.values() {
            for (seen, mapped) in self.mapped(acl) {
                let (first, who) = *numbers.entry(mapped.target_lun).or_insert((seen, &acl.initiator));
                if first != seen {
                    found.push(format!(
                        "LUN {} is number {first} for {who} and {seen} for {}; hosts of a cluster need the same",
                        mapped.target_lun, acl.initiator
                    ));
                }
            }
        }
        found
    }
}

fn of_disk(lun: Lun, disk: &BackstoreSpec) -> Vec<String> {
    let is = |name: &str, value: &str| disk.attributes.get(name).is_some_and(|is| is == value);
    let mut found: Vec<_> = OFFLOADS
        .iter()
        .filter(|(name, _)| is(name, "0"))
        .map(|(name, without)| format!("LUN {lun}: {name} is 0: {without}"))
        .collect();
    if disk.attributes.contains_key("block_size") && !is("block_size", "512") {
        found.push(format!("LUN {lun}: ESXi takes iSCSI disks of 512 bytes a block only"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, AclSpec, UnitSerial};

    fn target() -> TargetSpec {
        let disk = |name: &str| {
            BackstoreSpec::block(name.parse().unwrap(), format!("/dev/{name}"))
                .with_serial(UnitSerial::derived_from(name))
        };
        let acl = |name: &str| AclSpec::new(format!("iqn.1998-01.com.vmware:{name}").parse().unwrap());
        TargetSpec::new("iqn.2026-01.lab:r".parse().unwrap())
            .with_lun(0, disk("r0"))
            .with_lun(1, disk("r1"))
            .with_acl(acl("esx1"))
            .with_acl(acl("esx2").with_queue_depth(32))
    }

    #[test]
    fn what_the_specification_says_stays() {
        let spec = target().with_parameter("MaxBurstLength", 1_048_576).for_vmware();
        spec.validate().unwrap();
        assert_eq!(spec.parameters["MaxBurstLength"], "1048576");
        assert_eq!(spec.parameters["FirstBurstLength"], "262144");
        let depths: Vec<_> = spec.acls.values().map(|acl| acl.queue_depth).collect();
        assert_eq!(depths, [Some(128), Some(32)]);
        assert_eq!(spec.clone().for_vmware(), spec);
        assert_eq!(spec.vmware_findings(), Vec::<String>::new());
    }

    #[test]
    fn what_vmware_would_stumble_over_is_found() {
        let found = target().vmware_findings();
        assert!(found.len() == 1 && found[0].contains("\"IBLOCK\""), "{found:?}");
        let mut spec = target().for_vmware();
        let product = spec.luns[&Lun::from(0)].product.clone().unwrap();
        let other = format!("{product} too");
        let disk = spec.luns.remove(&Lun::from(1)).unwrap();
        let disk = disk.with_product(other.parse().unwrap()).with_attribute("emulate_caw", 0);
        let spec = spec.with_lun(1, disk.with_attribute("block_size", 4096)).with_acl(
            AclSpec::new("iqn.1998-01.com.vmware:esx3".parse().unwrap()).with_lun(7, 0, Access::ReadWrite),
        );
        let found = spec.vmware_findings();
        for words in ["first 8 characters", "emulate_caw is 0", "512 bytes", "number 0 for", "7 for"] {
            assert!(found.iter().any(|line| line.contains(words)), "{words}: {found:#?}");
        }
        assert_eq!(found.len(), 4, "{found:#?}");
    }
}
