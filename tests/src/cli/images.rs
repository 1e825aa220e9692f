//! `lab images`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::image::{Kernel, cache_dir, check_host, initramfs, kernel, prune, rootfs};

/// Makes everything that an ordinary run needs.
pub(super) fn make() -> Result<ExitCode> {
    check_host()?;
    println!("cache: {}", cache_dir()?.display());
    let (mut download, start) = (Duration::ZERO, Instant::now());
    for version in Kernel::ALL {
        let time = kernel::download(version)?;
        download += time;
        println!("{:8.1} s  download of kernel {version}", time.as_secs_f64());
        let image = timed(&format!("kernel {version}"), || kernel::make(version))?;
        timed(&format!("tiny initramfs of {}", image.release), || initramfs::base(&image))?;
        timed(&format!("modules disk of {}", image.release), || kernel::modules_disk(&image))?;
    }
    timed("root file system base (with its downloads)", || rootfs::make("base"))?;
    for path in prune()? {
        println!("            removed {}: not used for 30 days", path.display());
    }
    let (all, download) = (start.elapsed().as_secs_f64(), download.as_secs_f64());
    println!("{all:8.1} s  in all, {download:.1} s of it downloads of kernels");
    Ok(ExitCode::SUCCESS)
}

fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = work()?;
    println!("{:8.1} s  {what}", start.elapsed().as_secs_f64());
    Ok(result)
}
