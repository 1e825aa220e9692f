//! One run of a lab: its directories, its boot files, what is swept after a killed one.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use std::{env, io};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::Machine;
use crate::accel::{self, Accel};
use crate::guard::{Dir, locked};
use crate::image::kernel::KernelImage;
use crate::image::{Kernel, initramfs, kernel};

/// Logs of failed runs are kept this long.
const KEEP: Duration = Duration::from_secs(3 * 24 * 3600);

/// What a machine needs to boot.
#[derive(Debug, Clone)]
pub(crate) struct Boot {
    pub(crate) kernel: KernelImage,
    pub(crate) initrd: PathBuf,
}

/// What all parts of a lab share.
#[derive(Debug)]
pub(crate) struct Context {
    name: String,
    run: Dir,
    sockets: Dir,
    /// Held for as long as the run lives; whoever can take it knows that the run is dead.
    _lock: Flock<File>,
    failed: AtomicBool,
    boots: Mutex<HashMap<Kernel, Boot>>,
    accel: OnceLock<Accel>,
    machines: Mutex<Vec<Machine>>,
}

impl Context {
    /// Sweeps dead runs and makes the directories of a new one.
    pub(crate) fn create(name: &str) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let base = base_dir();
        fs::create_dir_all(&base).with_context(|| format!("cannot create {}", base.display()))?;
        sweep(&base);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", std::process::id());
        // Paths of unix sockets are limited to 107 bytes, and the run directory may be deep.
        let sockets = Dir::create(PathBuf::from(format!("/tmp/sankit-{id}")))?;
        let run = Dir::create(base.join(format!("{name}-{id}")))?;
        for part in ["share/bin", "share/lib"] {
            fs::create_dir_all(run.path().join(part))?;
        }
        fs::write(run.path().join("sockets"), sockets.path().as_os_str().as_encoded_bytes())?;
        // Locked before it has its name: a sweeper never sees an unlocked one of a living run.
        let (early, late) = (run.path().join("pid.new"), run.path().join("pid"));
        fs::write(&early, format!("{}\n", std::process::id()))?;
        let file = File::open(&early)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| anyhow!(e))?;
        fs::rename(&early, &late)?;
        Ok(Self {
            name: name.to_owned(),
            run,
            sockets,
            _lock: lock,
            failed: AtomicBool::new(false),
            boots: Mutex::default(),
            accel: OnceLock::new(),
            machines: Mutex::default(),
        })
    }

    /// The run directory.
    pub(crate) fn path(&self) -> &Path {
        self.run.path()
    }

    /// The directory of the sockets.
    pub(crate) fn sockets(&self) -> &Path {
        self.sockets.path()
    }

    /// The directory every guest sees as `/lab`.
    pub(crate) fn share(&self) -> PathBuf {
        self.path().join("share")
    }

    /// The serial log of a machine.
    pub(crate) fn serial(&self, machine: &str) -> PathBuf {
        self.path().join(format!("{machine}.serial"))
    }

    /// Notes that something failed: the logs will be kept.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Notes that all went well after all.
    pub(crate) fn forgive(&self) {
        self.failed.store(false, Ordering::Relaxed);
    }

    /// Adds a machine; names are unique in a lab.
    pub(crate) fn register(&self, machine: &Machine) -> Result<()> {
        let mut machines = locked(&self.machines);
        if machines.iter().any(|m| m.name() == machine.name()) {
            bail!("there is a machine {} already", machine.name());
        }
        machines.push(machine.clone());
        Ok(())
    }

    /// All machines.
    pub(crate) fn machines(&self) -> Vec<Machine> {
        locked(&self.machines).clone()
    }

    /// Makes or finds the kernel and the initramfs with this run's agent.
    pub(crate) fn boot_files(&self, version: Kernel) -> Result<Boot> {
        let mut boots = locked(&self.boots);
        if let Some(boot) = boots.get(&version) {
            return Ok(boot.clone());
        }
        let kernel = kernel::make(version)?;
        let initrd = self.path().join(format!("initrd-{version}"));
        initramfs::write(&kernel, &agent_binary()?, &initrd)?;
        let boot = Boot { kernel, initrd };
        boots.insert(version, boot.clone());
        Ok(boot)
    }

    /// KVM or emulation.
    pub(crate) fn accel(&self, boot: &Boot) -> Result<Accel> {
        if let Some(accel) = self.accel.get() {
            return Ok(*accel);
        }
        let accel = accel::choose(&boot.kernel.vmlinux(), &boot.initrd, self.path())?;
        Ok(*self.accel.get_or_init(|| accel))
    }

    /// Ends all machines; keeps the logs if anything failed. Machines and this context refer to each other,
    /// so the owner must call it.
    pub(crate) fn close(&self) {
        for machine in std::mem::take(&mut *locked(&self.machines)) {
            machine.power_cut();
        }
        if !self.failed.load(Ordering::Relaxed) && !std::thread::panicking() {
            return;
        }
        let id = self.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kept = self.path().with_file_name(format!("{id}.failed"));
        if fs::create_dir_all(&kept).is_ok() {
            for entry in fs::read_dir(self.path()).into_iter().flatten().flatten() {
                let path = entry.path();
                let log = path.extension().is_some_and(|e| e == "serial" || e == "qemu" || e == "pcap");
                if log {
                    let _ = fs::rename(&path, kept.join(entry.file_name()));
                }
            }
            eprintln!("lab: {} failed, its logs are in {}", self.name, kept.display());
        }
    }
}

