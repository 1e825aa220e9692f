//! What is needed in a guest of the lab.
#![allow(dead_code, clippy::expect_used, clippy::disallowed_methods, clippy::indexing_slicing)] // It is for tests.

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
///
/// It is told to have no turning parts: on those libcryptsetup wipes a key slot 39 times over, minutes under emulation. A partition always counts
/// as one that turns (`crypt_dev_is_rotational` asks for `queue/rotational`, which partitions lack).
pub(crate) fn disk(serial: &str) -> Result<String, Failed> {
    let tree = Host::live().tree().clone();
    for entry in tree.list("/sys/block")? {
        if tree.read_opt(format!("/sys/block/{}/serial", entry.name))?.is_some_and(|s| s.trim() == serial) {
            tree.write(format!("/sys/block/{}/queue/rotational", entry.name), "0")?;
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
    file.sync_all()?;
    reread(&file);
    Ok(())
}

/// Lets the kernel read the partition table again (`BLKRRPART`, linux/fs.h).
fn reread(disk: &std::fs::File) {
    // SAFETY: the request takes an open descriptor and no argument.
    let code = unsafe { libc::ioctl(disk.as_raw_fd(), 0x125f) };
    assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
}

/// Makes one partition of 48 MiB: what is reencrypted under an emulated processor had better be small.
pub(crate) fn small(disk: &str) -> Result<String, Failed> {
    let mut table = vec![0; 512];
    // One entry of type 0x83 from sector 2048, and the mark.
    table[446 + 4] = 0x83;
    table[446 + 8..446 + 12].copy_from_slice(&2048_u32.to_le_bytes());
    table[446 + 12..446 + 16].copy_from_slice(&(48_u32 * 2048).to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut file = OpenOptions::new().write(true).open(disk)?;
    file.write_all(&table)?;
    file.sync_all()?;
    reread(&file);
    drop(file);
    let (node, start) = (format!("{disk}1"), std::time::Instant::now());
    while !Path::new(&node).exists() {
        if start.elapsed().as_secs() > 20 {
            return Err(format!("{node} does not come up").into());
        }
        settle();
    }
    Ok(node)
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

/// Puts a key into the process's keyring (`add_key(2)`), as a program would that gets it from elsewhere.
pub(crate) fn into_keyring(description: &str, payload: &[u8]) {
    let text = std::ffi::CString::new(description).expect("no NUL");
    let ring: libc::c_long = -2; // KEY_SPEC_PROCESS_KEYRING
    // SAFETY: the texts are NUL-terminated, the payload is a live slice of that length.
    let id = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            text.as_ptr(),
            payload.as_ptr(),
            payload.len(),
            ring,
        )
    };
    assert!(id > 0, "{}", std::io::Error::last_os_error());
}
