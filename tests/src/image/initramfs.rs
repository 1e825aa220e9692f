//! The tiny initramfs: busybox, kmod, the modules storage and network tests want, and the guest agent.
//!
//! One initramfs serves both modes. `lab.mode=tiny` stays in it, `lab.mode=root` mounts the root disk and
//! switches to it. It is not compressed: unpacking costs an emulated processor more than reading.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::kernel::KernelImage;
use super::{cached, key, ldd, tool};

/// Changes when the base archive is made in another way.
const RECIPE: &str = "initramfs-3";

/// The init script of the initramfs.
const INIT: &str = include_str!("../guest/init.sh");

/// What runs first on the root file system. It is delivered with the initramfs, so that changing it does not
/// mean making the root file system again.
const ROOT_INIT: &str = include_str!("../guest/root.sh");

/// The modules of the tiny initramfs; what they depend on comes with them. A name that a kernel has built in
/// or does not have is left out.
const MODULES: &[&str] = &[
    // Devices of the machine.
    "virtio_pci virtio_blk virtio_net virtio_console virtio_scsi virtio_rng virtio_balloon nvme ahci sd_mod sr_mod",
    "e1000 e1000e vmxnet3 9p 9pnet_virtio ext4 softdog i6300esb",
    // DRBD, targets, initiators.
    "drbd lru_cache libcrc32c crc32c_generic target_core_mod target_core_iblock target_core_file",
    "target_core_pscsi target_core_user iscsi_target_mod tcm_loop iscsi_tcp scsi_transport_iscsi scsi_dh_alua",
    "scsi_debug",
    // Device mapper and other block layers.
    "dm_mod dm_crypt dm_multipath dm_round_robin dm_service_time dm_queue_length dm_historical_service_time",
    "dm_io_affinity dm_zero dm_delay dm_flakey dm_mirror dm_snapshot dm_thin_pool dm_log_writes dm_dust dm_integrity",
    "raid1 loop brd null_blk",
    // Network.
    "bonding 8021q dummy veth bridge macvlan ipvlan vlan_mon nlmon tun sch_netem sch_tbf sch_fq sch_ingress",
    "sch_prio cls_u32 cls_matchall act_mirred act_gact nf_tables nft_ct nft_reject_inet nft_limit nft_counter",
    "nft_compat nfnetlink_log tcp_diag inet_diag udp_diag af_packet_diag netlink_diag ifb vxlan af_packet",
    // Crypto.
    "xts cbc ecb ctr gcm essiv authenc authencesn sha256_generic sha512_generic sha1_generic md5 hmac",
    "aes_generic aesni_intel algif_skcipher algif_hash algif_aead algif_rng encrypted_keys trusted",
    "adiantum wp512 blake2b_generic serpent_generic twofish_generic cmac crypto_null echainiv seqiv",
];

/// Makes or finds the part of the initramfs that does not change with the agent.
///
/// # Errors
/// If a package cannot be downloaded or a host tool is missing.
pub fn base(kernel: &KernelImage) -> Result<PathBuf> {
    let id = kernel.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let modules = MODULES.join(" ");
    let kmod = which("kmod")?;
    let stamp = fs::metadata(&kmod)?.len().to_string();
    let name =
        format!("initramfs-{}-{}", kernel.release, key(&[RECIPE, super::SUITE, &id, &modules, &stamp]));
    cached(&name, &format!("initramfs of {}", kernel.release), |path| build(kernel, &kmod, path))
}

/// Writes the whole initramfs to `path`: the base, the agent with its libraries, and the scripts.
///
/// # Errors
/// If the agent cannot be read or the file not be written.
pub fn write(kernel: &KernelImage, agent: &Path, path: &Path) -> Result<()> {
    let base = base(kernel)?;
    let extra = path.with_extension("extra");
    let mut archive = Archive::create(&extra)?;
    archive.file("init", 0o755, INIT.as_bytes())?;
    archive.file("lab/root.sh", 0o755, ROOT_INIT.as_bytes())?;
    archive.copy("lab/agent", 0o755, agent)?;
    for library in ldd::closure(agent)? {
        add_library(&mut archive, &library)?;
    }
    archive.finish()?;
    let mut out = fs::File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    for part in [&base, &extra] {
        let mut part = fs::File::open(part)?;
        io::copy(&mut part, &mut out)?;
    }
    out.flush()?;
    super::remove(&extra)
}

/// Adds a library under the path the loader looks it up by. Debian's `/lib` is a link to `/usr/lib`; the
/// initramfs has real directories, so the path that ldd printed is taken as it is.
fn add_library(archive: &mut Archive, library: &Path) -> Result<()> {
    let text = library.to_string_lossy();
    let inside = text.strip_prefix("/usr").filter(|t| t.starts_with("/lib")).unwrap_or(&text);
    archive.copy(inside.trim_start_matches('/'), 0o755, library)
}