/// Where runs live: `$SANKIT_LAB_DIR`, else `target/lab-runs` of the workspace.
pub(crate) fn base_dir() -> PathBuf {
    match env::var_os("SANKIT_LAB_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target").join("lab-runs"),
    }
}

/// The living runs: name of the directory, process id, directory of the sockets.
pub(crate) fn living() -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(base_dir()).into_iter().flatten().flatten();
    let living = entries.filter(|e| e.path().join("pid").exists() && !dead(&e.path()));
    let named = living.filter_map(|entry| {
        let sockets = fs::read_to_string(entry.path().join("sockets")).ok()?;
        Some((entry.file_name().to_string_lossy().into_owned(), PathBuf::from(sockets)))
    });
    named.collect()
}

/// Whether the lock of a run is free.
fn dead(run: &Path) -> bool {
    let Ok(file) = File::open(run.join("pid")) else { return false };
    Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok()
}

/// Removes what killed runs have left behind, and old logs.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let path = entry.path();
        let old = || {
            let changed = entry.metadata().and_then(|m| m.modified()).ok();
            changed.and_then(|c| c.elapsed().ok()).is_some_and(|age| age > KEEP)
        };
        if path.join("pid").exists() {
            if !dead(&path) {
                continue;
            }
            let sockets = fs::read_to_string(path.join("sockets")).unwrap_or_default();
            // Only what this crate has made, whatever the file says.
            if sockets.starts_with("/tmp/sankit-") && !sockets.contains("..") {
                let _ = fs::remove_dir_all(sockets);
            }
            let _ = fs::remove_dir_all(&path);
        } else if old() {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Finds the agent: `$SANKIT_LAB_AGENT`, else beside the running program or one directory above (tests run in
/// `deps`).
fn agent_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("SANKIT_LAB_AGENT") {
        return Ok(PathBuf::from(path));
    }
    let program = env::current_exe().context("cannot find my own program")?;
    let found =
        program.ancestors().skip(1).take(2).map(|dir| dir.join("lab-agent")).find(|path| path.exists());
    found.with_context(|| {
        format!("no lab-agent near {}: build it with cargo build -p sankit-tests --bins", program.display())
    })
}

/// Hard-links a file, or copies it where that is not possible. A file of that name is replaced.
pub(crate) fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    match fs::remove_file(to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    // A link to a symbolic link would dangle in the guest.
    let real = fs::canonicalize(from).with_context(|| format!("cannot find {}", from.display()))?;
    if fs::hard_link(&real, to).is_err() {
        fs::copy(&real, to).with_context(|| format!("cannot copy {} to {}", real.display(), to.display()))?;
    }
    Ok(())
}
