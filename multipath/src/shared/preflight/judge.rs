//! What is wrong with it: facts in, findings out.

use std::path::Path;
use std::time::Duration;

use super::facts::{Facts, Queueing};
use super::{Check, Finding, Level};
use crate::shared::HostId;
use crate::shared::spec::{LeaseTimes, Watchdog};

/// The findings, all of them.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![programs(facts)];
    if facts.missing.is_empty() {
        findings.extend([host_id(facts), unique(facts), lvmlockd(facts), managers(facts), watchdog(facts)]);
        findings.extend(facts.devices.iter().flat_map(|(device, map)| disk(facts, device, map.as_ref())));
        findings.push(detection(facts));
    }
    findings
}

fn fit(check: Check, value: impl Into<String>, reason: &str) -> Finding {
    let value = value.into();
    Finding {
        check,
        level: Level::Fit,
        wanted: value.clone(),
        value,
        reason: reason.to_owned(),
        fix: String::new(),
    }
}

impl Finding {
    /// The same, and not as it should be.
    fn but(mut self, level: Level, wanted: impl Into<String>, fix: impl Into<String>) -> Self {
        (self.level, self.wanted, self.fix) = (level, wanted.into(), fix.into());
        self
    }
}

fn programs(facts: &Facts) -> Finding {
    let reason = "volumes are shared by lvm2, lvmlockd and sanlock";
    if facts.missing.is_empty() {
        return fit(Check::Programs, "installed", reason);
    }
    let names: Vec<_> = facts.missing.iter().map(|program| program.name).collect();
    let mut packages: Vec<_> = facts.missing.iter().map(|program| program.package).collect();
    packages.dedup();
    fit(Check::Programs, format!("without {}", names.join(", ")), reason).but(
        Level::Refused,
        "installed",
        format!("Install {}", packages.join(" ")),
    )
}

fn host_id(facts: &Facts) -> Finding {
    let reason = "it is this host's place in sanlock's table on the disk";
    if let (Some(runs), Some(id)) = (facts.lvmlockd_option("-i", "--host-id"), facts.id())
        && runs != u64::from(id.get())
    {
        return fit(Check::HostId, format!("{id}, and lvmlockd runs with {runs}"), reason).but(
            Level::Refused,
            "one number",
            "Stop lvmlockd while no group is started, or take its number",
        );
    }
    match (facts.manager.host_id, facts.configured_id) {
        (Some(given), Some(set)) if given != set => {
            fit(Check::HostId, format!("{given} here and {set} in /etc/lvm/lvmlocal.conf"), reason).but(
                Level::Refused,
                "one number",
                "Make the two the same: LVM's own commands would take the other one",
            )
        }
        (Some(id), _) | (None, Some(id)) => fit(Check::HostId, id.to_string(), reason),
        (None, None) => fit(Check::HostId, "not set", reason).but(
            Level::Refused,
            "1 to 2000, another one on each host",
            "Set local/host_id in /etc/lvm/lvmlocal.conf, or give the number",
        ),
    }
}

/// Whether another host has this host's number, and renews its lease.
fn unique(facts: &Facts) -> Finding {
    let reason = "two hosts with one number exclude each other, after minutes of waiting";
    let Some(id) = facts.id() else { return fit(Check::HostIdUnique, "not known without a number", reason) };
    let Some(owner) = &facts.taken else { return fit(Check::HostIdUnique, "yes", reason) };
    let used: Vec<_> = facts
        .leases
        .iter()
        .filter(|lease| lease.timestamp != 0)
        .filter_map(|lease| lease.owner)
        .map(HostId::get)
        .collect();
    let free = (1..=2000).find(|id| !used.contains(id)).unwrap_or(1);
    fit(Check::HostIdUnique, format!("no: {id} is the number of {owner}, which is alive"), reason).but(
        Level::Refused,
        "yes",
        format!("Give this host another number ({free} is free)"),
    )
}

fn lvmlockd(facts: &Facts) -> Finding {
    let reason =
        "commands of LVM that are typed by hand must take the same locks; without it they refuse the group";
    match facts.use_lvmlockd {
        true => fit(Check::UseLvmlockd, "1", reason),
        false => fit(Check::UseLvmlockd, "0", reason).but(
            Level::Advice,
            "1",
            "Set global/use_lvmlockd=1 in /etc/lvm/lvm.conf",
        ),
    }
}

