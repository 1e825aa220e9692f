//! From what is wanted and what is there to what is to be done; [`one`] is pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{Outcome, Planned, Purpose, Report};
use crate::error::{Error, Result};
use crate::header::{Found, Parsed};
use crate::spec::{MappingSpec, Place, Source};
use crate::state::MappingState;
use crate::{Luks, Uuid};

/// The headers that are needed: all disks' unless every volume is named by path or open already; and of which volumes they cannot be read.
pub(super) fn inventory(
    luks: &Luks,
    mappings: &[MappingState],
    specs: &[MappingSpec],
) -> Result<(Vec<Found>, BTreeMap<usize, Error>)> {
    let is_open = |spec: &MappingSpec| match &spec.source {
        Source::Uuid(uuid) => mappings.iter().any(|m| m.uuid.as_ref() == Some(uuid)),
        Source::Path(_) => true,
        Source::Label(_) => false,
    };
    let mut found = if specs.iter().all(is_open) { Vec::new() } else { luks.backend.scan(&luks.host)? };
    let mut failed = BTreeMap::new();
    for (number, spec) in specs.iter().enumerate() {
        if let Err(error) = spec.check() {
            failed.insert(number, error.into());
        }
        let Source::Path(device) = &spec.source else { continue };
        match luks.backend.look(&luks.host, Place { device, header: spec.header.as_deref() }) {
            Ok(one) => found.extend(one),
            Err(Error::Io { source, .. })
                if source.raw_os_error() == Some(libc::ENOENT) && spec.header.is_none() => {}
            Err(error) => drop(failed.insert(number, error)),
        }
    }
    Ok((found, failed))
}

/// What is to be done about one volume: open it, or nothing, for a reason.
#[allow(clippy::result_large_err)] // The large one is as good as the other.
pub(super) fn one(
    spec: &MappingSpec,
    mappings: &[MappingState],
    found: &[Found],
    purpose: Purpose,
) -> std::result::Result<Planned, Report> {
    let report = |found: Option<&Found>, outcome| Report {
        name: spec.name.clone(),
        device: found.map(|found| found.device.clone()),
        outcome,
    };
    let candidates = candidates(spec, found);
    let uuid = match (&spec.source, candidates.first().map(|found| &found.parsed)) {
        (Source::Uuid(uuid), _) => Some(uuid),
        (_, Some(Parsed::Header(header))) => Some(&header.uuid),
        _ => None,
    };
    let wants_name = purpose == Purpose::Open;
    if let Some(outcome) = uuid.and_then(|uuid| mapped(spec, uuid, mappings)).filter(|_| wants_name) {
        return Err(report(candidates.first().copied(), outcome));
    }
    if let Some(taken) = mappings.iter().find(|m| m.name == spec.name.as_str()).filter(|_| wants_name) {
        let what = taken
            .uuid
            .as_ref()
            .map_or("plain dm-crypt or another kind".to_owned(), |u| format!("volume {u}"));
        return Err(report(candidates.first().copied(), Outcome::NameTaken { what }));
    }
    // What a multipath map or a RAID holds shows the header of what is made of it: the one that nobody holds is meant.
    let free: Vec<&Found> = candidates.iter().copied().filter(|found| found.holders.is_empty()).collect();
    let chosen = match (free.as_slice(), candidates.as_slice()) {
        ([one], _) => *one,
        ([], []) => return Err(report(None, Outcome::Missing { have: have(found) })),
        ([], [held, ..]) if wants_name => {
            return Err(report(Some(*held), Outcome::Busy { holders: held.holders.clone() }));
        }
        ([], [held, ..]) => *held,
        (several, _) => {
            let devices = several.iter().map(|found| found.device.clone()).collect();
            return Err(report(None, Outcome::Ambiguous(devices)));
        }
    };
    match &chosen.parsed {
        Parsed::Header(header) => Ok(Planned {
            name: spec.name.clone(),
            device: chosen.device.clone(),
            flags: spec.flags,
            header: header.clone(),
            header_place: spec.header.clone(),
            keyslot: spec.keyslot,
        }),
        Parsed::NotLuks => Err(report(Some(chosen), Outcome::NotLuks)),
        Parsed::Damaged(copies) => Err(report(Some(chosen), Outcome::Damaged { reason: copies.to_string() })),
    }
}

/// What the mappings that are there say of a volume, if they do.
fn mapped(spec: &MappingSpec, uuid: &Uuid, mappings: &[MappingState]) -> Option<Outcome> {
    let ours = |m: &&MappingState| m.uuid.as_ref() == Some(uuid);
    let open = mappings
        .iter()
        .filter(ours)
        .find(|m| m.name == spec.name.as_str())
        .or_else(|| mappings.iter().find(ours))?;
    Some(match (&open.device, open.name == spec.name.as_str()) {
        (None, _) => Outcome::Zombie { open_as: open.name.clone() },
        (_, false) => Outcome::OpenAs(open.name.clone()),
        _ if open.suspended => Outcome::Suspended,
        _ => Outcome::AlreadyOpen,
    })
}

/// The disks that may be meant, each once.
fn candidates<'a>(spec: &MappingSpec, found: &'a [Found]) -> Vec<&'a Found> {
    let mut seen = BTreeSet::new();
    let is_meant = |found: &&Found| match (&spec.source, &found.parsed) {
        (Source::Path(path), _) => &found.device == path && found.header == spec.header,
        (Source::Uuid(uuid), Parsed::Header(header)) => &header.uuid == uuid,
        (Source::Label(label), Parsed::Header(header)) => &header.label == label && !label.is_empty(),
        _ => false,
    };
    found.iter().filter(is_meant).filter(|found| seen.insert(&found.device)).collect()
}

fn have(found: &[Found]) -> String {
    let said: Vec<String> = found
        .iter()
        .filter_map(|found| match &found.parsed {
            Parsed::Header(header) => Some(format!("{} on {}", header.uuid, found.device.display())),
            _ => None,
        })
        .collect();
    if said.is_empty() {
        "no disk has a LUKS header".to_owned()
    } else {
        format!("here: {}", said.join(", "))
    }
}
