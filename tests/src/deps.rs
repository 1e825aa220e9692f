//! The programs of the host that the lab uses, and the Debian packages they come from.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// A Debian package and what the lab needs it for.
#[derive(Debug, Clone, Copy)]
pub struct Dependency {
    /// Debian package.
    pub package: &'static str,
    /// Program of the package that the lab runs.
    pub program: &'static str,
    /// What for.
    pub why: &'static str,
}

/// Everything the host must have.
pub const DEPENDENCIES: &[Dependency] = &[
    Dependency {
        package: "qemu-system-x86",
        program: "qemu-system-x86_64",
        why: "runs the virtual machines",
    },
    Dependency {
        package: "nbdkit",
        program: "nbdkit",
        why: "gives disks a write cache that a power cut empties",
    },
    Dependency { package: "mmdebstrap", program: "mmdebstrap", why: "makes the guests' root file system" },
    Dependency { package: "e2fsprogs", program: "mke2fs", why: "makes disk images without mounting them" },
    Dependency {
        package: "kmod",
        program: "kmod",
        why: "indexes modules on the host, loads them in the guests",
    },
    Dependency { package: "libc-bin", program: "ldd", why: "finds the libraries of test binaries" },
    Dependency { package: "xz-utils", program: "xz", why: "unpacks kernel modules" },
    Dependency { package: "zstd", program: "zstd", why: "unpacks kernels 6.12 and later" },
    Dependency { package: "dpkg", program: "dpkg-deb", why: "unpacks Debian packages" },
    Dependency {
        package: "drbd-utils",
        program: "drbdmeta",
        why: "is what our DRBD metadata is compared with",
    },
    Dependency { package: "apt", program: "apt-get", why: "downloads Debian packages" },
];

/// What to do about a missing program.
pub(crate) fn hint(program: &str) -> String {
    let names = match program {
        "depmod" => "kmod",
        "du" | "sh" => return "it should be on every Debian".to_owned(),
        "apt-cache" => "apt-get",
        other => other,
    };
    match DEPENDENCIES.iter().find(|d| d.program == names) {
        Some(d) => format!("install it with `apt-get install {}` (or `lab deps --install`)", d.package),
        None => "install the Debian package that has it".to_owned(),
    }
}

/// The dependencies whose program is not on this host.
#[must_use]
pub fn missing() -> Vec<Dependency> {
    let absent = |d: &&Dependency| crate::image::initramfs::which(d.program).is_err();
    DEPENDENCIES.iter().filter(absent).copied().collect()
}

/// Installs what is missing with apt-get and says what and why.
///
/// # Errors
/// If apt-get fails; it needs root.
pub fn install() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    for d in &missing {
        println!("installing {}: {}", d.package, d.why);
    }
    let mut command = Command::new("apt-get");
    command.args(["install", "-y", "-q", "--no-install-recommends"]).args(missing.iter().map(|d| d.package));
    command.env("DEBIAN_FRONTEND", "noninteractive");
    let status = command.status().context("cannot run apt-get")?;
    if !status.success() {
        bail!("apt-get install failed ({status}); it needs root and package lists (apt-get update)");
    }
    Ok(())
}
