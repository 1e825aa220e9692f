//! Debian's kernels: found, downloaded and unpacked.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Kernel, cache_dir, cached, key, tool};

/// Changes when the unpacked tree is made in another way.
const RECIPE: &str = "kernel-3";

/// Directories of modules that no guest can use; they are half of the package.
const LEFT_OUT: [&str; 17] = [
    "sound",
    "drivers/gpu",
    "drivers/media",
    "drivers/staging",
    "drivers/iio",
    "drivers/bluetooth",
    "drivers/net/wireless",
    "drivers/usb",
    "drivers/hid",
    "drivers/hwmon",
    "drivers/comedi",
    "drivers/platform",
    "drivers/input",
    "drivers/mtd",
    "drivers/video",
    "drivers/mmc",
    "net/bluetooth",
];

/// An unpacked kernel.
#[derive(Debug, Clone)]
pub struct KernelImage {
    /// Directory with `vmlinux` and `lib/modules/RELEASE`.
    pub path: PathBuf,
    /// What `uname -r` says in the guest.
    pub release: String,
    /// The Debian version of the package, such as `6.1.192-2`.
    pub version: String,
}

impl KernelImage {
    /// The kernel QEMU boots, uncompressed: QEMU enters it directly (PVH), while an emulated processor takes
    /// four seconds to decompress Debian's `vmlinuz`.
    #[must_use]
    pub fn vmlinux(&self) -> PathBuf {
        self.path.join("vmlinux")
    }

    /// The directory with `modules.dep`.
    #[must_use]
    pub fn modules(&self) -> PathBuf {
        self.path.join("lib/modules").join(&self.release)
    }
}

/// The package that a metapackage stands for at the moment.
#[derive(Debug, Clone)]
struct Package {
    name: String,
    version: String,
}

/// Makes or finds the unpacked kernel.
///
/// # Errors
/// If apt knows no such package, the download fails, or a host tool is missing.
pub fn make(kernel: Kernel) -> Result<KernelImage> {
    let package = resolve(kernel)?;
    let name = image_name(kernel, &package);
    let path = cached(&name, &format!("kernel {kernel} ({} {})", package.name, package.version), |dir| {
        unpack(&package, dir)
    })?;
    let release = fs::read_to_string(path.join("release")).context("kernel image without release")?;
    let version = package.version;
    Ok(KernelImage { path, release, version })
}

/// Makes or finds the disk image with the kernel's modules, for guests with a root file system.
///
/// # Errors
/// As [`make`].
pub fn modules_disk(kernel: &KernelImage) -> Result<PathBuf> {
    let id = kernel.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    cached(&format!("{id}.modules"), &format!("modules disk of {}", kernel.release), |image| {
        super::rootfs::ext4(&kernel.path.join("lib/modules"), image, "lab-modules", 32)
    })
}

/// Downloads the package of a kernel into the cache, if its image has yet to be made. Returns the time it
/// took.
///
/// # Errors
/// As [`make`].
pub fn download(kernel: Kernel) -> Result<Duration> {
    let start = Instant::now();
    let package = resolve(kernel)?;
    if !cache_dir()?.join(image_name(kernel, &package)).exists() {
        fetch(&package)?;
    }
    Ok(start.elapsed())
}

fn image_name(kernel: Kernel, package: &Package) -> String {
    format!("kernel-{kernel}-{}", key(&[RECIPE, super::SUITE, &package.name, &package.version]))
}

/// Asks apt which package a metapackage means now. The answer is remembered until the package lists change.
fn resolve(kernel: Kernel) -> Result<Package> {
    let memory = cache_dir()?.join(format!("kernel-{kernel}.resolved"));
    let age = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    let lists = age(Path::new("/var/lib/apt/lists"));
    if age(&memory) > lists
        && let Ok(text) = fs::read_to_string(&memory)
        && let Some((name, version)) = text.trim().split_once(' ')
    {
        return Ok(Package { name: name.to_owned(), version: version.to_owned() });
    }
    let meta = kernel.metapackage();
    let depends = tool("apt-cache", ["depends", "--important", meta])
        .with_context(|| format!("apt knows no package {meta}: run `apt-get update`"))?;
    let name = depends.lines().find_map(|l| l.trim().strip_prefix("Depends: ")).with_context(|| {
        format!("apt knows no candidate of {meta} (is bookworm-security among its sources?): {depends}")
    })?;
    let show = tool("apt-cache", ["show", "--no-all-versions", name])?;
    let version = show.lines().find_map(|l| l.strip_prefix("Version: "));
    let version = version.with_context(|| format!("apt knows no version of {name}"))?;
    let package = Package { name: name.to_owned(), version: version.to_owned() };
    fs::write(&memory, format!("{} {}\n", package.name, package.version))
        .with_context(|| format!("cannot write {}", memory.display()))?;
    Ok(package)
}

