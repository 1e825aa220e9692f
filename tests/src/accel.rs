//! KVM or emulation, decided by a test boot.
//!
//! That `/dev/kvm` exists proves nothing: on some hosts (nested virtualisation) it can be opened and the guest
//! hangs. So a small guest is booted with it once per boot of the host.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::guard::Proc;
use crate::image::{cache_dir, lock};

/// How long the test boot may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// What executes the guests' instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The processor, through KVM.
    Kvm,
    /// QEMU's emulation, roughly ten times slower.
    Tcg,
}

impl Accel {
    /// QEMU's arguments for it.
    pub(crate) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// Decides: `$SANKIT_ACCEL` (`kvm` or `tcg`), else the verdict of this boot of the host, else a test boot of
/// the given kernel and initramfs.
///
/// # Errors
/// If the environment variable has another value or the verdict cannot be kept.
pub(crate) fn choose(vmlinux: &Path, initrd: &Path, scratch: &Path) -> Result<Accel> {
    match std::env::var("SANKIT_ACCEL").as_deref() {
        Ok("kvm") => return Ok(Accel::Kvm),
        Ok("tcg") => return Ok(Accel::Tcg),
        Ok(other) => bail!("SANKIT_ACCEL is {other:?}, it must be kvm or tcg"),
        Err(_) => {}
    }
    if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accel::Tcg);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    let verdict = cache_dir()?.join("accel");
    let _lock = lock(&cache_dir()?.join("accel.lock"))?;
    if let Ok(text) = fs::read_to_string(&verdict)
        && let Some((id, word)) = text.split_once(' ')
        && id == boot.trim()
    {
        return Ok(if word.trim() == "kvm" { Accel::Kvm } else { Accel::Tcg });
    }
    eprintln!("lab: trying KVM with a test boot (at most {} s)", DEADLINE.as_secs());
    let works = probe(vmlinux, initrd, scratch)?;
    eprintln!("lab: KVM {}", if works { "works" } else { "does not work, guests are emulated" });
    let (word, accel) = if works { ("kvm", Accel::Kvm) } else { ("tcg", Accel::Tcg) };
    fs::write(&verdict, format!("{} {word}\n", boot.trim()))
        .with_context(|| format!("cannot write {}", verdict.display()))?;
    Ok(accel)
}

fn probe(vmlinux: &Path, initrd: &Path, scratch: &Path) -> Result<bool> {
    let serial = scratch.join("kvm-probe.serial");
    let mut command = Command::new("qemu-system-x86_64");
    command.args(Accel::Kvm.arguments()).args(["-M", "q35", "-m", "512", "-nodefaults", "-no-user-config"]);
    command.args(["-display", "none", "-no-reboot"]).arg("-kernel").arg(vmlinux).arg("-initrd").arg(initrd);
    command.args(["-append", "console=ttyS0 quiet panic=-1 lab.mode=probe"]);
    command.arg("-serial").arg(format!("file:{}", serial.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut qemu = Proc::spawn("the KVM test boot", command)?;
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        if fs::read_to_string(&serial).is_ok_and(|text| text.contains("lab-probe-ok")) {
            return Ok(true);
        }
        if qemu.poll().is_some() {
            return Ok(fs::read_to_string(&serial).is_ok_and(|text| text.contains("lab-probe-ok")));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(false)
}
