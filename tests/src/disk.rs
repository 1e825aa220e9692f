//! Disks of machines, with or without a write cache that a power cut empties.
//!
//! A plain file is no honest disk: after the death of QEMU the host's page cache still holds everything, and a
//! missing flush is never seen. A volatile disk has nbdkit's cache filter in write-back mode in front of the
//! file: what the guest has not flushed exists only in nbdkit and goes with it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::guard::{Proc, locked};

/// What stands between the guest's writes and the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriteCache {
    /// A write-back cache that is lost in a power cut, as in a real disk. Flush and FUA are honoured.
    #[default]
    Volatile,
    /// Nothing is ever lost and a flush costs nothing. Fast; proves nothing about flushes.
    Plain,
}

/// A disk image. Cloning gives another handle to the same disk.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    path: PathBuf,
    size: u64,
    cache: WriteCache,
    socket: PathBuf,
    temporary: PathBuf,
    server: Mutex<Option<Proc>>,
}

impl Disk {
    /// Creates a sparse image. `socket` and `temporary` are where nbdkit listens and keeps its cache.
    pub(crate) fn create(
        name: &str,
        size: u64,
        cache: WriteCache,
        dir: &Path,
        sockets: &Path,
        number: usize,
    ) -> Result<Self> {
        // virtio-blk cuts the serial number after 20 bytes, and /dev/disk/by-id would be wrong.
        if name.is_empty() || name.len() > 20 || name.contains([',', '/', '=']) {
            bail!("disk name {name:?} must have 1 to 20 characters without comma, slash and equals sign");
        }
        let path = dir.join(format!("{name}.disk"));
        let file = File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        file.set_len(size).with_context(|| format!("cannot size {}", path.display()))?;
        Ok(Self(Arc::new(Inner {
            name: name.to_owned(),
            path,
            size,
            cache,
            socket: sockets.join(format!("d{number}")),
            temporary: dir.to_owned(),
            server: Mutex::new(None),
        })))
    }

    /// Its name: the serial number in the guest, where udev makes `/dev/disk/by-id/virtio-NAME` of it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// The image file on the host: what has reached the medium.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Starts what serves the disk and returns QEMU's `-blockdev` for it, with the given node name.
    pub(crate) fn power_on(&self, node: &str) -> Result<String> {
        let inner = &self.0;
        if inner.cache == WriteCache::Plain {
            // no-flush: the image lives no longer than the run, the host need not write it to its own disk.
            let flags = "cache.direct=off,cache.no-flush=on,discard=unmap,aio=threads";
            return Ok(format!("driver=file,node-name={node},filename={},{flags}", inner.path.display()));
        }
        let _ = std::fs::remove_file(&inner.socket);
        let mut command = Command::new("nbdkit");
        command.args(["-f", "-U"]).arg(&inner.socket).args(["--filter=cache", "file"]);
        command.arg(&inner.path).arg("cache=writeback").env("TMPDIR", &inner.temporary);
        command.stdin(std::process::Stdio::null());
        let mut server = Proc::spawn(&format!("disk {}", inner.name), command)?;
        let start = Instant::now();
        while !inner.socket.exists() {
            if let Some(status) = server.poll() {
                bail!("nbdkit for disk {} ended at once: {status}", inner.name);
            }
            if start.elapsed() > Duration::from_secs(10) {
                bail!("nbdkit for disk {} does not listen", inner.name);
            }
            thread::sleep(Duration::from_millis(2));
        }
        *locked(&inner.server) = Some(server);
        let flags = "cache.direct=on,cache.no-flush=off,discard=unmap";
        let socket = inner.socket.display();
        Ok(format!("driver=nbd,node-name={node},server.type=unix,server.path={socket},{flags}"))
    }

    /// Kills what serves the disk; the cache is lost.
    pub(crate) fn power_cut(&self) {
        if let Some(mut server) = locked(&self.0.server).take() {
            server.kill();
        }
    }

    /// Lets the server end in peace, after QEMU has flushed and closed the disk.
    pub(crate) fn power_off(&self) {
        if let Some(mut server) = locked(&self.0.server).take() {
            let _ = server.signal(Signal::SIGTERM);
            let start = Instant::now();
            while server.poll().is_none() && start.elapsed() < Duration::from_secs(10) {
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}
