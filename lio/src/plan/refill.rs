//! The steps after `mkdir` that give an object back what it had: the undoing of removals.

use host::Secret;

use super::backstore::{alua_group, open};
use super::{Step, values};
use crate::name::ChapSecret;
use crate::spec::AluaGroupSpec;
use crate::state::{AclState, AuthState, BackstoreState, GroupState};
use crate::wire::attributes::{self, FROM_HARDWARE, Range};

fn credentials(dir: &str, is: &AuthState) -> Vec<Step> {
    let name = |file: &str, value: &Option<String>| {
        value.as_ref().map(|value| Step::write(format!("{dir}/{file}"), value, None))
    };
    let secret = |file: &str, secret: &Option<Secret>| {
        secret.as_ref().map(|secret| Step::WriteSecret {
            path: format!("{dir}/{file}"),
            secret: ChapSecret::from_kernel(secret.share()),
            before: None,
        })
    };
    [
        name("userid", &is.user),
        secret("password", &is.secret),
        name("userid_mutual", &is.mutual_user),
        secret("password_mutual", &is.mutual_secret),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What an ACL had.
pub(super) fn acl(dir: &str, is: &AclState) -> Vec<Step> {
    let mut steps = values(&format!("{dir}/attrib"), &is.attributes, None, attributes::ACL);
    steps.extend(credentials(&format!("{dir}/auth"), &is.auth));
    let depth =
        is.queue_depth.map(|depth| Step::write(format!("{dir}/cmdsn_depth"), depth.to_string(), None));
    steps.extend(depth);
    steps.extend(is.tag.as_ref().map(|tag| Step::write(format!("{dir}/tag"), tag, None)));
    steps
}

/// What a portal group had.
pub(super) fn group(path: &str, is: &GroupState) -> Vec<Step> {
    let mut steps = values(&format!("{path}/attrib"), &is.attributes, None, attributes::GROUP);
    let mut parameters = is.parameters.clone();
    // "authentication" and enable write this one themselves.
    parameters.retain(|name, value| name != "AuthMethod" || !matches!(value.as_str(), "CHAP,None" | "None"));
    steps.extend(values(&format!("{path}/param"), &parameters, None, attributes::PARAMETER));
    steps.extend(credentials(&format!("{path}/auth"), &is.auth));
    steps.extend(is.port_id.map(|id| Step::write(format!("{path}/rtpi"), id.to_string(), None)));
    steps.extend(is.nexus.as_ref().map(|nexus| Step::write(format!("{path}/nexus"), nexus.as_str(), None)));
    steps
}

/// What a backstore had; `None` for one that cannot be brought back.
pub(super) fn backstore(is: &BackstoreState) -> Option<Vec<Step>> {
    let path = is.id.path();
    let write = |file: &str, value: String| Step::write(format!("{path}/{file}"), value, None);
    let mut steps: Vec<_> = is.alias.iter().map(|alias| write("alias", alias.clone())).collect();
    if !is.enabled {
        return Some(steps);
    }
    let backing = is.backing.as_ref()?;
    steps.extend(open(&path, backing, is.access));
    let company = is.company.filter(|id| *id != u32::from(crate::CompanyId::default()));
    steps.extend(company.map(|id| write("wwn/company_id", format!("{id:#08x}"))));
    steps.extend(
        is.vendor.clone().filter(|v| v != "LIO-ORG" && !v.is_empty()).map(|v| write("wwn/vendor_id", v)),
    );
    let plugins_own = |product: &String| {
        matches!(product.as_str(), "" | "IBLOCK" | "FILEIO" | "RAMDISK-MCP" | "TCMU" | "USER")
    };
    steps.extend(is.product.clone().filter(|p| !plugins_own(p)).map(|p| write("wwn/product_id", p)));
    steps.extend(
        is.revision.clone().filter(|r| r != "4.0" && !r.is_empty()).map(|r| write("wwn/revision", r)),
    );
    steps.extend(is.serial.clone().map(|serial| write("wwn/vpd_unit_serial", serial)));
    if matches!(backing, crate::spec::Backing::Scsi { .. }) {
        steps.retain(|step| !step.path().contains("/wwn/"));
    }
    let table = backing.table();
    let unchanged = |name: &str, value: &str| {
        let hardware = FROM_HARDWARE.iter().find(|(own, _)| *own == name).map(|(_, hardware)| *hardware);
        hardware.and_then(|hardware| is.attributes.get(hardware)).is_some_and(|hardware| hardware == value)
    };
    let mut attributes = is.attributes.clone();
    attributes.retain(|name, value| {
        let written = attributes::of(table, name).is_some_and(|row| {
            !matches!(row.range, Range::Ignored | Range::ReadOnly) && row.errno != libc::ENOSYS
        });
        // What follows from the device comes back with it.
        let own = matches!(name.as_str(), "is_nonrot" | "emulate_write_cache" | "pi_prot_format");
        written && !own && !unchanged(name, value)
    });
    steps.extend(values(&format!("{path}/attrib"), &attributes, None, table));
    Some(steps)
}

/// What the access groups of a backstore had, but for their LUNs.
pub(super) fn alua(path: &str, is: &BackstoreState) -> Vec<(String, Vec<Step>)> {
    let groups = is.alua.iter().filter(|(name, _)| *name != "default_tg_pt_gp");
    groups
        .map(|(name, group)| {
            let dir = format!("{path}/alua/{name}");
            let restore = match group.id {
                Some(id) if id != 0 => {
                    let mut wanted = AluaGroupSpec::new(id);
                    wanted.attributes.clone_from(&group.attributes);
                    alua_group(&dir, &wanted, None)
                }
                _ => Vec::new(),
            };
            (dir, restore)
        })
        .collect()
}
