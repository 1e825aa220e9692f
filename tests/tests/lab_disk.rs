//! Disks and power cuts.

use anyhow::{Result, ensure};
use lab::{Lab, Machine};

/// Whether the MiB at `index` of the disk is all zeros.
fn is_lost(machine: &Machine, disk: &str, index: u32) -> Result<bool> {
    let read = format!(
        "dd if=/dev/disk/by-id/virtio-{disk} bs=1M skip={index} count=1 2>/dev/null | tr -d '\\0' | wc -c"
    );
    Ok(machine.sh(&read)?.trim() == "0")
}

fn write(machine: &Machine, disk: &str, index: u32, options: &str) -> Result<()> {
    let to = format!("/dev/disk/by-id/virtio-{disk} bs=1M seek={index} count=1");
    machine
        .sh(&format!(
            "tr '\\0' x </dev/zero | head -c 1048576 >/tmp/x; /lab/bin/dd if=/tmp/x of={to} {options}"
        ))
        .map(drop)
}

#[test]
fn a_power_cut_loses_what_was_not_flushed_and_nothing_else() -> Result<()> {
    let lab = Lab::new("disk")?;
    let (volatile, plain) = (lab.disk("cached", 64 << 20)?, lab.plain_disk("plain", 64 << 20)?);
    let vm = lab.machine("n1").disk(&volatile).disk(&plain).boot()?;
    // busybox's dd knows no dsync.
    lab.install("/bin/dd".as_ref())?;
    write(&vm, "cached", 1, "oflag=direct conv=fsync")?;
    write(&vm, "cached", 2, "oflag=direct,dsync")?;
    // O_DIRECT alone brings the data to the disk, and there it stays in the cache.
    write(&vm, "cached", 3, "oflag=direct")?;
    write(&vm, "plain", 3, "oflag=direct")?;
    ensure!(!is_lost(&vm, "cached", 3)?, "what was written is read back before the cut");
    vm.power_cut();
    vm.boot()?;
    ensure!(!is_lost(&vm, "cached", 1)?, "lost what fsync was called for");
    ensure!(!is_lost(&vm, "cached", 2)?, "lost what was written with O_DSYNC");
    ensure!(is_lost(&vm, "cached", 3)?, "kept what was never flushed");
    ensure!(!is_lost(&vm, "plain", 3)?, "a plain disk lost something");
    // An orderly end loses nothing: it is all in the image.
    write(&vm, "cached", 4, "oflag=direct")?;
    vm.shutdown()?;
    let image = std::fs::read(volatile.path())?;
    ensure!(
        image.get(4 << 20..5 << 20).is_some_and(|mib| mib.iter().all(|b| *b == b'x')),
        "shutdown lost data"
    );
    Ok(())
}
