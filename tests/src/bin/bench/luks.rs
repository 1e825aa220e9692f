//! `unlock-disks` and `luks-ls` against `cryptsetup`, once for each volume as one does it by hand. Key derivations and headers on this machine,
//! where processors are real; mappings in a virtual machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{Cmd, Lab, Machine, Mode};

use crate::Goal;
use crate::report::Row;

const SINGLE: Goal = Goal {
    name: "8 volumes, argon2id 256 MiB p=1 (ms, host, 1.1 GiB budget): unlock-disks --test-passphrase vs 8x cryptsetup",
    ratio: 1.35,
};
const DOUBLE: Goal = Goal {
    name: "8 volumes, argon2id 256 MiB p=2 (ms, host, 1.1 GiB budget): unlock-disks --test-passphrase vs 8x cryptsetup",
    ratio: 0.95,
};
const MEMORY: Goal = Goal {
    name: "8 volumes, argon2id 256 MiB p=1 (peak MiB, host): unlock-disks in 1.1 GiB vs 8 cryptsetup at once",
    ratio: 1.8,
};
const UUIDS: Goal = Goal {
    name: "UUID of 1000 volumes (ms, host, warm): luks-ls --uuid vs cryptsetup luksUUID each",
    ratio: 100.0,
};
const HEADERS: Goal = Goal {
    name: "1000 headers, both copies verified (ms, host, warm): luks-ls vs cryptsetup luksDump each",
    ratio: 30.0,
};
const STATUS: Goal = Goal {
    name: "status of 100 mappings (ms, warm): luks-ls --mappings vs cryptsetup status each",
    ratio: 50.0,
};
const MAPPED: Goal = Goal {
    name: "device-mapper's part of opening 16 volumes (ms, lab, cheapest key derivation): unlock-disks vs 16x cryptsetup open",
    // One after the other on both sides, the kernel and udev do the same for both: not slower, as far as that can be told.
    ratio: 0.9,
};
pub(crate) const GOALS: [Goal; 7] = [SINGLE, DOUBLE, MEMORY, UUIDS, HEADERS, STATUS, MAPPED];

const VOLUMES: usize = 8;
const HEADS: usize = 1000;
const MAPPINGS: usize = 100;
const OPENED: usize = 16;
const PASSPHRASE: &str = "written on the inside of the skull";
/// What a small node leaves, 1.1 GiB: four derivations of 256 MiB, and no eight.
const BUDGET_MIB: u32 = 1126;

/// Volumes on files of this machine; gone when dropped.
struct Images {
    dir: PathBuf,
}

impl Drop for Images {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            println!("luks: {}: {error}", self.dir.display());
        }
    }
}

impl Images {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("sankit-bench-luks-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let images = Self { dir };
        fs::write(images.key(), PASSPHRASE)?;
        Ok(images)
    }

    fn key(&self) -> PathBuf {
        self.dir.join("key")
    }

    /// A volume on a new file.
    fn format(&self, name: &str, kdf: &[&str]) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::File::create(&path)?.set_len(20 << 20)?;
        let mut command = Command::new("cryptsetup");
        command
            .args(["luksFormat", "-q", "--type", "luks2", "--key-file"])
            .arg(self.key())
            .args(kdf)
            .arg(&path);
        run_quietly(&mut command)?;
        Ok(path)
    }
}

