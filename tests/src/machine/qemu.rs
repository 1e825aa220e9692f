//! QEMU's command line.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::builder::{MachineBuilder, Mode};
use crate::accel::Accel;
use crate::agent;
use crate::hub::Cable;
use crate::image::{kernel, rootfs};
use crate::run::Boot;

/// The sockets QEMU connects to when it starts.
#[derive(Debug, Clone)]
pub(super) struct Sockets {
    pub(super) monitor: PathBuf,
    pub(super) agent: PathBuf,
    /// Data ports: name in the guest and socket.
    pub(super) ports: Vec<(String, PathBuf)>,
}

/// The command line of a machine. `drives` are the `-blockdev` values of its disks.
pub(super) fn command(
    spec: &MachineBuilder,
    accel: Accel,
    boot: &Boot,
    sockets: &Sockets,
    cables: &[Cable],
    drives: &[String],
) -> Result<Command> {
    let context = &spec.context;
    let mut args: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| args.extend([format!("-{option}"), value]);
    add("name", spec.name.clone());
    // The board's own disk, USB and SMBus controllers would only be probed at each boot.
    add("machine", "q35,sata=off,usb=off,smbus=off,vmport=off".to_owned());
    add("m", spec.memory.to_string());
    add("smp", spec.smp.clone());
    add("kernel", boot.kernel.vmlinux().display().to_string());
    add("initrd", boot.initrd.display().to_string());
    add("append", kernel_line(spec));
    add("serial", format!("file:{}", context.serial(&spec.name).display()));
    let client = |id: &str, path: &PathBuf| format!("socket,id={id},server=off,path={}", path.display());
    add("chardev", client("qmp", &sockets.monitor));
    add("mon", "chardev=qmp,mode=control".to_owned());
    add("device", "virtio-serial-pci,max_ports=31".to_owned());
    add("chardev", client("agent", &sockets.agent));
    add("device", format!("virtserialport,chardev=agent,name={}", agent::PORT));
    for (number, (name, path)) in sockets.ports.iter().enumerate() {
        add("chardev", client(&format!("port{number}"), path));
        add("device", format!("virtserialport,chardev=port{number},name={name}"));
    }
    let share = context.share().display().to_string();
    add(
        "virtfs",
        format!("local,path={share},mount_tag=lab,security_model=none,readonly=on,multidevs=remap"),
    );
    add("device", "virtio-rng-pci".to_owned());
    if spec.mode == Mode::Root {
        let root = rootfs::make(&spec.variant)?;
        let modules = kernel::modules_disk(&boot.kernel)?;
        for (id, path, kind) in [("root", &root, "snapshot=on"), ("modules", &modules, "readonly=on")] {
            let path = path.display();
            add("drive", format!("if=none,id={id},format=raw,file={path},{kind},cache=unsafe"));
            add("device", format!("virtio-blk-pci,drive={id},serial=lab-{id}"));
        }
    }
    for (number, (disk, drive)) in spec.disks.iter().zip(drives).enumerate() {
        add("blockdev", drive.clone());
        add("device", format!("virtio-blk-pci,drive=disk{number},serial={},write-cache=on", disk.name()));
    }
    for (number, (nic, cable)) in spec.nics.iter().zip(cables).enumerate() {
        let socket = cable.socket().display();
        add("netdev", format!("stream,id=net{number},server=off,addr.type=unix,addr.path={socket}"));
        // romfile= is empty: else the firmware tries to boot from every card, which takes seconds.
        let mut device =
            format!("{},netdev=net{number},id=nic{number},mac={},romfile=", nic.model, cable.mac());
        if let Some(mtu) = nic.mtu {
            device.push_str(&format!(",host_mtu={mtu}"));
        }
        if !nic.options.is_empty() {
            device.push_str(&format!(",{}", nic.options));
        }
        add("device", device);
    }
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(accel.arguments());
    command.args(args).args(&spec.qemu).env("TMPDIR", context.path());
    let log = std::fs::File::create(context.path().join(format!("{}.qemu", spec.name)));
    let log = log.context("cannot create QEMU's log")?;
    command.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(command)
}

fn kernel_line(spec: &MachineBuilder) -> String {
    let mode = if spec.mode == Mode::Tiny { "tiny" } else { "root" };
    // panic=-1 and -no-reboot: a panic ends QEMU at once. loglevel=5 shows warnings and worse.
    let fixed = "console=ttyS0 quiet loglevel=5 panic=-1 net.ifnames=0 mitigations=off nokaslr nowatchdog no_timer_check \
                 cryptomgr.notests random.trust_cpu=on raid=noautodetect rcupdate.rcu_cpu_stall_timeout=120";
    format!("{fixed} lab.mode={mode} lab.host={}{}", spec.name, spec.append)
}
