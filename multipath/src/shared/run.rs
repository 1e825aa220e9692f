//! How lvm is run, and what its refusals mean.

use host::exec::{self, Program};
use host::{Deadline, Host};

use super::error::{Error, Result};
use super::spec::LockManager;

/// The programs of a host, with what each call of lvm is told.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    pub(super) host: Host,
    config: String,
}

impl Tools {
    /// The settings are given with each command: no file of LVM is written. (`--config`, lvm(8).)
    pub(super) fn new(host: &Host, manager: &LockManager) -> Self {
        let mut config = "global/use_lvmlockd=1".to_owned();
        if let Some(id) = manager.host_id {
            config.push_str(&format!(" local/host_id={id}"));
        }
        Self { host: host.clone(), config }
    }

    /// Runs lvm. Nothing asks: its standard input is empty.
    pub(super) fn lvm(
        &self,
        command: &[&str],
        deadline: Deadline,
    ) -> std::result::Result<String, exec::Error> {
        self.with_config(&self.config, command, deadline)
    }

    fn with_config(
        &self,
        config: &str,
        command: &[&str],
        deadline: Deadline,
    ) -> std::result::Result<String, exec::Error> {
        let mut args = command.to_vec();
        args.extend(["--config", config]);
        self.host.exec().run_ok(Program::LVM, &args, deadline).map(|output| output.text())
    }

    /// Runs lvm on a group, and says what its refusal means.
    pub(super) fn change(
        &self,
        vg: &str,
        lv: Option<&str>,
        command: &[&str],
        deadline: Deadline,
    ) -> Result<()> {
        self.lvm(command, deadline).map(drop).map_err(|error| explain(vg, lv, error))
    }

    /// The same without the lock manager: for what belongs to no shared group.
    pub(super) fn change_unlocked(&self, vg: &str, command: &[&str], deadline: Deadline) -> Result<()> {
        let done = self.with_config("global/use_lvmlockd=0", command, deadline);
        done.map(drop).map_err(|error| explain(vg, None, error))
    }
}

