//! The steps that make targets, portal groups, LUNs and portals.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{Link, Planner, Step, authentication, conflict, target_path, values};
use crate::error::Result;
use crate::name::Lun;
use crate::spec::{Credentials, DemoMode, Fabric, TargetSpec};
use crate::state::{AuthState, BackstoreId, GroupState, State, TARGET};
use crate::wire::{attributes, portal_name};

/// The portal group of a specification, if it is there.
pub(super) fn of<'a>(state: &'a State, spec: &TargetSpec) -> Option<&'a GroupState> {
    state.target(spec.fabric, &spec.iqn)?.group(spec.tag)
}

pub(super) fn path(spec: &TargetSpec, group: Option<&GroupState>) -> String {
    let dir = group.map_or_else(|| format!("tpgt_{}", spec.tag), |group| group.dir.clone());
    format!("{}/{dir}", target_path(spec.fabric, &spec.iqn))
}

impl<'a> Planner<'a> {
    /// Makes fabric, target and portal group as far as missing, with attributes and parameters.
    pub(super) fn group(&mut self, spec: &'a TargetSpec, group: Option<&GroupState>) -> Result<()> {
        let path = path(spec, group);
        if !self.state.fabrics.contains(&spec.fabric) && self.fabrics.insert(spec.fabric) {
            // The kernel loads iscsi_target_mod and tcm_loop for these names (target_core_register_fabric).
            self.steps.push(Step::make(format!("{TARGET}/{}", spec.fabric)));
        }
        let target = target_path(spec.fabric, &spec.iqn);
        let made = |step: &Step| matches!(step, Step::MakeDir { path } if *path == target);
        if self.state.target(spec.fabric, &spec.iqn).is_none() && !self.steps.iter().rev().any(made) {
            self.steps.push(Step::make(&target));
        }
        if group.is_none() {
            self.steps.push(Step::make(&path));
        }
        let (have, parameters) = (group.map(|g| &g.attributes), group.map(|g| &g.parameters));
        // Attributes first: "authentication" edits AuthMethod (iscsi_target_tpg.c).
        self.steps.extend(values(&format!("{path}/attrib"), &spec.all_attributes(), have, attributes::GROUP));
        self.steps.extend(values(
            &format!("{path}/param"),
            &spec.parameters,
            parameters,
            attributes::PARAMETER,
        ));
        if spec.demo_mode == DemoMode::Allowed || spec.auth != Credentials::default() {
            let none = AuthState::default();
            let is = group.map_or(&none, |group| &group.auth);
            authentication(
                &format!("{path}/auth"),
                (spec.auth.chap(), spec.auth.mutual()),
                is,
                &mut self.steps,
            );
        }
        if let Some(id) = spec.port_id
            && group.and_then(|group| group.port_id) != Some(id)
        {
            let before = group.and_then(|group| group.port_id).map(|id| id.to_string());
            let step = Step::write(format!("{path}/rtpi"), id.to_string(), before);
            if group.is_some_and(|group| group.enabled) {
                let reason = "the relative port identifier changes only while the group is disabled; disable the target first";
                return Err(conflict(format!("target {}", spec.iqn), &step, reason));
            }
            self.steps.push(step);
        }
        if let Some(nexus) = &spec.nexus {
            let file = format!("{path}/nexus");
            match group.and_then(|group| group.nexus.as_ref()) {
                Some(is) if is == nexus => {}
                Some(is) => {
                    let reason = format!(
                        "its initiator is {is}, which changes only while it has no LUNs; remove the target first"
                    );
                    let step = Step::write(file, nexus.as_str(), None);
                    return Err(conflict(format!("target {}", spec.iqn), &step, reason));
                }
                None => self.steps.push(Step::write(file, nexus.as_str(), Some("NULL".to_owned()))),
            }
        }
        Ok(())
    }
}