fn managers(facts: &Facts) -> Finding {
    let reason = "sanlock keeps this host's leases, lvmlockd asks for them";
    let state =
        |name: &str, runs: bool| if runs { format!("{name} runs") } else { format!("{name} does not run") };
    let (sanlock, lvmlockd) = (facts.sanlock.is_some(), facts.running.lvmlockd.is_some());
    let value = format!("{}, {}", state("sanlock", sanlock), state("lvmlockd", lvmlockd));
    let finding = fit(Check::Daemons, value, reason);
    match (facts.running.sanlock.is_some() && !sanlock, sanlock && lvmlockd) {
        (true, _) => finding.but(
            Level::Refused,
            "one that answers",
            "sanlock runs and does not answer: look at its log, /var/log/sanlock.log",
        ),
        (false, true) => finding,
        (false, false) => finding.but(Level::Advice, "both run", "They are started when the group is"),
    }
}

fn watchdog(facts: &Facts) -> Finding {
    let reason = "a host that lost its leases must not go on writing: another one takes its volumes over";
    let used = facts.sanlock.as_ref().map(|sanlock| sanlock.watchdog == Some(true));
    let wdmd = facts.running.wdmd.is_some();
    let value = match (used, wdmd, facts.watchdog_device) {
        (Some(true), _, _) => "used by sanlock",
        (Some(false), _, _) => "not used by sanlock (-w 0)",
        (None, true, _) => "fed by wdmd",
        (None, false, true) => "there, and wdmd does not run",
        (None, false, false) => "not there",
    };
    let finding = fit(Check::Watchdog, value, reason);
    if facts.manager.watchdog == Watchdog::None {
        return match used {
            Some(true) => finding,
            _ => finding.but(
                Level::Advice,
                "used by sanlock",
                "It was said that none is wanted: use that for tests only",
            ),
        };
    }
    match (used, wdmd, facts.watchdog_device) {
        (Some(true), ..) | (None, true, _) => finding,
        (Some(false), ..) => finding.but(
            Level::Refused,
            "used by sanlock",
            "Debian starts sanlock with -w 0: set sanlock_opts=\"\" in /etc/default/sanlock, start wdmd, then restart sanlock while no group is started",
        ),
        (None, false, false) => finding.but(
            Level::Refused,
            "/dev/watchdog",
            "Load the driver of the machine's watchdog, or softdog, which does not help against a kernel that hangs",
        ),
        (None, false, true) if facts.wdmd_enabled_by_debian => finding.but(
            Level::Advice,
            "fed by wdmd",
            "wdmd is started when the group is. Debian 12's wdmd.service cannot start with enabled=1 in /etc/default/wdmd: its check ends with 3; leave \
             enabled=0, or empty ExecStartPre= in a drop-in",
        ),
        (None, false, true) => finding.but(Level::Advice, "fed by wdmd", "wdmd is started when the group is"),
    }
}

fn disk(facts: &Facts, device: &Path, map: Option<&(String, Queueing)>) -> Vec<Finding> {
    let reason = "a path alone fails with its cable, and LVM on one path of several writes past multipath";
    let Some((name, queueing)) = map else {
        let finding = fit(Check::Device, format!("{}, no multipath map", device.display()), reason);
        return vec![finding.but(
            Level::Refused,
            "a map, /dev/mapper/NAME",
            "Attach the disk over multipath and take its map",
        )];
    };
    vec![fit(Check::Device, format!("map {name}"), reason), waiting(facts, name, *queueing)]
}

fn waiting(facts: &Facts, map: &str, queueing: Queueing) -> Finding {
    // What is in force counts, if there is anything.
    let io_timeout = facts.io_timeout();
    let times = LeaseTimes::of(io_timeout);
    let reason = "I/O that waits longer than the leases last meets a volume that is another host's, or a host that is reset";
    let limit = format!(
        "less than {} s, with sanlock's I/O timeout of {} s",
        times.outage.as_secs(),
        io_timeout.as_secs()
    );
    let longer = |wait: Duration| {
        let timeout = LeaseTimes::fitting(wait).as_secs();
        let fewer = times.outage.as_secs().saturating_sub(1);
        format!(
            "Let {map} queue at most {fewer} s (no_path_retry), or give sanlock an I/O timeout of {timeout} s on all hosts"
        )
    };
    match queueing {
        Queueing::Off => fit(Check::Queueing, "off", reason),
        Queueing::For(wait) if wait < times.outage => {
            fit(Check::Queueing, format!("{} s", wait.as_secs()), reason)
        }
        Queueing::For(wait) => fit(Check::Queueing, format!("{} s", wait.as_secs()), reason).but(
            Level::Refused,
            limit,
            longer(wait),
        ),
        Queueing::Forever => fit(Check::Queueing, "without end", reason).but(
            Level::Refused,
            limit,
            format!("Set no_path_retry of {map} to a number of checks instead of \"queue\""),
        ),
        Queueing::Unknown => fit(Check::Queueing, "not known", reason).but(
            Level::Advice,
            limit,
            format!("Look at multipathd show map {map} json"),
        ),
    }
}

