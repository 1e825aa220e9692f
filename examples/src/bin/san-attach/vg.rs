//! `--vg`: the volume group that hypervisors share on the attached disk.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use multipath::shared::{
    Activation, Error, HostId, Level, LockManager, LvName, Overwrite, SharedVg, VgName, Watchdog,
};
use multipath::{Deadline, Host, Multipath, Patience, Profile};

/// How long sanlock may take: its own lease of before a reset must end first.
const PATIENCE: Duration = Duration::from_secs(300);

/// What is said of the group.
#[derive(Debug, clap::Args)]
pub(crate) struct Words {
    /// Share this volume group with other hosts on the disk (lvmlockd and sanlock): look whether this host is fit, start the daemons, join. With -d:
    /// deactivate its volumes, leave, stop the daemons.
    #[arg(long)]
    vg: Option<VgName>,
    /// This host's number, 1 to 2000, another one on each host; else that of /etc/lvm/lvmlocal.conf.
    #[arg(long, requires = "vg")]
    host_id: Option<HostId>,
    /// Make the group if it is not there: on one host only, once.
    #[arg(long, requires = "vg")]
    create: bool,
    /// Activate this volume of the group, exclusively. May be given several times.
    #[arg(long, requires = "vg", value_name = "LV")]
    activate: Vec<LvName>,
    /// Activate shared instead.
    #[arg(long, requires = "activate")]
    shared: bool,
    /// Only say whether this host is fit to share the group; the disk stays attached.
    #[arg(long, requires = "vg")]
    preflight: bool,
    /// sanlock's I/O timeout in seconds: storage may be away for six of them, and the volumes of a dead host are free after eight and a minute.
    #[arg(long, requires = "vg", default_value_t = 10, value_name = "SECONDS")]
    io_timeout: u64,
    /// Do without a watchdog: for tests only. A host that lost its leases goes on writing.
    #[arg(long, requires = "vg")]
    no_watchdog: bool,
    /// Print a unit of systemd that does what this command line does at each boot, and do nothing. Other service managers run the command itself.
    #[arg(long, requires = "vg")]
    unit: bool,
}

impl Words {
    fn group(&self, host: &Host) -> Result<Option<SharedVg>> {
        let Some(name) = &self.vg else { return Ok(None) };
        let mut manager = LockManager::new().with_io_timeout(Duration::from_secs(self.io_timeout))?;
        if let Some(id) = self.host_id {
            manager = manager.with_host_id(id);
        }
        if self.no_watchdog {
            manager = manager.with_watchdog(Watchdog::None);
        }
        Ok(Some(SharedVg::on(host, name.clone(), manager)))
    }

    /// How long I/O may wait, if a group is to be shared: with the usual lease time what the profile says, else four I/O timeouts, two less than
    /// a lease endures.
    pub(crate) fn patience(&self) -> Option<Patience> {
        self.vg.as_ref()?;
        let mut patience = Profile::Sanlock.patience();
        patience.queueing = Duration::from_secs(self.io_timeout.saturating_mul(4));
        Some(patience)
    }

    /// After the disk is attached.
    pub(crate) fn share(&self, host: &Host, multipath: &Multipath, device: &Path) -> Result<()> {
        let Some(vg) = self.group(host)? else { return Ok(()) };
        let (started, deadline) = (Instant::now(), Deadline::after(PATIENCE));
        let findings = vg.preflight(multipath, Some(device), deadline).context("preflight")?;
        for finding in &findings {
            if self.preflight || finding.level > Level::Fit {
                println!("  {:8} {finding}", format!("{:?}", finding.level).to_lowercase());
            }
        }
        let refused = findings.iter().filter(|finding| finding.level == Level::Refused).count();
        ensure!(
            refused == 0,
            "this host is not fit to share group {}: {refused} of {} checks",
            vg.name(),
            findings.len()
        );
        if self.preflight {
            println!("this host is fit to share group {}", vg.name());
            return Ok(());
        }
        let joined = match vg.join(deadline) {
            Err(Error::NotFound { .. }) if self.create => {
                vg.create(device, Overwrite::Never, deadline).map(|_| "made")
            }
            Err(Error::NotFound { object }) => {
                Err(Error::NotFound { object: format!("{object} (--create makes it)") })
            }
            Ok(true) => Ok("joined"),
            Ok(false) => Ok("was joined"),
            Err(error) => Err(error),
        }?;
        println!("group {} {joined} in {:.1} s", vg.name(), started.elapsed().as_secs_f64());
        let how = if self.shared { Activation::Shared } else { Activation::Exclusive };
        for lv in &self.activate {
            vg.activate(lv, how, deadline)?;
            println!("volume {}/{lv} active, {how}", vg.name());
        }
        Ok(())
    }

    /// Before the disk is detached.
    pub(crate) fn leave(&self, host: &Host) -> Result<()> {
        let Some(vg) = self.group(host)? else { return Ok(()) };
        let stopped: Vec<_> = vg.stop(Deadline::after(PATIENCE))?.iter().map(ToString::to_string).collect();
        println!(
            "group {} left; stopped: {}",
            vg.name(),
            if stopped.is_empty() { "nothing".to_owned() } else { stopped.join(", ") }
        );
        Ok(())
    }

    /// The unit, if it is asked for.
    pub(crate) fn unit(&self) -> Option<String> {
        let name = self.vg.as_ref().filter(|_| self.unit)?;
        let words: Vec<_> =
            std::env::args().skip(1).filter(|word| word != "--unit" && word != "--create").collect();
        Some(unit(name.as_str(), &words))
    }
}

/// A word of `ExecStart=`, with what systemd would expand or split kept as it is (systemd.service(5), "Command lines").
fn quoted(word: &str) -> String {
    let plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:=@,+".contains(&b));
    let word = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    if plain && !word.is_empty() { word } else { format!("\"{word}\"") }
}

fn unit(vg: &str, words: &[String]) -> String {
    let line: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    let line = line.join(" ");
    format!(
        "# /etc/systemd/system/san-attach-{vg}.service\n\
         [Unit]\n\
         Description=Disk and shared volume group {vg}\n\
         Wants=network-online.target\n\
         After=network-online.target multipathd.service iscsid.service wdmd.service sanlock.service lvmlockd.service\n\
         Before=libvirt-guests.service\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart=/usr/bin/san-attach {line}\n\
         ExecStop=/usr/bin/san-attach {line} --detach\n\
         # sanlock's own lease of before a reset must end first.\n\
         TimeoutStartSec=600\n\
         # The daemons end in order, by ExecStop.\n\
         KillMode=process\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_does_at_boot_what_the_command_did() {
        let words =
            ["iqn.2026-01.a:b", "-p", "10.0.0.1:3260", "--vg", "vms", "--user", "a b$c%"].map(str::to_owned);
        let unit = unit("vms", &words);
        let line = "iqn.2026-01.a:b -p 10.0.0.1:3260 --vg vms --user \"a b$$c%%\"";
        assert!(unit.contains(&format!("ExecStart=/usr/bin/san-attach {line}\n")), "{unit}");
        assert!(unit.contains(&format!("ExecStop=/usr/bin/san-attach {line} --detach\n")), "{unit}");
    }
}
