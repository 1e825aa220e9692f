//! The steps that make ACLs.

use super::remove::shows_extra;
use super::{Link, Step, authentication, values};
use crate::name::Lun;
use crate::spec::{Access, TargetSpec};
use crate::state::{AuthState, GroupState};
use crate::wire::attributes;

/// Makes the ACLs with their passwords, then what they see, with all links at once.
pub(super) fn make(spec: &TargetSpec, group: Option<&GroupState>, path: &str, steps: &mut Vec<Step>) {
    let (mut stale, mut links, mut protect) = (Vec::new(), Vec::new(), Vec::new());
    // A LUN that lost its backstore lost what initiators saw of it too, although their links are still there.
    let relinked =
        |lun: Lun| group.and_then(|group| group.luns.get(&lun)).is_none_or(|lun| lun.backstore.is_none());
    for acl in spec.acls.values() {
        let dir = format!("{path}/acls/{}", acl.initiator);
        let is = group.and_then(|group| group.acls.get(&acl.initiator));
        if is.is_none() {
            steps.push(Step::make(&dir));
        }
        let have = is.map(|is| &is.attributes);
        steps.extend(values(&format!("{dir}/attrib"), &spec.acl_attributes(acl), have, attributes::ACL));
        let none = AuthState::default();
        let auth = is.map_or(&none, |is| &is.auth);
        authentication(&format!("{dir}/auth"), (acl.chap(), acl.mutual_chap()), auth, steps);
        if let Some(depth) = acl.queue_depth {
            // A fresh ACL has what default_cmdsn_depth says.
            let before = is.and_then(|is| is.queue_depth);
            if before != Some(depth) {
                let before = before.map(|depth| depth.to_string());
                steps.push(Step::write(format!("{dir}/cmdsn_depth"), depth.to_string(), before));
            }
        }
        if let Some(tag) = &acl.tag {
            let before = is.and_then(|is| is.tag.clone());
            if before.as_deref() != Some(tag.as_str()) {
                let before = before.unwrap_or_else(|| "NULL".to_owned());
                steps.push(Step::write(format!("{dir}/tag"), tag.as_str(), Some(before)));
            }
        }
        for (seen, mapped) in spec.mapped(acl) {
            let mapped_dir = format!("{dir}/lun_{seen}");
            let target = format!("{path}/lun/lun_{}", mapped.target_lun);
            let name = acl.link_names.get(&seen).map_or("lun", |name| name.as_str());
            let link = Link::new(target, format!("{mapped_dir}/{name}"));
            let now = is.and_then(|is| is.luns.get(&seen)).filter(|now| !shows_extra(now, spec));
            let mut protected = false;
            match now.map(|now| (&now.link, now.target_lun)) {
                None => {
                    steps.push(Step::make(&mapped_dir));
                    links.push(vec![Step::Link { link }]);
                }
                Some((None, _)) => links.push(vec![Step::Link { link }]),
                Some((Some(_), at)) if at == Some(mapped.target_lun) && !relinked(mapped.target_lun) => {
                    protected = now.is_some_and(|now| now.write_protected);
                }
                Some((Some(name), at)) => {
                    let at = at.unwrap_or(mapped.target_lun);
                    let old = Link::new(format!("{path}/lun/lun_{at}"), format!("{mapped_dir}/{name}"));
                    stale.push(vec![Step::Unlink { link: old, restore: Vec::new() }]);
                    links.push(vec![Step::Link { link }]);
                }
            }
            let wanted = mapped.access == Access::ReadOnly;
            if wanted != protected {
                let number = |flag: bool| u8::from(flag).to_string();
                let file = format!("{mapped_dir}/write_protect");
                protect.push(Step::write(file, number(wanted), Some(number(protected))));
            }
        }
    }
    steps.extend(Step::together(stale));
    steps.extend(Step::together(links));
    // After the links: before them the file has no LUN to speak of (ENODEV).
    steps.extend(protect);
}
