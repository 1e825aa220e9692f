//! What a configuration says that works and should not be so: combinations that lose data, what one of the generations does not know,
//! what two hosts disagree on.

use std::collections::HashMap;

use super::check::wrong;
use super::grammar::Known;
use super::model::{Group, Node, Resolved, Set};
use super::{At, Conf, Finding, Severity};
use crate::wire::table::Kind as Values;

impl Conf {
    /// Finds what is allowed and unwise, and all that [`check`](Self::check) finds; by place.
    ///
    /// Told are: writes that count as done while they are in a volatile cache (`no-flushes`), order that nobody keeps (`no-ordering`), two
    /// Primaries, no fencing, fencing without its handler, secrets in clear text and without use, digests meant for tests, time-outs that
    /// contradict each other, options that only one generation of DRBD knows, hosts without an address, disk or device, devices, disks and
    /// addresses that are given to two.
    #[must_use]
    pub fn lint(&self) -> Vec<Finding> {
        let mut findings = self.check();
        self.generations(&mut findings);
        let (resolved, is_for_9) = (self.resolved(), self.is_for_9());
        for resource in &resolved {
            safety(resource, &mut findings);
            connection(resource, &mut findings);
            hosts(resource, is_for_9, &mut findings);
        }
        taken_twice(&resolved, &mut findings);
        findings.sort_by(|a, b| (&a.place, a.code).cmp(&(&b.place, b.code)));
        // What stands in common is found once for each resource.
        findings.dedup();
        findings
    }

    /// Options that only one generation knows.
    fn generations(&self, findings: &mut Vec<Finding>) {
        let is_for_9 = self.is_for_9();
        let tops = self.tops();
        let bodies = tops.iter().filter(|at| matches!(at.statement.keyword(), "common" | "resource"));
        for set in bodies.flat_map(|at| super::model::sets(*at)) {
            let Known::Row(row) = set.known else { continue };
            let name = row.name;
            if row.in_9.is_none() && name != "fencing" {
                let what = format!("{name} is known to DRBD 8.4 only: drbdadm of 9 refuses the file");
                let fix = "remove it (Conf::to_9 does)";
                findings.push(about(&set, Severity::Warning, "only-in-84", what, fix));
            } else if !row.in_84 && !is_for_9 && name != "fencing" {
                let what =
                    format!("{name} is known to DRBD 9 only: the DRBD 8.4 in the kernel has no such option");
                findings.push(about(&set, Severity::Warning, "only-in-9", what, "remove it, or use DRBD 9"));
            }
        }
    }
}

fn about(
    set: &Set<'_>,
    severity: Severity,
    code: &'static str,
    what: impl Into<String>,
    fix: impl Into<String>,
) -> Finding {
    Finding { severity, ..wrong(set.at, 0, code, what, fix) }
}

/// Where the option stands, else the resource.
fn place<'a>(resource: &Resolved<'a>, group: Group, name: &str) -> At<'a> {
    resource.set(group, name).map_or(resource.at, |set| set.at)
}

