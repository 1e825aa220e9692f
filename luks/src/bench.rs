//! How fast this machine derives keys, encrypts, and writes and reads through dm-crypt.
//!
//! The last one is what counts, and none can be told from the others: which work queues dm-crypt should use depends on processor, disk and
//! load. `no_read_workqueue` and `no_write_workqueue` doubled the throughput of fast disks in one place and halved it in another.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use host::{Bytes, Secret, signature};

use crate::error::{Error, Result};
use crate::spec::{OpenFlags, Overwrite};
use crate::sys;
use crate::volume::explain;

/// The cost with which a key derivation takes the time asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KdfCost {
    /// Iterations (PBKDF2) or passes (Argon2).
    pub iterations: u32,
    /// The memory it takes, in KiB; 0 for PBKDF2.
    pub memory_kib: u32,
    /// Its lanes; 0 for PBKDF2.
    pub lanes: u32,
}

/// Finds the cost with which a key derivation ("argon2id", "argon2i", or "pbkdf2" with a hash) takes `time` here, with at most so much memory.
/// `cryptsetup benchmark --pbkdf`. Takes some seconds.
///
/// # Errors
/// [`Error::Library`]: there is no such derivation or hash.
pub fn kdf(kind: &str, hash: &str, time: Duration, memory_kib: u32) -> Result<KdfCost> {
    let lanes =
        std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)).min(4);
    let (memory_kib, lanes) = if kind == "pbkdf2" { (0, 0) } else { (memory_kib, lanes) };
    let (iterations, memory_kib, lanes) = sys::benchmark_kdf(kind, hash, time, memory_kib, lanes)
        .map_err(|r| Error::Library { what: format!("benchmark {kind}"), log: r.log, source: r.source })?;
    Ok(KdfCost { iterations, memory_kib, lanes })
}

/// Bytes per second in each direction.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Throughput {
    /// Written or encrypted, in MiB/s.
    pub write: f64,
    /// Read or decrypted, in MiB/s.
    pub read: f64,
}

impl Throughput {
    /// So much in each direction, in MiB/s.
    #[must_use]
    pub fn new(write: f64, read: f64) -> Self {
        Self { write, read }
    }

    /// Both in one number: their geometric mean.
    #[must_use]
    pub fn both(self) -> f64 {
        (self.write * self.read).sqrt()
    }
}

/// How fast the kernel encrypts in memory, on one processor, through its interface for programs (`AF_ALG`); `cryptsetup benchmark --cipher`.
/// `None` if the kernel has no such interface or cipher.
///
/// # Errors
/// [`Error::Library`]: the kernel refuses for another reason.
pub fn cipher(cipher: &Cipher) -> Result<Option<Throughput>> {
    // The interface takes the mode without what makes its vectors: "xts", not "xts-plain64".
    let mode = cipher.mode.split('-').next().unwrap_or_default();
    match sys::benchmark_cipher(cipher.name, mode, cipher.key_bytes()) {
        Ok((write, read)) => Ok(Some(Throughput { write, read })),
        Err(r) if matches!(r.source.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => Ok(None),
        Err(r) => Err(Error::Library { what: format!("benchmark {cipher}"), log: r.log, source: r.source }),
    }
}

/// A cipher with the size of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Cipher {
    name: &'static str,
    mode: &'static str,
    bits: u16,
}

impl Cipher {
    /// What is measured by default: cryptsetup's default with both sizes of AES, and what old volumes have.
    pub const ALL: [Self; 3] = [
        Self { name: "aes", mode: "xts-plain64", bits: 512 },
        Self { name: "aes", mode: "xts-plain64", bits: 256 },
        Self { name: "aes", mode: "cbc-essiv:sha256", bits: 256 },
    ];

    fn key_bytes(&self) -> usize {
        usize::from(self.bits / 8)
    }
}

impl std::fmt::Display for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{}-{} {}", self.name, self.mode, self.bits))
    }
}

/// Where dm-crypt does its work: in the kernel's queues, which spread it over processors, or where the request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Queues {
    /// The default: all of it in work queues, writes sorted by a thread of their own.
    #[default]
    All,
    /// Reads at once; `--perf-no_read_workqueue`.
    NoRead,
    /// Writes at once; `--perf-no_write_workqueue`.
    NoWrite,
    /// Both.
    None,
    /// In queues, on the processor that asked; `--perf-same_cpu_crypt`.
    SameCpu,
    /// In queues, writes not sorted; `--perf-submit_from_crypt_cpus`.
    Submit,
}

impl Queues {
    /// All of them.
    pub const EACH: [Self; 6] =
        [Self::All, Self::NoRead, Self::NoWrite, Self::None, Self::SameCpu, Self::Submit];

