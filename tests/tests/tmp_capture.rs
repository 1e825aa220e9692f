#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::print_stdout)]
use anyhow::{Result, ensure};
use lab::{Cmd, Kernel, Lab, Nic};
use std::time::Duration;

#[test]
fn capture() -> Result<()> {
    let program = std::path::PathBuf::from(std::env::var("PROGRAM")?);
    let smp = std::env::var("SMP").unwrap_or("255,sockets=3,cores=85,threads=1".into());
    let lab = Lab::new("tmp-capture")?;
    let program = lab.install(&program)?;
    let cable = lab.segment("s");
    let machine = lab
        .machine("n1")
        .kernel(Kernel::V6_1)
        .memory(2048)
        .boot_deadline(Duration::from_secs(1500))
        .smp(&smp)
        .nic_with(Nic::on(&cable).model("vmxnet3"))
        .nic_with(Nic::on(&cable).model("e1000e"))
        .qemu([
            "-cpu",
            "max,vendor=GenuineIntel",
            "-device",
            "pcie-root-port,id=rp2,chassis=10",
            "-drive",
            "driver=null-co,if=none,id=nv,size=64M,read-zeroes=on",
            "-device",
            "nvme,drive=nv,serial=lab,max_ioqpairs=32,msix_qsize=33,bus=rp2",
            "-device",
            "virtio-scsi-pci,num_queues=4,id=vs,bus=pcie.0",
            "-drive",
            "driver=null-co,if=none,id=sd,size=64M,read-zeroes=on",
            "-device",
            "scsi-hd,drive=sd,bus=vs.0",
        ])
        .boot()?;
    let sh = |s: &str| machine.run(Cmd::sh(&format!("{s} 2>&1")).deadline(Duration::from_secs(600)));
    println!("{}", sh("for m in e1000e vmxnet3 nvme virtio_scsi sd_mod; do modprobe $m; done; sleep 3; for i in /sys/class/net/*; do ip link set ${i##*/} up; done; sleep 2; nproc; ls /sys/class/net /sys/block; cat /proc/cmdline; uname -r")?.stdout);
    let o = sh(&format!(
        "cp {program} /run/k; chmod 755 /run/k; SANKIT_LAB=1 SANKIT_LAB_CAPTURE=1 /run/k what_is_read --test-threads=1 --nocapture > /run/out; wc /run/out; tail -n 3 /run/out"
    ))?;
    println!("{}", o.stdout);
    std::fs::write("/tmp/capture.txt", machine.pull("/run/out")?)?;
    ensure!(o.success());
    Ok(())
}