fn safety(resource: &Resolved<'_>, findings: &mut Vec<Finding>) {
    let disk = |name: &str| resource.value(Group::Disk, name);
    let net = |name: &str| resource.value(Group::Net, name);
    let protocol = net("protocol").to_ascii_uppercase();
    let mut danger = |at: At<'_>, code, what: String, fix: &str, also: Option<At<'_>>| {
        let also = also.map(|at| at.place(0));
        findings.push(Finding { severity: Severity::Danger, also, ..wrong(at, 0, code, what, fix) });
    };
    let (flushes, barrier) =
        (place(resource, Group::Disk, "disk-flushes"), resource.set(Group::Disk, "disk-barrier"));
    if disk("disk-flushes") == "no" && disk("disk-barrier") == "no" {
        let what = match protocol.as_str() {
            "C" => {
                "no flushes and no barriers: a write counts as done while it is in the caches of both disks"
                    .to_owned()
            }
            other => format!(
                "protocol {other} with disk-flushes no and disk-barrier no: a write counts as done while it is in this node's disk cache and in \
                 the peer's {}; a power failure of both nodes loses what was acknowledged, and one of a node alone may lose what the other \
                 believes it has",
                if other == "B" { "memory" } else { "queue or on the wire" }
            ),
        };
        let fix = "only with caches that a battery keeps on both nodes; else remove \"disk-flushes no\", and use protocol C";
        danger(flushes, "no-flushes", what, fix, barrier.map(|set| set.at));
    }
    if disk("md-flushes") == "no" {
        let what =
            "md-flushes no: after a power failure the metadata may say that data is the same which is not"
                .to_owned();
        let at = place(resource, Group::Disk, "md-flushes");
        danger(at, "no-md-flushes", what, "only with a cache that a battery keeps", None);
    }
    if disk("disk-drain") == "no" {
        let what = "disk-drain no: nothing keeps dependent writes in order on the peer".to_owned();
        danger(place(resource, Group::Disk, "disk-drain"), "no-ordering", what, "remove it", None);
    }
    if disk("al-updates") == "no" {
        let what = "al-updates no: after a crash of the Primary everything is synced again".to_owned();
        danger(place(resource, Group::Disk, "al-updates"), "no-activity-log", what, "remove it", None);
    }
    let fencing = fencing(resource);
    if net("allow-two-primaries") == "yes" {
        let at = place(resource, Group::Net, "allow-two-primaries");
        let what =
            "two Primaries: without a cluster file system the data is destroyed at the first mount on both"
                .to_owned();
        let fix = "remove it, unless a cluster file system with fencing is on the device";
        danger(at, "two-primaries", what, fix, None);
        if fencing.0 != "resource-and-stonith" {
            let what =
                "two Primaries without fencing resource-and-stonith: a lost connection is a split brain"
                    .to_owned();
            danger(
                at,
                "two-primaries-unfenced",
                what,
                "set fencing resource-and-stonith and a fence-peer handler",
                None,
            );
        }
        if protocol != "C" {
            let what = format!("two Primaries need protocol C, not {protocol}");
            findings.push(wrong(at, 0, "two-primaries-protocol", what, "set protocol C"));
        }
    }
    match fencing.0.as_str() {
        "dont-care" => {
            let what = "no fencing: a node that loses its peer writes on, and so may the other: split brain"
                .to_owned();
            let fix = "set fencing resource-only or resource-and-stonith with a fence-peer handler, or let one manager decide who is Primary";
            findings
                .push(Finding { severity: Severity::Note, ..wrong(resource.at, 1, "no-fencing", what, fix) });
        }
        policy => {
            let has_handler = resource.set(Group::Handlers, "fence-peer").is_some();
            let at = fencing.1.unwrap_or(resource.at);
            if !has_handler {
                let what = format!("fencing {policy} without a handler: nobody fences");
                let fix = "add fence-peer to handlers { }";
                findings.push(Finding {
                    severity: Severity::Warning,
                    ..wrong(at, 0, "no-fence-handler", what, fix)
                });
            }
            if policy == "resource-and-stonith" && protocol == "A" {
                let what = "fencing resource-and-stonith needs protocol B or C";
                findings.push(wrong(at, 0, "stonith-protocol", what, "set protocol C"));
            }
        }
    }
}

/// The fencing policy: 8.4 has it among the disk's options, 9 among the connection's.
fn fencing<'a>(resource: &Resolved<'a>) -> (String, Option<At<'a>>) {
    let set = resource.set(Group::Net, "fencing").or_else(|| resource.set(Group::Disk, "fencing"));
    set.map_or(("dont-care".to_owned(), None), |set| (set.value.to_ascii_lowercase(), Some(set.at)))
}

fn connection(resource: &Resolved<'_>, findings: &mut Vec<Finding>) {
    let net = |name: &str| resource.value(Group::Net, name);
    let number = |name: &str| net(name).parse::<u32>().unwrap_or_default();
    if let Some(set) = resource.set(Group::Net, "shared-secret") {
        if net("cram-hmac-alg").is_empty() {
            let what = "shared-secret without cram-hmac-alg: nobody is asked for it";
            findings.push(about(set, Severity::Warning, "unused-secret", what, "add cram-hmac-alg sha256"));
        }
        let what = "a secret in clear text";
        let fix = "let only root read the file (mode 0600), and keep it out of version control";
        findings.push(about(set, Severity::Note, "secret-in-clear", what, fix));
    } else if let Some(set) = resource.set(Group::Net, "cram-hmac-alg").filter(|set| !set.value.is_empty()) {
        let what =
            "cram-hmac-alg without shared-secret: the kernel refuses the connection or authenticates nobody";
        findings.push(about(set, Severity::Warning, "no-secret", what, "add shared-secret"));
    }
    if let Some(set) = resource.set(Group::Net, "data-integrity-alg").filter(|set| !set.value.is_empty()) {
        let what =
            "data-integrity-alg is for tests: a buffer that changes while it is sent ends the connection";
        findings.push(about(
            set,
            Severity::Warning,
            "integrity-in-use",
            what,
            "remove it; verify-alg compares the disks",
        ));
    }
    for name in ["ping-int", "connect-int"] {
        if number("timeout") >= number(name).saturating_mul(10) {
            let what =
                format!("timeout {} (0.1 s) is not less than {name} {} (s)", number("timeout"), number(name));
            let at = place(resource, Group::Net, "timeout");
            let fix = format!("set timeout below {}", number(name).saturating_mul(10));
            findings.push(Finding { severity: Severity::Warning, ..wrong(at, 0, "timeouts", what, fix) });
        }
    }
    if number("ping-timeout") > number("ping-int").saturating_mul(10) {
        let what = format!(
            "ping-timeout {} (0.1 s) is longer than ping-int {} (s)",
            number("ping-timeout"),
            number("ping-int")
        );
        let at = place(resource, Group::Net, "ping-timeout");
        findings.push(Finding {
            severity: Severity::Warning,
            ..wrong(at, 0, "ping-timeout", what, "shorten it")
        });
    }
    if net("on-congestion") == "pull-ahead" && net("protocol") != "a" {
        let at = place(resource, Group::Net, "on-congestion");
        findings.push(wrong(
            at,
            0,
            "pull-ahead-protocol",
            "on-congestion pull-ahead needs protocol A",
            "set protocol A",
        ));
    }
    for (policy, harmless) in [("after-sb-1pri", "violently-as0p"), ("after-sb-2pri", "violently-as0p")] {
        if net(policy) == harmless {
            let at = place(resource, Group::Net, policy);
            let what =
                format!("{policy} violently-as0p throws away what a Primary has written, while it is used");
            findings.push(Finding {
                severity: Severity::Danger,
                ..wrong(at, 0, "violent-recovery", what, "use disconnect")
            });
        }
    }
}