    fn flags(self) -> OpenFlags {
        match self {
            Self::All => OpenFlags::empty(),
            Self::NoRead => OpenFlags::NO_READ_WORKQUEUE,
            Self::NoWrite => OpenFlags::NO_WRITE_WORKQUEUE,
            Self::None => OpenFlags::NO_READ_WORKQUEUE | OpenFlags::NO_WRITE_WORKQUEUE,
            Self::SameCpu => OpenFlags::SAME_CPU,
            Self::Submit => OpenFlags::SUBMIT_FROM_CRYPT_CPUS,
        }
    }

    /// The options of `cryptsetup open`; empty for the default.
    #[must_use]
    pub fn options(self) -> &'static str {
        match self {
            Self::All => "",
            Self::NoRead => "--perf-no_read_workqueue",
            Self::NoWrite => "--perf-no_write_workqueue",
            Self::None => "--perf-no_read_workqueue --perf-no_write_workqueue",
            Self::SameCpu => "--perf-same_cpu_crypt",
            Self::Submit => "--perf-submit_from_crypt_cpus",
        }
    }
}

/// One way to encrypt a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Way {
    /// The cipher.
    pub cipher: Cipher,
    /// The size of an encryption sector in bytes: 512 to 4096.
    pub sector_size: u32,
    /// Where the work is done.
    pub queues: Queues,
}

impl Way {
    /// A cipher, with sectors of so many bytes, and queues.
    #[must_use]
    pub fn new(cipher: Cipher, sector_size: u32, queues: Queues) -> Self {
        Self { cipher, sector_size, queues }
    }
}

/// How a device is loaded while it is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Load {
    /// The size of one request in bytes, a multiple of 4096; default 128 KiB.
    pub block: usize,
    /// How many threads ask at once; default one for each processor.
    pub threads: usize,
    /// How long each direction takes; default half a second.
    pub time: Duration,
}

impl Default for Load {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { block: 128 * 1024, threads, time: Duration::from_millis(500) }
    }
}

impl Load {
    /// Sets the size of a request in bytes; rounded up to 4096.
    #[must_use]
    pub fn with_block(mut self, bytes: usize) -> Self {
        self.block = bytes.max(1).next_multiple_of(4096);
        self
    }

    /// Sets how many ask at once.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// Sets how long each direction takes.
    #[must_use]
    pub fn with_time(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }
}

/// Measures real dm-crypt over a scratch device: a plain mapping with a random key, written and read past the page cache (`O_DIRECT`), in order,
/// each thread in its own part. What is on the device is lost.
///
/// # Errors
/// [`Error::HoldsData`] if anything known is on the device, unless [`Overwrite::Always`] is said; [`Error::Busy`] if somebody uses it.
pub fn device(device: &Path, way: &Way, load: &Load, overwrite: Overwrite) -> Result<Throughput> {
    let failed = |what: &str| {
        let what = format!("{what} {}", device.display());
        move |source| Error::Io { what: what.clone(), source }
    };
    if overwrite == Overwrite::Never {
        let mut file = File::open(device).map_err(failed("read"))?;
        if let Some(what) = signature::find(&mut file).map_err(failed("read"))? {
            return Err(Error::HoldsData { device: device.to_path_buf(), what });
        }
    }
    let mut key = vec![0; way.cipher.key_bytes()];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut key))
        .map_err(failed("make a key for"))?;
    let key = Secret::new(key);
    let name = format!("sankit-bench-{}", std::process::id());
    let cipher = (way.cipher.name, way.cipher.mode);
    let what = || format!("map {} as {name}", device.display());
    sys::activate_plain(device, &name, cipher, key.expose(), way.sector_size, way.queues.flags().bits())
        .map_err(|r| explain(device, what(), r))?;
    let node = Path::new("/dev/mapper").join(&name);
    let result = measure(&node, load).map_err(failed("measure"));
    sys::deactivate(&name, 0).map_err(|r| explain(device, format!("close {name}"), r))?;
    result
}

