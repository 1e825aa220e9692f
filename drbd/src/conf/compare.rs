//! Two nodes' configurations side by side.

use super::check::wrong;
use super::lint::is_secret;
use super::model::Resolved;
use super::{Conf, Finding, Severity};

impl Conf {
    /// Finds in what the configuration of another node differs: resources, hosts, addresses, disks, options with what they inherit. Comments,
    /// order and spelling do not count. Places are those of this configuration, [`Finding::also`] is in the other one.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Vec<Finding> {
        let (ours, theirs) = (self.resolved(), other.resolved());
        let mut findings = Vec::new();
        for resource in &ours {
            match theirs.iter().find(|other| other.name == resource.name) {
                None => {
                    let what = format!("the other node has no resource {}", resource.name);
                    findings.push(wrong(resource.at, 1, "only-here", what, "copy it to the other node"));
                }
                Some(other) => both(resource, other, &mut findings),
            }
        }
        for resource in theirs.iter().filter(|other| ours.iter().all(|our| our.name != other.name)) {
            let what = format!("only the other node has the resource {}", resource.name);
            findings.push(wrong(resource.at, 1, "only-there", what, "copy it to this node"));
        }
        findings.iter_mut().for_each(|finding| finding.severity = Severity::Warning);
        findings
    }
}

fn both(ours: &Resolved<'_>, theirs: &Resolved<'_>, findings: &mut Vec<Finding>) {
    let name = &ours.name;
    let names = |of: &Resolved<'_>| -> std::collections::BTreeSet<_> {
        of.sets.iter().map(|set| (set.group, set.name())).collect()
    };
    for (group, option) in names(ours).union(&names(theirs)) {
        let (here, there) = (ours.set(*group, option), theirs.set(*group, option));
        let values = [here, there].map(|set| set.map(|set| set.value.as_ref()));
        if values.first() == values.last() {
            continue;
        }
        let is_secret = here.or(there).is_some_and(|set| is_secret(set.known));
        let shown = |value: Option<&str>| match value {
            None => "not set".to_owned(),
            Some(_) if is_secret => "another value".to_owned(),
            Some(value) => value.to_owned(),
        };
        let [here_value, there_value] = values;
        let what = format!(
            "{name}: {option} is {} here and {} on the other node",
            shown(here_value),
            shown(there_value)
        );
        let at = here.map_or(ours.at, |set| set.at);
        let also = there.map_or(theirs.at, |set| set.at).place(0);
        findings
            .push(Finding { also: Some(also), ..wrong(at, 0, "options-differ", what, "make them the same") });
    }
    for node in &ours.nodes {
        let twin = theirs.nodes.iter().find(|other| other.names == node.names);
        let host = node.names.join(" ");
        let Some(twin) = twin else {
            let what = format!("{name}: the other node's file has no host {host}");
            findings.push(wrong(node.at, 1, "hosts-differ", what, "make them the same"));
            continue;
        };
        let volumes = |n: &super::model::Node<'_>| -> Vec<_> {
            n.volumes
                .iter()
                .map(|v| (v.number, v.minor, v.disk.clone().map(|d| d.into_owned()), v.meta.clone()))
                .collect()
        };
        if node.address != twin.address || node.node_id != twin.node_id || volumes(node) != volumes(twin) {
            let what =
                format!("{name}: the host {host} has another address, node-id or volumes on the other node");
            let also = Some(twin.at.place(1));
            findings.push(Finding { also, ..wrong(node.at, 1, "hosts-differ", what, "make them the same") });
        }
    }
}