fn build(kernel: &KernelImage, kmod: &Path, path: &Path) -> Result<()> {
    let mut archive = Archive::create(path)?;
    for dir in [
        "proc", "sys", "dev", "run", "tmp", "root", "etc", "var", "mnt", "lab", "bin", "sbin", "usr",
        "var/lib",
    ] {
        archive.directory(dir)?;
    }
    archive.character_device("dev/console", 5, 1)?;
    archive.character_device("dev/null", 1, 3)?;
    archive.link("var/run", "/run")?;
    archive.link("usr/bin", "/bin")?;
    archive.link("usr/sbin", "/sbin")?;
    archive.link("usr/lib", "/lib")?;
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
    archive.file("etc/group", 0o644, b"root:x:0:\n")?;
    archive.file("etc/hosts", 0o644, b"127.0.0.1 localhost\n")?;
    // A bond0 that nobody asked for would be in the way of every bonding test.
    archive.file("etc/modprobe.d/lab.conf", 0o644, b"options bonding max_bonds=0\n")?;
    for name in ["kmod", "modprobe", "insmod", "rmmod", "lsmod", "modinfo", "depmod"] {
        archive.link(&format!("sbin/{name}"), "/bin/kmod")?;
    }
    archive.copy("bin/kmod", 0o755, kmod)?;
    for library in ldd::closure(kmod)? {
        add_library(&mut archive, &library)?;
    }
    add_busybox(&mut archive)?;
    add_modules(&mut archive, kernel, &path.with_extension("stage"))?;
    archive.finish()?;
    Ok(())
}

fn add_busybox(archive: &mut Archive) -> Result<()> {
    let deb = super::kernel::fetch_named("busybox-static", "")?;
    let dir = deb.with_extension("unpacked");
    super::remove(&dir)?;
    tool("dpkg-deb", [Path::new("-x"), &deb, &dir])?;
    let busybox = ["bin/busybox", "usr/bin/busybox"].iter().map(|p| dir.join(p)).find(|p| p.exists());
    let busybox = busybox.context("package busybox-static without busybox")?;
    archive.copy("bin/busybox", 0o755, &busybox)?;
    for applet in tool(&busybox.to_string_lossy(), ["--list-full"])?.lines() {
        // usr/bin and usr/sbin are links to bin and sbin.
        let applet = applet.strip_prefix("usr/").unwrap_or(applet);
        // kmod's programs are there already, under sbin; busybox has some of them under bin.
        let name = applet.rsplit('/').next().unwrap_or_default();
        if !["modprobe", "insmod", "rmmod", "lsmod", "modinfo", "depmod", "busybox", "init"].contains(&name) {
            archive.link(applet, "/bin/busybox")?;
        }
    }
    super::remove(&dir)
}

/// Adds the wanted modules and an index of just them.
fn add_modules(archive: &mut Archive, kernel: &KernelImage, stage: &Path) -> Result<()> {
    super::remove(stage)?;
    let source = kernel.modules();
    let inside = format!("lib/modules/{}", kernel.release);
    let target = stage.join(&inside);
    fs::create_dir_all(&target)?;
    let read = |name: &str| {
        fs::read_to_string(source.join(name))
            .with_context(|| format!("cannot read {name} of {}", kernel.release))
    };
    let chosen = closure(&read("modules.dep")?, &read("modules.softdep")?, &MODULES.join(" "));
    for module in &chosen {
        let to = target.join(module);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(source.join(module), &to).with_context(|| format!("cannot copy module {module}"))?;
    }
    for name in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        fs::copy(source.join(name), target.join(name)).with_context(|| format!("cannot copy {name}"))?;
    }
    tool("depmod", ["-b", &stage.to_string_lossy(), &kernel.release])?;
    for module in &chosen {
        archive.copy(&format!("{inside}/{module}"), 0o644, &target.join(module))?;
    }
    for entry in fs::read_dir(&target)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            archive.copy(&format!("{inside}/{name}"), 0o644, &entry.path())?;
        }
    }
    super::remove(stage)
}

/// The files of the wanted modules and of all they need, hard and soft.
fn closure(dep: &str, softdep: &str, wanted: &str) -> BTreeSet<String> {
    let name_of = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or_default();
        file.split(".ko").next().unwrap_or_default().replace('-', "_")
    };
    let lines = dep.lines().filter_map(|line| line.split_once(':'));
    let needs: BTreeMap<String, (&str, &str)> = lines.map(|(p, d)| (name_of(p), (p, d))).collect();
    let mut soft: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in softdep.lines().filter_map(|line| line.strip_prefix("softdep ")) {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default().replace('-', "_");
        let after = words.filter(|w| !w.ends_with(':')).map(|w| w.replace('-', "_"));
        soft.entry(name).or_default().extend(after);
    }
    let mut todo: VecDeque<String> = wanted.split_whitespace().map(|n| n.replace('-', "_")).collect();
    let mut files = BTreeSet::new();
    while let Some(name) = todo.pop_front() {
        let Some((path, dependencies)) = needs.get(&name) else { continue };
        if files.insert((*path).to_owned()) {
            todo.extend(dependencies.split_whitespace().map(name_of));
            todo.extend(soft.get(&name).into_iter().flatten().cloned());
        }
    }
    files
}

/// Finds a program in the usual directories.
pub(crate) fn which(program: &str) -> Result<PathBuf> {
    let dirs = ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"];
    let found = dirs.iter().map(|dir| Path::new(dir).join(program)).find(|path| path.exists());
    found.with_context(|| format!("the host has no program {program:?}; {}", crate::deps::hint(program)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_and_soft_dependencies_come_along() {
        let dep = "kernel/a-b.ko: kernel/c.ko\nkernel/c.ko:\nkernel/d.ko.xz:\nkernel/e.ko:\n";
        let got = closure(dep, "# x\nsoftdep c pre: d post: nowhere\n", "a_b unknown");
        assert_eq!(got.into_iter().collect::<Vec<_>>(), ["kernel/a-b.ko", "kernel/c.ko", "kernel/d.ko.xz"]);
    }
}
