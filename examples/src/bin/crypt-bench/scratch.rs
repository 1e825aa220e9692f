//! What is measured on: a device of the user's, or one of dm-zero, made and removed here.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use host::Bytes;

/// A device whose content may be lost.
#[derive(Debug)]
pub(crate) enum Scratch {
    Given(PathBuf),
    Zero { name: String, path: PathBuf },
}

impl Scratch {
    pub(crate) fn given(path: PathBuf) -> Self {
        Self::Given(path)
    }

    /// A device that swallows what is written and reads as zeroes: `dmsetup create NAME --table "0 SECTORS zero"`.
    pub(crate) fn zero(size: Bytes) -> Result<Self> {
        let name = format!("sankit-zero-{}", std::process::id());
        // Built into some kernels; where it is missing, dmsetup says so.
        let _ = Command::new("modprobe").arg("dm-zero").output();
        dmsetup(&["create", &name, "--table", &format!("0 {} zero", size.sectors().0)])?;
        Ok(Self::Zero { path: Path::new("/dev/mapper").join(&name), name })
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Given(path) | Self::Zero { path, .. } => path,
        }
    }

    /// For people.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Given(path) => path.display().to_string(),
            Self::Zero { .. } => "dm-zero, no disk in the way".to_owned(),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Self::Zero { name, .. } = self
            && let Err(error) = dmsetup(&["remove", "--retry", name])
        {
            eprintln!("crypt-bench: {error:#}; remove it with dmsetup remove {name}");
        }
    }
}

fn dmsetup(args: &[&str]) -> Result<()> {
    let Output { status, stderr, .. } = Command::new("dmsetup")
        .args(args)
        .output()
        .context("cannot run dmsetup; install the package dmsetup")?;
    if !status.success() {
        bail!("dmsetup {}: {}", args.join(" "), String::from_utf8_lossy(&stderr).trim());
    }
    Ok(())
}