/// Turns a refusal of lvm (exit code 5 and a text) into an error one can match. The texts are those of lvm2 2.03.16,
/// `lib/locking/lvmlockd.c`.
pub(super) fn explain(vg: &str, lv: Option<&str>, source: exec::Error) -> Error {
    let exec::Error::Failed { stderr, .. } = &source else { return Error::Exec(source) };
    let has = |words: &[&str]| words.iter().any(|word| stderr.contains(word));
    let (said, vg_name) = (stderr.clone(), vg.to_owned());
    let group = || format!("group {vg}");
    let volume = || lv.map_or_else(group, |lv| format!("volume {vg}/{lv}"));
    // First: who only reads is told beside it that lvmlockd does not run.
    if stderr.contains(&format!("Volume group \"{vg}\" not found")) {
        return Error::NotFound { object: group() };
    }
    if has(&["LV locked by other host"]) {
        return Error::Held { volume: lv.map_or(vg_name, |lv| format!("{vg}/{lv}")), holders: Vec::new() };
    }
    if has(&["not stopped on other hosts"]) {
        return Error::Held { volume: format!("group {vg}"), holders: Vec::new() };
    }
    if has(&["storage failed for sanlock leases", "storage errors for sanlock leases"]) {
        return Error::LeasesLost { vg: vg_name, said };
    }
    if has(&["init failed: -19", "sanlock cannot open device"]) {
        return Error::NoAccess { vg: vg_name, said };
    }
    if has(&["lock start in progress", "lockspace is starting"]) {
        return Error::Starting { vg: vg_name };
    }
    if has(&[
        "start existing sanlock VGs",
        "check that VG holding global lock",
        "check that global lockspace",
    ]) {
        return Error::GlobalLockElsewhere { said };
    }
    if has(&["Global lock failed: held by other host"]) {
        return Error::Contended { lock: "the global lock".to_owned() };
    }
    if has(&["lock failed: held by other host"]) {
        return Error::Contended { lock: format!("the lock of group {vg}") };
    }
    if has(&["lockspace is inactive", "due to failed lock"]) {
        return Error::NotStarted { vg: vg_name };
    }
    let dead = [
        "lvmlockd process is not running",
        "lvmlockd is not running",
        "lvmlockd not available",
        "check that lvmlockd is running",
    ];
    if has(&dead) || has(&["error -210", "is not running", "did not find one running", "requires lvmlockd"]) {
        return Error::NoLockManager { said };
    }
    if has(&["No space for sanlock lock"]) {
        return Error::NoRoomForLocks { vg: vg_name };
    }
    if has(&["already exists"]) {
        return Error::AlreadyExists { object: volume() };
    }
    if has(&["Failed to find logical volume"]) {
        return Error::NotFound { object: volume() };
    }
    if has(&[" in use.", "is used by another device", "contains a filesystem in use"]) {
        return Error::Busy { volume: volume(), users: "an open file, mount or device".to_owned() };
    }
    Error::Lvm { said, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(stderr: &str) -> Error {
        let error =
            exec::Error::Failed { command: "lvm x".to_owned(), code: Some(5), stderr: stderr.to_owned() };
        explain("vms", Some("vm1"), error)
    }

    #[test]
    fn refusals_have_a_meaning() {
        assert!(matches!(said("LV locked by other host: vms/vm1 Failed to lock logical volume vms/vm1."),
            Error::Held { volume, .. } if volume == "vms/vm1"));
        assert!(matches!(said("Lockspace for \"vms\" not stopped on other hosts"),
            Error::Held { volume, .. } if volume == "group vms"));
        assert!(matches!(
            said("VG vms lock failed: held by other host. Cannot access VG vms due to failed lock."),
            Error::Contended { .. }
        ));
        assert!(matches!(said("Global lock failed: held by other host."), Error::Contended { .. }));
        assert!(matches!(
            said(
                "WARNING: lvmlockd process is not running. Reading without shared global lock. Cannot access VG vms with lock type sanlock that requires lvmlockd."
            ),
            Error::NoLockManager { .. }
        ));
        assert!(matches!(said("Global lock failed: error -210"), Error::NoLockManager { .. }));
        assert!(matches!(
            said("VG vms start failed: lock manager sanlock is not running"),
            Error::NoLockManager { .. }
        ));
        assert!(matches!(said("LV vms/vm1 lock failed: lockspace is inactive"), Error::NotStarted { .. }));
        assert!(matches!(said("VG vms lock failed: lock start in progress"), Error::Starting { .. }));
        assert!(matches!(
            said("VG vms lock failed: storage failed for sanlock leases"),
            Error::LeasesLost { .. }
        ));
        assert!(matches!(
            said("No space for sanlock lock, extend the internal lvmlock LV."),
            Error::NoRoomForLocks { .. }
        ));
        assert!(
            matches!(said("Volume group \"vms\" not found Cannot process volume group vms"), Error::NotFound { object } if object == "group vms")
        );
        assert!(
            matches!(said("Failed to find logical volume \"vms/vm1\""), Error::NotFound { object } if object == "volume vms/vm1")
        );
        assert!(matches!(
            said("Logical Volume \"vm1\" already exists in volume group \"vms\""),
            Error::AlreadyExists { .. }
        ));
        assert!(matches!(said("Logical volume vms/vm1 in use."), Error::Busy { .. }));
    }

    #[test]
    fn what_is_not_known_is_kept_as_lvm_said_it() {
        let error = said("insufficient free space: 10 extents needed");
        assert_eq!(error.to_string(), "lvm refused: insufficient free space: 10 extents needed");
        assert!(!error.is_retryable() && !error.is_busy());
        let error = explain("vms", None, exec::Error::TimedOut { command: "lvm x".to_owned() });
        assert!(matches!(&error, Error::Exec(_)) && error.is_retryable());
    }
}