fn measure(node: &Path, load: &Load) -> std::io::Result<Throughput> {
    let open = || OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(node);
    let size = {
        use std::io::{Seek, SeekFrom};
        open()?.seek(SeekFrom::End(0))?
    };
    let threads = u64::try_from(load.threads).unwrap_or(1);
    let block = u64::try_from(load.block).unwrap_or(4096);
    // Each thread's part, in whole blocks.
    let blocks = size / threads / block;
    if blocks == 0 {
        return Err(std::io::Error::other("the device is too small: it needs a block for each thread"));
    }
    let run = |is_write: bool| -> std::io::Result<f64> {
        let started = Instant::now();
        let one = |number: u64| -> std::io::Result<u64> {
            let file = open()?;
            // O_DIRECT wants the buffer where the device's blocks begin in memory, too.
            let mut memory = vec![0x5a; load.block + 4096];
            let start = memory.as_ptr().align_offset(4096).min(4096);
            let buffer = memory.get_mut(start..start + load.block).unwrap_or_default();
            let mut done = 0;
            // At least one: a machine under load may start a thread when the time is over.
            while done == 0 || started.elapsed() < load.time {
                let place = (number * blocks + done % blocks) * block;
                if is_write {
                    file.write_all_at(buffer, place)?
                } else {
                    file.read_exact_at(buffer, place)?
                }
                done += 1;
            }
            Ok(done)
        };
        let counts: Vec<std::io::Result<u64>> = std::thread::scope(|scope| {
            let one = &one;
            let running: Vec<_> = (0..threads).map(|number| scope.spawn(move || one(number))).collect();
            running
                .into_iter()
                .map(|thread| {
                    thread.join().unwrap_or_else(|_| Err(std::io::Error::other("a thread panicked")))
                })
                .collect()
        });
        let seconds = started.elapsed().as_secs_f64();
        let done: u64 = counts.into_iter().sum::<std::io::Result<u64>>()?;
        let kib = u32::try_from(done.saturating_mul(block) / 1024).unwrap_or(u32::MAX);
        Ok(f64::from(kib) / 1024.0 / seconds)
    };
    Ok(Throughput { write: run(true)?, read: run(false)? })
}

/// Which queues to use for a cipher and sector size, by what was measured on this machine in several rounds; `None` with fewer than three.
///
/// The default stays unless another is better in each of its rounds than the default in its best one, and by more than `margin` (0.05: five of
/// a hundred) in the median, both directions taken together: what is measured varies, and the default is what others have tested.
#[must_use]
pub fn recommend(measured: &[(Queues, Vec<Throughput>)], margin: f64) -> Option<Queues> {
    if measured.is_empty() || measured.iter().any(|(_, rounds)| rounds.len() < 3) {
        return None;
    }
    let sorted = |rounds: &[Throughput]| -> Vec<f64> {
        let mut speeds: Vec<f64> = rounds.iter().map(|round| round.both()).collect();
        speeds.sort_by(f64::total_cmp);
        speeds
    };
    let middle = |speeds: &[f64]| speeds.get(speeds.len() / 2).copied().unwrap_or_default();
    let default =
        measured.iter().find(|(queues, _)| *queues == Queues::All).map(|(_, rounds)| sorted(rounds))?;
    let is_better = |speeds: &[f64]| {
        speeds.first() > default.last() && middle(speeds) > middle(&default) * (1.0 + margin)
    };
    measured
        .iter()
        .map(|(queues, rounds)| (*queues, sorted(rounds)))
        .filter(|(_, speeds)| is_better(speeds))
        .max_by(|a, b| middle(&a.1).total_cmp(&middle(&b.1)))
        .map_or(Some(Queues::All), |(best, _)| Some(best))
}

/// How large a scratch device should be for a load: enough for some seconds of a fast disk, and a block for each thread.
#[must_use]
pub fn scratch_size(load: &Load) -> Bytes {
    let least = u64::try_from(load.block.saturating_mul(load.threads)).unwrap_or(u64::MAX);
    Bytes(least.max(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_stays_unless_another_is_clearly_better() {
        let all = |speeds: [f64; 3]| speeds.map(|speed| Throughput::new(speed, speed)).to_vec();
        let of = |other: [f64; 3]| [(Queues::All, all([98.0, 102.0, 100.0])), (Queues::None, all(other))];
        assert_eq!(recommend(&of([104.0, 103.0, 104.0]), 0.05), Some(Queues::All), "less than the margin");
        assert_eq!(recommend(&of([150.0, 101.0, 150.0]), 0.05), Some(Queues::All), "not in each round");
        assert_eq!(recommend(&of([150.0, 110.0, 150.0]), 0.05), Some(Queues::None));
        // One direction that gains less than the other loses.
        let worse = [(Queues::All, all([100.0; 3])), (Queues::None, vec![Throughput::new(150.0, 60.0); 3])];
        assert_eq!(recommend(&worse, 0.05), Some(Queues::All));
        assert_eq!(
            recommend(&[(Queues::All, all([1.0; 3])[..2].to_vec())], 0.05),
            None,
            "two rounds say nothing"
        );
        assert_eq!(recommend(&[], 0.05), None);
    }

    #[test]
    fn key_derivations_are_measured_here() {
        let time = Duration::from_millis(100);
        let cost = kdf("argon2id", "sha256", time, 64 * 1024).expect("is there");
        assert!(cost.iterations >= 4 && (32..=64 * 1024).contains(&cost.memory_kib), "{cost:?}");
        assert!(kdf("pbkdf2", "sha256", time, 0).expect("is there").iterations > 1000);
        assert!(kdf("scrypt", "sha256", time, 0).is_err());
    }
}