fn run_quietly(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn millis(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}

/// Times of both sides, one after the other in each round; one round before that does not count.
fn compare(
    runs: u32,
    mut ours: impl FnMut() -> Result<()>,
    mut peer: impl FnMut() -> Result<()>,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..=runs {
        let times = (millis(&mut ours)?, millis(&mut peer)?);
        if round > 0 {
            a.push(times.0);
            b.push(times.1);
        }
    }
    Ok((a, b))
}

/// The most memory that processes took together, in MiB, each at its own peak; they must end well.
fn peak(mut children: Vec<Child>) -> Result<f64> {
    let mut peaks = vec![0.0_f64; children.len()];
    loop {
        let mut running = 0;
        for (child, peak) in children.iter_mut().zip(&mut peaks) {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            *peak = peak.max(kib.unwrap_or_default() / 1024.0);
            match child.try_wait()? {
                None => running += 1,
                Some(status) => ensure!(status.success(), "a process ended with {status}"),
            }
        }
        if running == 0 {
            return Ok(peaks.iter().sum());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs all comparisons; rows are added as they are done.
pub(crate) fn run(programs: &Path, runs: u32, rows: &mut Vec<Row>) -> Result<()> {
    // What one of them cannot do does not keep the others from it.
    let parts: [(&str, Result<()>); 3] = [
        ("key derivations", derivations(programs, runs, rows)),
        ("headers", headers(programs, runs, rows)),
        ("mappings", mappings(programs, runs, rows)),
    ];
    let failed: Vec<String> =
        parts.into_iter().filter_map(|(name, part)| part.err().map(|e| format!("{name}: {e:#}"))).collect();
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
}

fn derivations(programs: &Path, runs: u32, rows: &mut Vec<Row>) -> Result<()> {
    let images = Images::new()?;
    for (lanes, goal) in [("1", SINGLE), ("2", DOUBLE)] {
        let kdf = ["--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "262144"];
        let kdf = [&kdf[..], &["--pbkdf-parallel", lanes]].concat();
        let volumes: Vec<PathBuf> =
            (0..VOLUMES).map(|n| images.format(&format!("p{lanes}-{n}"), &kdf)).collect::<Result<_>>()?;
        let ours = || {
            let mut command = Command::new(programs.join("unlock-disks"));
            let budget = format!("{BUDGET_MIB}M");
            command.args(["--test-passphrase", "--memory", &budget, "--key-file"]).arg(images.key());
            command.args(volumes.iter().enumerate().map(|(n, path)| format!("{}=v{n}", path.display())));
            command.stdout(Stdio::null());
            command
        };
        let theirs = |path: &PathBuf| {
            let mut command = Command::new("cryptsetup");
            command.args(["open", "--test-passphrase", "--key-file"]).arg(images.key()).arg(path);
            command
        };
        let (a, b) = compare(
            runs,
            || run_quietly(&mut ours()),
            || volumes.iter().try_for_each(|path| run_quietly(&mut theirs(path))),
        )?;
        rows.push(Row::new(&goal, &a, &b));
        if lanes == "1" {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            for _ in 0..runs {
                a.push(peak(vec![ours().spawn()?])?);
                let all: Vec<Child> =
                    volumes.iter().map(|path| theirs(path).spawn()).collect::<std::io::Result<_>>()?;
                b.push(peak(all)?);
            }
            let budget = f64::from(BUDGET_MIB);
            ensure!(a.iter().all(|peak| *peak <= budget), "more than {BUDGET_MIB} MiB: {a:?}");
            ensure!(b.iter().all(|peak| *peak > budget), "eight at once fit into {BUDGET_MIB} MiB: {b:?}");
            rows.push(Row::new(&MEMORY, &a, &b));
        }
    }
    Ok(())
}

fn headers(programs: &Path, runs: u32, rows: &mut Vec<Row>) -> Result<()> {
    let images = Images::new()?;
    let first = images.format("first", &["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"])?;
    let head: Vec<u8> = fs::read(&first)?.into_iter().take(0x8000).collect();
    let paths: Vec<PathBuf> = (0..HEADS).map(|n| images.dir.join(format!("head{n}"))).collect();
    for path in &paths {
        fs::write(path, &head)?;
        fs::OpenOptions::new().write(true).open(path)?.set_len(20 << 20)?;
    }
    let ours = |arguments: &[&str]| {
        let mut command = Command::new(programs.join("luks-ls"));
        command.args(arguments).args(&paths);
        run_quietly(&mut command)
    };
    let theirs = |arguments: &[&str]| {
        paths.iter().try_for_each(|path| run_quietly(Command::new("cryptsetup").args(arguments).arg(path)))
    };
    let (a, b) = compare(runs, || ours(&["--uuid"]), || theirs(&["luksUUID"]))?;
    rows.push(Row::new(&UUIDS, &a, &b));
    let (a, b) = compare(runs, || ours(&[]), || theirs(&["luksDump", "--dump-json-metadata"]))?;
    rows.push(Row::new(&HEADERS, &a, &b));
    Ok(())
}

fn mappings(programs: &Path, runs: u32, rows: &mut Vec<Row>) -> Result<()> {
    let lab = Lab::new("bench-luks")?;
    for program in ["unlock-disks", "luks-ls"] {
        lab.install(&programs.join(program))?;
    }
    let disk = lab.plain_disk("slices", 256 << 20)?;
    let machine = lab.machine("n1").mode(Mode::Root).memory(1024).cpus(1).disk(&disk).boot()?;
    machine.sh("mkdir -p /run/keys; install /lab/bin/unlock-disks /lab/bin/luks-ls /usr/local/bin/; modprobe dm_crypt")?;
    machine.push("/run/keys/san", PASSPHRASE, 0o600)?;
    // Slices of 2 MiB of one disk, each with the smallest header there is.
    let make = format!(
        "set -e; for n in $(seq 0 {last}); do \
         dmsetup create s$n --table \"0 4096 linear /dev/disk/by-id/virtio-slices $((n * 4096))\"; \
         cryptsetup luksFormat -q --type luks2 --luks2-metadata-size 16k --luks2-keyslots-size 256k --offset 2048 \
         --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /run/keys/san /dev/mapper/s$n; done; \
         unlock-disks --key-file /run/keys/san $(for n in $(seq 0 {last}); do echo /dev/mapper/s$n=m$n; done)",
        last = MAPPINGS - 1
    );
    let made = machine.run(Cmd::new(["bash", "-c", make.as_str()]).deadline(Duration::from_secs(900)))?;
    ensure!(made.success(), "cannot make {MAPPINGS} mappings: {}{}", made.stdout, made.stderr);
    let peer = format!("for n in $(seq 0 {}); do cryptsetup status m$n || exit 1; done", MAPPINGS - 1);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=runs {
        let times = (time(&machine, "luks-ls --mappings")?, time(&machine, &peer)?);
        if round > 0 {
            ours.push(times.0);
            theirs.push(times.1);
        }
    }
    let seen = machine.sh("luks-ls --mappings | grep -c active")?;
    ensure!(seen.trim() == MAPPINGS.to_string(), "{} of {MAPPINGS} mappings were seen", seen.trim());
    rows.push(Row::new(&STATUS, &ours, &theirs));
    let each = |what: &str| format!("for n in $(seq 0 {}); do {what} || exit 1; done", OPENED - 1);
    let ours = format!("unlock-disks --key-file /run/keys/san $({})", each("echo /dev/mapper/s$n=m$n"));
    let peer = each("cryptsetup open --key-file /run/keys/san /dev/mapper/s$n m$n");
    let close = each("cryptsetup close m$n");
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=runs {
        for (command, times) in [&ours, &peer].into_iter().zip(&mut times) {
            time(&machine, &close)?;
            let taken = time(&machine, command)?;
            if round > 0 {
                times.push(taken);
            }
        }
    }
    rows.push(Row::new(&MAPPED, &times[0], &times[1]));
    Ok(())
}

/// How long a command takes by the guest's clock, in milliseconds.
fn time(machine: &Machine, command: &str) -> Result<f64> {
    let script = format!(
        "a=$EPOCHREALTIME; ( {command} ) >/tmp/out 2>&1; code=$?; b=$EPOCHREALTIME; echo $code $a $b"
    );
    let output = machine.run(Cmd::new(["bash", "-c", script.as_str()]).deadline(Duration::from_secs(300)))?;
    let mut words = output.stdout.split_whitespace();
    let mut number = || words.next().and_then(|word| word.parse::<f64>().ok());
    match (number(), number(), number()) {
        (Some(0.0), Some(from), Some(to)) => Ok((to - from) * 1000.0),
        _ => bail!("{command} failed: {}{}", output.stdout, output.stderr),
    }
}