fn detection(facts: &Facts) -> Finding {
    let reason = "LVM must see a disk once, as its map, and not on each path";
    match facts.component_detection {
        true => fit(Check::ComponentDetection, "1", reason),
        false => fit(Check::ComponentDetection, "0", reason).but(
            Level::Refused,
            "1",
            "Set devices/multipath_component_detection=1 in /etc/lvm/lvm.conf (LVM's default)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::daemons::Running;
    use crate::shared::spec::LockManager;
    use crate::shared::state::{Lease, SanlockSpace, SanlockState, SpacePhase};

    fn id(id: u16) -> HostId {
        HostId::new(id).expect("a number")
    }

    fn lease(owner: u16, name: &str, timestamp: u64) -> Lease {
        let mut lease =
            Lease::new(u64::from(owner - 1) * 512, "lvm_vms".to_owned(), name.to_owned(), timestamp);
        (lease.owner, lease.is_host) = (Some(id(owner)), true);
        lease
    }

    /// A host as it should be: number 1, a watchdog, a map that queues 40 s.
    fn facts() -> Facts {
        let mut sanlock = SanlockState::new("d3b1.hv1".to_owned());
        sanlock.watchdog = Some(true);
        Facts {
            manager: LockManager::new(),
            configured_id: Some(id(1)),
            use_lvmlockd: true,
            component_detection: true,
            missing: Vec::new(),
            running: Running { wdmd: Some(vec![]), sanlock: Some(vec![]), lvmlockd: Some(vec![]) },
            sanlock: Some(sanlock),
            watchdog_device: true,
            wdmd_enabled_by_debian: false,
            devices: vec![(
                "/dev/mapper/mpatha".into(),
                Some(("mpatha".to_owned(), Queueing::For(Duration::from_secs(40)))),
            )],
            leases: vec![lease(2, "77aa.hv2", 99)],
            taken: None,
        }
    }

    fn of(facts: &Facts, check: Check) -> Finding {
        judge(facts).into_iter().find(|finding| finding.check == check).expect("it is looked at")
    }

    #[test]
    fn a_host_as_it_should_be_has_nothing_to_fix() {
        let findings = judge(&facts());
        assert_eq!(findings.len(), 9);
        for finding in findings {
            assert_eq!((finding.level, finding.fix.as_str()), (Level::Fit, ""), "{finding}");
        }
    }

    #[test]
    fn what_is_not_installed_is_all_there_is_to_say() {
        let missing =
            vec![host::exec::Program::LVMLOCKD, host::exec::Program::SANLOCK, host::exec::Program::WDMD];
        let findings = judge(&Facts { missing, ..facts() });
        assert_eq!(findings.len(), 1);
        assert_eq!(
            (findings[0].level, findings[0].fix.as_str()),
            (Level::Refused, "Install lvm2-lockd sanlock")
        );
    }

    #[test]
    fn a_host_needs_one_number() {
        let none = Facts { configured_id: None, ..facts() };
        assert_eq!(of(&none, Check::HostId).level, Level::Refused);
        let given = Facts { manager: LockManager::new().with_host_id(id(3)), ..none };
        assert_eq!(
            (of(&given, Check::HostId).level, of(&given, Check::HostId).value.as_str()),
            (Level::Fit, "3")
        );
        let two = of(&Facts { configured_id: Some(id(1)), ..given }, Check::HostId);
        assert_eq!(two.level, Level::Refused);
        assert!(two.value.contains('3') && two.value.contains('1'), "{two}");
    }

    #[test]
    fn a_number_of_another_host_is_refused_with_whose_it_is() {
        let leases = vec![lease(1, "77aa.hv2", 99), lease(2, "55bb.hv3", 7), lease(3, "66cc.hv4", 0)];
        let taken = Facts { leases, taken: Some("hv2".to_owned()), ..facts() };
        let finding = of(&taken, Check::HostIdUnique);
        assert_eq!(finding.level, Level::Refused);
        assert!(finding.value.contains("hv2") && finding.fix.contains("3 is free"), "{finding}");
    }

    #[test]
    fn an_lvmlockd_that_runs_with_other_settings_counts() {
        let words = |text: &str| Some(text.split(' ').map(str::to_owned).collect());
        let mut other = facts();
        other.running.lvmlockd = words("lvmlockd --host-id 7");
        assert_eq!(of(&other, Check::HostId).level, Level::Refused);
        other.running.lvmlockd = words("lvmlockd --host-id 1 -o 5");
        assert_eq!(of(&other, Check::HostId).level, Level::Fit);
        // 40 s of queueing are too long for an I/O timeout of 5 s.
        assert_eq!(of(&other, Check::Queueing).level, Level::Refused);
    }

    #[test]
    fn sanlock_without_its_watchdog_is_refused_unless_that_is_wanted() {
        let mut without = facts();
        without.sanlock.as_mut().expect("runs").watchdog = Some(false);
        let finding = of(&without, Check::Watchdog);
        assert_eq!(finding.level, Level::Refused);
        assert!(finding.fix.contains("sanlock_opts"), "{finding}");
        without.manager = without.manager.with_watchdog(Watchdog::None);
        assert_eq!(of(&without, Check::Watchdog).level, Level::Advice);
    }

    #[test]
    fn a_wdmd_that_debian_cannot_start_is_named() {
        let mut stopped =
            Facts { sanlock: None, running: Running::default(), wdmd_enabled_by_debian: true, ..facts() };
        let finding = of(&stopped, Check::Watchdog);
        assert_eq!(finding.level, Level::Advice);
        assert!(finding.fix.contains("ExecStartPre"), "{finding}");
        assert_eq!(of(&stopped, Check::Daemons).level, Level::Advice);
        stopped.watchdog_device = false;
        assert_eq!(of(&stopped, Check::Watchdog).level, Level::Refused);
    }

    #[test]
    fn a_sanlock_that_does_not_answer_is_refused() {
        let finding = of(&Facts { sanlock: None, ..facts() }, Check::Daemons);
        assert_eq!(finding.level, Level::Refused, "{finding}");
    }

    #[test]
    fn a_disk_that_is_no_map_is_refused() {
        let plain = Facts { devices: vec![("/dev/sdb".into(), None)], ..facts() };
        let finding = of(&plain, Check::Device);
        assert_eq!(finding.level, Level::Refused);
        assert!(finding.value.contains("/dev/sdb"), "{finding}");
    }

    #[test]
    fn queueing_must_end_before_the_leases_do() {
        let with = |queueing| Facts {
            devices: vec![("/dev/mapper/a".into(), Some(("a".to_owned(), queueing)))],
            ..facts()
        };
        let seconds = |n| Queueing::For(Duration::from_secs(n));
        for (queueing, level) in [
            (Queueing::Off, Level::Fit),
            (seconds(59), Level::Fit),
            (seconds(60), Level::Refused),
            (Queueing::Forever, Level::Refused),
            (Queueing::Unknown, Level::Advice),
        ] {
            assert_eq!(of(&with(queueing), Check::Queueing).level, level, "{queueing:?}");
        }
        let mut longer = with(seconds(120));
        assert!(of(&longer, Check::Queueing).fix.contains("timeout of 21 s"));
        longer.running.lvmlockd = None;
        longer.manager = longer.manager.with_io_timeout(Duration::from_secs(21)).expect("whole seconds");
        assert_eq!(of(&longer, Check::Queueing).level, Level::Fit);
        // What is in force counts more than what is wanted.
        let mut space = SanlockSpace::new("lvm_vms".to_owned(), id(1), "/x".to_owned(), SpacePhase::Joined);
        space.io_timeout = Some(Duration::from_secs(10));
        longer.sanlock.as_mut().expect("runs").spaces.push(space);
        assert_eq!(of(&longer, Check::Queueing).level, Level::Refused);
    }

    #[test]
    fn lvm_must_not_see_the_paths() {
        let finding = of(&Facts { component_detection: false, ..facts() }, Check::ComponentDetection);
        assert_eq!(finding.level, Level::Refused);
        assert_eq!(of(&Facts { use_lvmlockd: false, ..facts() }, Check::UseLvmlockd).level, Level::Advice);
    }
}
