//! What is needed in a guest of the lab.
#![allow(dead_code, clippy::expect_used, clippy::disallowed_methods)] // It is for tests.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use libtest_mimic::Failed;
use luks::{DmName, Host, Luks};

/// Whether this is a guest; says so if not.
pub(crate) fn ready() -> bool {
    let ready = Host::live().tree().read("/proc/cmdline").unwrap_or_default().contains("lab.mode=");
    if !ready {
        println!("kernel tests are ignored here: they need a lab guest, run `lab test luks`");
    }
    ready
}

/// The node of one of the lab's spare disks, found by its serial number.
pub(crate) fn disk(serial: &str) -> Result<String, Failed> {
    let tree = Host::live().tree().clone();
    for entry in tree.list("/sys/block")? {
        if tree.read_opt(format!("/sys/block/{}/serial", entry.name))?.is_some_and(|s| s.trim() == serial) {
            return Ok(format!("/dev/{}", entry.name));
        }
    }
    Err(format!("no disk {serial}").into())
}

/// Closes whatever is open.
pub(crate) fn close_all(luks: &Luks) -> Result<(), Failed> {
    for _ in 0..4 {
        for mapping in luks.list()? {
            // Devices lie on each other while a reencryption is under way: those below go in the next round.
            drop(luks.remove(&DmName::from_kernel(mapping.name)));
        }
    }
    match luks.list()?.as_slice() {
        [] => Ok(()),
        left => Err(format!("cannot close {left:?}").into()),
    }
}

/// Zeros where headers and signatures can be.
pub(crate) fn clear(device: &str) -> Result<(), Failed> {
    let mut file = OpenOptions::new().write(true).open(device)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..20 {
        file.write_all(&zeros)?;
    }
    file.seek(SeekFrom::End(-(1 << 20)))?;
    file.write_all(&zeros)?;
    Ok(file.sync_all()?)
}

/// Gives the kernel time for what it does after a close.
pub(crate) fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(300));
}

/// One page that says where it belongs.
fn page(number: u64) -> Vec<u8> {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes().repeat(512)
}

/// Writes pages that say where they belong, every `step`-th.
pub(crate) fn fill(device: &Path, step: u64) -> Result<u64, Failed> {
    let mut file = OpenOptions::new().write(true).open(device)?;
    let pages = file.seek(SeekFrom::End(0))? / 4096;
    for number in (0..pages).step_by(usize::try_from(step)?) {
        file.seek(SeekFrom::Start(number * 4096))?;
        file.write_all(&page(number))?;
    }
    file.sync_all()?;
    Ok(pages)
}

/// Reads them; says which is wrong.
pub(crate) fn check(device: &Path, step: u64) -> Result<(), Failed> {
    let mut file = std::fs::File::open(device)?;
    // Under emulation decrypting what nobody asked for costs most of the time.
    // SAFETY: the descriptor is open; the call takes numbers only.
    let advised = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
    assert_eq!(advised, 0);
    let pages = file.seek(SeekFrom::End(0))? / 4096;
    let mut seen = vec![0; 4096];
    for number in (0..pages).step_by(usize::try_from(step)?) {
        file.seek(SeekFrom::Start(number * 4096))?;
        file.read_exact(&mut seen)?;
        if seen != page(number) {
            return Err(
                format!("page {number} of {pages} of {} is not what was written", device.display()).into()
            );
        }
    }
    Ok(())
}