/// Makes the LUNs' directories, then all their links at once, then puts them in their access groups.
pub(super) fn luns(
    spec: &TargetSpec,
    group: Option<&GroupState>,
    path: &str,
    disks: &BTreeMap<Lun, BackstoreId>,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let (mut links, mut groups) = (Vec::new(), Vec::new());
    for (lun, id) in disks {
        let dir = format!("{path}/lun/lun_{lun}");
        let name = spec.link_names.get(lun).map_or("backstore", |name| name.as_str());
        let link = Link::new(id.path(), format!("{dir}/{name}"));
        let is = group.and_then(|group| group.luns.get(lun));
        match is {
            None => {
                steps.push(Step::make(&dir));
                links.push(link);
            }
            Some(is) => match &is.backstore {
                None => links.push(link),
                Some(other) if other != id => {
                    let reason = format!(
                        "it exports {}/{} and shall export {}; initiators would find another disk under the same number. \
                         Remove the target, or use another LUN number",
                        other.adapter, other.name, id.name
                    );
                    return Err(conflict(format!("LUN {lun} of {}", spec.iqn), &Step::Link { link }, reason));
                }
                Some(_) => {}
            },
        }
        let fresh = is.is_none_or(|is| is.backstore.is_none());
        let now = is.filter(|_| !fresh).and_then(|is| is.alua_group.as_deref());
        let file = format!("{dir}/alua_tg_pt_gp");
        match (spec.lun_groups.get(lun), now) {
            (Some(wanted), now) if now != Some(wanted.as_str()) => {
                let before = (!fresh).then(|| now.unwrap_or("default_tg_pt_gp").to_owned());
                groups.push(vec![Step::write(file, wanted.as_str(), before)]);
            }
            (None, Some(now)) if now != "default_tg_pt_gp" => {
                groups.push(vec![Step::write(file, "default_tg_pt_gp", Some(now.to_owned()))]);
            }
            _ => {}
        }
    }
    steps.extend(Step::together(links.into_iter().map(|link| vec![Step::Link { link }])));
    steps.extend(Step::together(groups));
    Ok(())
}

/// Makes the portals.
pub(super) fn portals(
    state: &State,
    spec: &TargetSpec,
    group: Option<&GroupState>,
    path: &str,
    steps: &mut Vec<Step>,
) -> Result<()> {
    if spec.fabric != Fabric::Iscsi {
        return Ok(());
    }
    let target = state.target(spec.fabric, &spec.iqn);
    let siblings = target.map(|target| target.groups.as_slice()).unwrap_or_default();
    for portal in &spec.portals {
        let dir = format!("{path}/np/{}", portal_name(portal));
        let here = |group: &GroupState| group.portal_addresses().any(|address| same(&address, portal));
        let wanted = spec.transports.get(portal).copied().unwrap_or_default();
        let is = group.and_then(|g| g.portals.iter().find(|p| p.address.is_some_and(|a| same(&a, portal))));
        if is.is_none() {
            let step = Step::make(&dir);
            if let Some(other) = siblings.iter().find(|sibling| sibling.tag != spec.tag && here(sibling)) {
                let reason = format!(
                    "it is a portal of {} of the same target; a portal is in one group only",
                    other.dir
                );
                return Err(conflict(format!("portal {portal}"), &step, reason));
            }
            steps.push(step);
        }
        let now = is.map(|is| is.transport).unwrap_or_default();
        let dir = is.map_or(dir, |is| format!("{path}/np/{}", is.name));
        // A portal whose transport a specification does not name may be of another kind: only what is asked for is read.
        if now != wanted {
            steps.extend(
                now.file().map(|file| Step::write(format!("{dir}/{file}"), "0", Some("1".to_owned()))),
            );
            steps.extend(
                wanted.file().map(|file| Step::write(format!("{dir}/{file}"), "1", Some("0".to_owned()))),
            );
        }
    }
    Ok(())
}

pub(super) fn same(a: &SocketAddr, b: &SocketAddr) -> bool {
    a.ip() == b.ip() && a.port() == b.port()
}