/// Returns the downloaded package file.
fn fetch(package: &Package) -> Result<PathBuf> {
    fetch_named(&package.name, &package.version)
}

/// Downloads a package of the host's suite into the cache, unless it is there.
pub(crate) fn fetch_named(name: &str, version: &str) -> Result<PathBuf> {
    let id = format!("deb-{name}-{}", key(&[name, version]));
    let dir = cached(&id, &format!("download of {name} {version}"), |dir| {
        fs::create_dir(dir)?;
        let script = "cd \"$1\" && apt-get -q -o APT::Sandbox::User=root download \"$2\"";
        let wanted = if version.is_empty() { name.to_owned() } else { format!("{name}={version}") };
        tool("sh", ["-c", script, "sh", &dir.to_string_lossy(), &wanted]).map(drop)
    })?;
    let mut files = fs::read_dir(&dir)?.filter_map(Result::ok).map(|e| e.path());
    files.find(|p| p.extension().is_some_and(|e| e == "deb")).context("apt-get download left no package")
}

fn unpack(package: &Package, dir: &Path) -> Result<()> {
    let deb = fetch(package)?;
    fs::create_dir(dir)?;
    tool("dpkg-deb", [Path::new("-x"), &deb, dir])?;
    let entry = fs::read_dir(dir.join("lib/modules"))?.next().context("package without modules")??;
    let release = entry.file_name().to_string_lossy().into_owned();
    extract(&dir.join("boot").join(format!("vmlinuz-{release}")), &dir.join("vmlinux"))?;
    for name in ["boot", "usr"] {
        super::remove(&dir.join(name))?;
    }
    let modules = entry.path();
    for part in LEFT_OUT {
        super::remove(&modules.join("kernel").join(part))?;
    }
    // 6.12 has compressed modules; unpacking them in an emulated processor would cost seconds at each boot.
    let modules_text = modules.to_string_lossy();
    let script = "find \"$1\" -name '*.ko.xz' -print0 | xargs -0 -r -n 64 xz -d -T 2";
    tool("sh", ["-c", script, "sh", &modules_text])?;
    tool("depmod", ["-b", &dir.to_string_lossy(), &release])?;
    if !modules.join("modules.dep").exists() {
        bail!("depmod made no modules.dep in {modules_text}");
    }
    fs::write(dir.join("release"), &release)?;
    Ok(())
}

/// Extracts the ELF kernel from a bzImage.
fn extract(bzimage: &Path, vmlinux: &Path) -> Result<()> {
    let image = fs::read(bzimage).with_context(|| format!("cannot read {}", bzimage.display()))?;
    let payload = payload(&image).context("not a bzImage of boot protocol 2.08 or later")?;
    let program = match payload {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x1f, 0x8b, ..] => "gzip",
        _ => bail!("{} is compressed in an unknown way", bzimage.display()),
    };
    let packed = vmlinux.with_extension("packed");
    fs::write(&packed, payload)?;
    let script = "\"$1\" -dc <\"$2\" >\"$3\"";
    tool("sh", ["-c", script, "sh", program, &packed.to_string_lossy(), &vmlinux.to_string_lossy()])?;
    super::remove(&packed)
}

/// The compressed kernel in a bzImage (Linux Documentation/arch/x86/boot.rst: `setup_sects` at 0x1f1,
/// `payload_offset` and `payload_length` at 0x248), without the size that the build appends to it.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let setup = (usize::from(*image.get(0x1f1)?) + 1) * 512;
    let start = setup.checked_add(word(0x248)?)?;
    image.get(start..start.checked_add(word(0x24c)?)?.checked_sub(4)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_found_where_the_boot_protocol_says() {
        let mut image = vec![0; 4096];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&12_u32.to_le_bytes());
        image[1040..1048].copy_from_slice(b"payload!");
        assert_eq!(payload(&image), Some(b"payload!".as_slice()));
        assert_eq!(payload(&image[..1000]), None);
        assert_eq!(payload(&[0; 1024]), None);
    }
}
