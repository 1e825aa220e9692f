//! The root file system: a small Debian with the tools that the crates are compared with.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{SUITE, cached, key, tool};

/// Changes when the image is made in another way.
const RECIPE: &str = "root-3";

/// A set of packages on top of a minimal Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// The name by which a machine asks for it.
    pub name: &'static str,
    /// Debian packages; what they depend on comes with them, what they recommend does not.
    pub packages: &'static [&'static str],
}

/// What every variant has.
const BASE: &[&str] = &[
    "udev",
    "kmod",
    "iproute2",
    "ethtool",
    "procps",
    "dbus",
    "busybox-static",
    "util-linux",
    "e2fsprogs",
    "iputils-ping",
    "iputils-arping",
    "tcpdump",
    "strace",
    "python3",
    "irqbalance",
    "nftables",
    "drbd-utils",
    "targetcli-fb",
    "open-iscsi",
    "multipath-tools",
    "cryptsetup-bin",
    "dmsetup",
    "mdadm",
    "lvm2",
    "fio",
    "sg3-utils",
    "libiscsi-bin",
];

/// The variants. To add one, add a line; it is made when a machine asks for it.
pub const VARIANTS: &[Variant] = &[
    // The storage tools. The default.
    Variant { name: "base", packages: &[] },
    // The storage tools and a cluster.
    Variant {
        name: "cluster",
        packages: &[
            "corosync",
            "pacemaker",
            "pacemaker-cli-utils",
            "resource-agents",
            "crmsh",
            "fence-agents",
        ],
    },
    // The storage tools and what moves interrupts.
    Variant { name: "irqbalance", packages: &["irqbalance"] },
    // The storage tools and another way to describe a network.
    Variant { name: "ifupdown2", packages: &["ifupdown2"] },
    // The storage tools, the lock managers of a shared volume group, and what starts them at boot.
    Variant { name: "shared-vg", packages: &["lvm2-lockd", "sanlock", "systemd"] },
    // The storage tools, a TPM in software, and what binds volumes to it.
    Variant {
        name: "tpm",
        packages: &[
            "swtpm",
            "tpm2-tools",
            "systemd",
            "libtss2-esys-3.0.2-0",
            "libtss2-rc0",
            "libtss2-tcti-device0",
            "clevis-luks",
            "clevis-tpm2",
        ],
    },
];

/// Makes or finds the ext4 image of a variant.
///
/// # Errors
/// If there is no such variant, the caller is not root, or a package cannot be installed.
pub fn make(variant: &str) -> Result<PathBuf> {
    let known = VARIANTS.iter().find(|v| v.name == variant).with_context(|| {
        let names: Vec<&str> = VARIANTS.iter().map(|v| v.name).collect();
        format!("unknown root file system {variant:?}, known are {}", names.join(", "))
    })?;
    let packages: Vec<&str> = BASE.iter().chain(known.packages).copied().collect();
    let list = packages.join(",");
    let name = format!("root-{variant}-{}.ext4", key(&[RECIPE, SUITE, &list]));
    cached(&name, &format!("root file system {variant:?}, about a minute"), |image| build(&list, image))
}

fn build(packages: &str, image: &Path) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("making a root file system needs root (files of many owners); run it as root once");
    }
    let tree = image.with_extension("tree");
    super::remove(&tree)?;
    let mut arguments: Vec<String> =
        ["--variant=minbase", "--mode=root", "--quiet", "--format=directory"].map(str::to_owned).to_vec();
    arguments.push(format!("--include={packages}"));
    for path in ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*"] {
        arguments.push(format!("--dpkgopt=path-exclude={path}"));
    }
    // initramfs-tools and kernel hooks have nothing to do in an image without a kernel.
    arguments.extend([SUITE.to_owned(), tree.to_string_lossy().into_owned()]);
    tool("mmdebstrap", &arguments)?;
    let result = furnish(&tree).and_then(|()| ext4(&tree, image, "lab-root", 1024));
    super::remove(&tree)?;
    result
}

/// Puts the few files into the tree that every machine wants.
fn furnish(tree: &Path) -> Result<()> {
    for dir in ["var/lib/apt/lists", "var/cache/apt", "usr/lib/modules"] {
        super::remove(&tree.join(dir))?;
        fs::create_dir_all(tree.join(dir))?;
    }
    for dir in ["lab", "etc/modprobe.d", "etc/target/pr", "etc/iscsi"] {
        fs::create_dir_all(tree.join(dir))?;
    }
    let files = [
        ("etc/hostname", "lab\n"),
        ("etc/hosts", "127.0.0.1 localhost\n"),
        ("etc/fstab", ""),
        ("etc/machine-id", "00000000000000000000000000000001\n"),
        ("etc/modprobe.d/lab.conf", "options bonding max_bonds=0\n"),
        ("root/.bashrc", "PS1='\\h:\\w# '\nalias ll='ls -l'\n"),
    ];
    for (name, content) in files {
        let path = tree.join(name);
        super::remove(&path)?;
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Makes an ext4 image of a directory, `spare` MiB larger than its content.
pub(crate) fn ext4(tree: &Path, image: &Path, label: &str, spare: u64) -> Result<()> {
    let usage = tool("du", ["-s", "-k", "--apparent-size", &tree.to_string_lossy()])?;
    let usage: u64 = usage.split_whitespace().next().unwrap_or_default().parse().context("output of du")?;
    let size = usage * 5 / 4 + (spare + 16) * 1024;
    let arguments = ["-q", "-F", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-m", "0", "-L", label];
    let mut arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
    arguments.extend(["-E".to_owned(), "lazy_itable_init=1,root_owner=0:0".to_owned(), "-d".to_owned()]);
    arguments.extend([tree.to_string_lossy().into_owned(), image.to_string_lossy().into_owned()]);
    arguments.push(format!("{size}k"));
    tool("mke2fs", &arguments).map(drop)
}