fn hosts(resource: &Resolved<'_>, is_for_9: bool, findings: &mut Vec<Finding>) {
    // What drbdsetup shows has this node only.
    if resource.nodes.iter().any(|node| node.at.statement.keyword() == "_this_host") {
        return;
    }
    let is_stacked = resource.at.block().any(|at| at.statement.keyword() == "stacked-on-top-of");
    let has_template = resource.at.block().any(|at| at.statement.keyword() == "template-file");
    if resource.nodes.len() < 2 && !is_stacked && !has_template {
        let what = format!("{} has {} host(s); replication takes two", resource.name, resource.nodes.len());
        findings.push(Finding {
            severity: Severity::Warning,
            ..wrong(resource.at, 1, "too-few-hosts", what, "add the section \"on NAME { }\" of each node")
        });
    }
    let mut first: Option<(&Node<'_>, Vec<u16>)> = None;
    let mut ids: HashMap<u32, At<'_>> = HashMap::new();
    for node in &resource.nodes {
        let at = node.at;
        let name = node.names.join(" ");
        if node.address.is_none() && !is_stacked {
            // In 9 a host of no connection needs none.
            let severity = if is_for_9 { Severity::Warning } else { Severity::Error };
            let what = format!("the host {name} has no address");
            findings.push(Finding { severity, ..wrong(at, 1, "no-address", what, "add address IP:PORT") });
        }
        for volume in &node.volumes {
            let number = volume.number;
            if volume.minor.is_none() {
                let what = format!("volume {number} has no device on {name}");
                findings.push(wrong(at, 1, "no-device", what, "add device minor N"));
            }
            if volume.disk.is_none() {
                let what = format!("volume {number} has no disk on {name}");
                findings.push(wrong(at, 1, "no-disk", what, "add disk PATH"));
            }
        }
        let mut numbers: Vec<u16> = node.volumes.iter().map(|volume| volume.number).collect();
        numbers.sort_unstable();
        match &first {
            None => first = Some((node, numbers)),
            Some((other, expected)) if *expected != numbers => {
                let what =
                    format!("{name} has the volumes {numbers:?}, {} has {expected:?}", other.names.join(" "));
                let fix = "give both hosts the same volumes";
                findings.push(Finding {
                    also: Some(other.at.place(1)),
                    ..wrong(at, 1, "volumes-differ", what, fix)
                });
            }
            Some(_) => {}
        }
        if let Some(before) = node.node_id.and_then(|id| ids.insert(id, at)) {
            let what = format!("two hosts have the node-id {}", node.node_id.unwrap_or_default());
            let fix = "give each host its own, from 0 to 31";
            findings
                .push(Finding { also: Some(before.place(1)), ..wrong(at, 1, "node-id-twice", what, fix) });
        }
    }
}

/// Devices, disks and addresses that two resources or volumes of a host want.
fn taken_twice(resolved: &[Resolved<'_>], findings: &mut Vec<Finding>) {
    let mut taken: HashMap<(String, String), At<'_>> = HashMap::new();
    for resource in resolved {
        for node in &resource.nodes {
            let host = node.names.first().cloned().unwrap_or_default();
            let address =
                node.address.as_ref().map(|(_, ip, port)| (format!("the address {ip}:{port}"), node.at));
            let volumes = node.volumes.iter().flat_map(|volume| {
                let minor = volume.minor.map(|minor| (format!("the minor {minor}"), volume.at));
                let disk = volume.disk.as_deref().filter(|disk| *disk != "none");
                let disk = disk.map(|disk| (format!("the disk {disk}"), volume.at));
                [minor, disk].into_iter().flatten()
            });
            // A host of several connections has one address.
            for (what, at) in address.into_iter().chain(volumes) {
                let Some(before) = taken.insert((host.clone(), what.clone()), at) else { continue };
                let what = format!("{what} is used twice on {host}");
                let fix = "give each its own";
                let (severity, also) = (Severity::Danger, Some(before.place(0)));
                findings.push(Finding { severity, also, ..wrong(at, 0, "used-twice", what, fix) });
            }
        }
    }
}

/// Whether an option's value must not be shown.
pub(super) fn is_secret(known: Known) -> bool {
    matches!(known, Known::Row(row) if matches!(row.kind, Values::Secret { .. }))
}
