//! The device-mapper device in front of a disk: it leads to the disk, or answers every command with an error.
//!
//! There are two, one on the other. LIO holds the front one open for ever, and its table never changes: it leads to the back one. To hold it
//! (suspend) lets commands wait while the back one changes from the disk to nothing, so that the disk can be closed; commands that waited
//! are answered when it goes on. With one device alone that is impossible: the table that is replaced keeps the disk open until the device
//! goes on.

use std::io;
use std::path::{Path, PathBuf};

use host::dm::{Backend, Inflight, Target};
use host::{Deadline, DmName, Sectors, Tree};

use crate::error::{Error, Result};
use crate::spec::BackstoreSpec;

/// Where a device leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// To the disk.
    Open,
    /// Nowhere.
    Closed,
    /// Commands wait; and whether they would get to the disk.
    Held { open: bool },
    /// It is not there, or half made.
    Missing,
}

/// The devices in front of a disk.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    front: DmName,
    back: DmName,
    /// There only while the others are made.
    ground: DmName,
    disk: PathBuf,
    /// The disk's number, `MAJOR:MINOR`.
    number: String,
    length: Sectors,
}

impl Gate {
    /// Names the devices of a disk, which need not be usable: of a DRBD device that is Secondary sysfs says number and size.
    pub(super) fn of(tree: &Tree, disk: &BackstoreSpec) -> Result<Self> {
        let bad = |reason: String| Err(Error::invalid(format!("backstore {}", disk.name), reason));
        let path = disk.backing.path().unwrap_or(Path::new(""));
        let name = block_name(tree, path);
        let dir = format!("/sys/class/block/{name}");
        let read = |file: &str| tree.read_opt(format!("{dir}/{file}")).map_err(Error::unreadable);
        let (Some(number), Some(size)) = (read("dev")?, read("size")?) else {
            return bad(format!("there is no block device {}", path.display()));
        };
        let length: u64 = size.trim().parse().unwrap_or(0);
        if length == 0 {
            return bad(format!(
                "{} has no size yet; is the DRBD resource up, with its disk attached?",
                path.display()
            ));
        }
        let block = read("queue/logical_block_size")?.unwrap_or_default();
        if !matches!(block.trim(), "512" | "") {
            return bad(format!(
                "{} has blocks of {} bytes; a device that leads nowhere has 512, and initiators would see the change. Use the floating mode",
                path.display(),
                block.trim()
            ));
        }
        Ok(Self { number: number.trim().to_owned(), length: Sectors(length), ..Self::named(disk)? })
    }

    /// The names alone: enough to remove them when the disk is gone.
    pub(super) fn named(disk: &BackstoreSpec) -> Result<Self> {
        let front = super::front(disk)?;
        let part = |end: &str| format!("{front}-{end}").parse::<DmName>();
        Ok(Self {
            back: part("back")?,
            ground: part("ground")?,
            disk: disk.backing.path().unwrap_or(Path::new("")).to_path_buf(),
            number: String::new(),
            length: Sectors(0),
            front,
        })
    }

    pub(super) fn look(&self, dm: &Backend) -> Result<Position> {
        let failed = |error| self.failed("look at", &self.front, error);
        let (front, back) = (dm.info(&self.front).map_err(failed)?, dm.info(&self.back).map_err(failed)?);
        let (Some(front), Some(back)) = (front, back) else { return Ok(Position::Missing) };
        if !front.active || !back.active || dm.info(&self.ground).map_err(failed)?.is_some() {
            return Ok(Position::Missing);
        }
        let open = dm.table(&self.back).map_err(failed)?.iter().all(|line| line.kind == "linear");
        Ok(match (front.suspended || back.suspended, open) {
            (true, open) => Position::Held { open },
            (false, true) => Position::Open,
            (false, false) => Position::Closed,
        })
    }

    /// Whether the devices are as large as the disk.
    pub(super) fn fits(&self, dm: &Backend) -> Result<bool> {
        let failed = |error| self.failed("look at", &self.front, error);
        let table = dm.table(&self.front).map_err(failed)?;
        Ok(table.iter().map(|line| line.length.0).sum::<u64>() == self.length.0)
    }

    /// Makes the devices, leading nowhere, or gives closed ones the size of the disk.
    ///
    /// What a device can (caches that must be flushed, in our case) the kernel takes from those below it at the moment it gets its table. The
    /// front device must be known to have such a cache, as DRBD has, also while it leads nowhere: initiators ask when they log in, and never
    /// flush a disk that has none. "error" has none; "log-writes" always has (`flush_supported`, drivers/md/dm-log-writes.c), and is below
    /// the front device while that gets its table.
    pub(super) fn close_up(&self, dm: &Backend, tree: &Tree) -> Result<()> {
        let nothing = self.line("error", String::new());
        let there = |name: &DmName| dm.info(name).map(|info| info.is_some());
        let make = |name: &DmName| match there(name)? {
            true => Ok(()),
            false => dm.create(name, &format!("SANKIT-{name}")),
        };
        let exchange = |name: &DmName, line: Target| {
            dm.load(name, &[line])?;
            dm.suspend(name, Inflight::Left)?;
            dm.resume(name)
        };
        make(&self.ground)
            .and_then(|()| exchange(&self.ground, nothing.clone()))
            .map_err(|e| self.failed("make", &self.ground, e))?;
        let ground = self.number_of(dm, &self.ground)?;
        make(&self.back)
            .and_then(|()| exchange(&self.back, self.line("log-writes", format!("{ground} {ground}"))))
            .map_err(|e| self.failed("make (with the kernel module dm-log-writes)", &self.back, e))?;
        let back = self.number_of(dm, &self.back)?;
        make(&self.front)
            .and_then(|()| exchange(&self.front, self.line("linear", format!("{back} 0"))))
            .map_err(|e| self.failed("make", &self.front, e))?;
        exchange(&self.back, nothing)
            .and_then(|()| dm.remove(&self.ground))
            .map_err(|e| self.failed("make", &self.back, e))?;
        let node = format!("/dev/dm-{}", self.minor(dm, &self.front)?);
        name_node(tree, &self.front, &node)
    }

    /// Lets commands wait in devices that lead nowhere.
    pub(super) fn arm(&self, dm: &Backend) -> Result<()> {
        dm.suspend(&self.front, Inflight::Left).map_err(|error| self.failed("hold", &self.front, error))
    }

    pub(super) fn missing(&self) -> Error {
        self.failed("find", &self.front, io::Error::from_raw_os_error(libc::ENXIO))
    }

    /// Lets the devices lead to the disk; those that hold commands are not held any more.
    pub(super) fn open(&self, dm: &Backend) -> Result<()> {
        let opening = |error| self.failed("open the disk behind", &self.front, error);
        dm.load(&self.back, &[self.line("linear", format!("{} 0", self.number))]).map_err(opening)?;
        // Nothing is under way in a device that leads nowhere.
        dm.suspend(&self.back, Inflight::Left).and_then(|()| dm.resume(&self.back)).map_err(opening)?;
        self.go_on(dm)
    }

    /// Gives open devices the size of the disk.
    pub(super) fn grow(&self, dm: &Backend) -> Result<()> {
        let growing = |error| self.failed("resize", &self.front, error);
        let back = self.number_of(dm, &self.back)?;
        dm.load(&self.back, &[self.line("linear", format!("{} 0", self.number))]).map_err(growing)?;
        dm.suspend(&self.front, Inflight::Awaited)
            .and_then(|()| dm.suspend(&self.back, Inflight::Left))
            .and_then(|()| dm.resume(&self.back))
            .and_then(|()| dm.load(&self.front, &[self.line("linear", format!("{back} 0"))]))
            .map_err(growing)?;
        self.go_on(dm)
    }

    /// Lets commands wait, those under way end, and the disk be closed. Blocks for as long as the disk needs.
    pub(super) fn hold(&self, dm: &Backend) -> Result<()> {
        let holding = |error| self.failed("hold", &self.front, error);
        dm.suspend(&self.front, Inflight::Awaited).map_err(holding)?;
        dm.load(&self.back, &[self.line("error", String::new())])
            .and_then(|()| dm.suspend(&self.back, Inflight::Left))
            .and_then(|()| dm.resume(&self.back))
            .map_err(holding)
    }

    /// Lets commands that wait go on to wherever the devices lead.
    pub(super) fn go_on(&self, dm: &Backend) -> Result<()> {
        // What died between the two calls of an exchange left the back one suspended.
        dm.resume(&self.back)
            .and_then(|()| dm.resume(&self.front))
            .map_err(|error| self.failed("resume", &self.front, error))
    }

    /// Removes the devices; says whether one was there.
    pub(super) fn remove(&self, dm: &Backend, tree: &Tree) -> Result<bool> {
        let mut removed = false;
        for name in [&self.front, &self.back, &self.ground] {
            let failed = |error| self.failed("remove", name, error);
            if dm.info(name).map_err(failed)?.is_some() {
                // One that is suspended could be removed, and what waits in it would wait for ever.
                dm.resume(name).and_then(|()| dm.remove(name)).map_err(failed)?;
                removed = true;
            }
        }
        // Where udev runs it does this.
        tree.unlink(self.front.path()).map_err(Error::unreadable)?;
        Ok(removed)
    }

    fn line(&self, kind: &str, params: String) -> Target {
        Target::new(Sectors(0), self.length, kind, params)
    }

    fn minor(&self, dm: &Backend, name: &DmName) -> Result<u32> {
        let info = dm.info(name).map_err(|error| self.failed("look at", name, error))?;
        info.map(|info| info.device.number.minor).ok_or_else(|| self.missing())
    }

    fn number_of(&self, dm: &Backend, name: &DmName) -> Result<String> {
        let info = dm.info(name).map_err(|error| self.failed("look at", name, error))?;
        info.map(|info| info.device.number.to_string()).ok_or_else(|| self.missing())
    }

    fn failed(&self, doing: &str, name: &DmName, source: io::Error) -> Error {
        let disk = self.disk.display();
        let fix = match source.raw_os_error() {
            Some(libc::EROFS | libc::EACCES | libc::EMEDIUMTYPE) => {
                format!("{disk} cannot be opened for writing; make the DRBD resource Primary here first")
            }
            Some(libc::EBUSY) => format!("somebody has {disk} or the device open (dmsetup info, lsblk)"),
            Some(libc::ENXIO | libc::ENOENT) => "it is not there; make it with Lio::ensure_ha".to_owned(),
            Some(libc::EINVAL) => "the kernel does not take the table; its log says why (dmesg)".to_owned(),
            _ => "see the kernel's log (dmesg)".to_owned(),
        };
        Error::Mapper { doing: format!("{doing} {}", name.path().display()), fix, source }
    }
}

/// The name that a path has in `/sys/class/block`: that of the node that links lead to.
fn block_name(tree: &Tree, path: &Path) -> String {
    let mut path = path.to_path_buf();
    for _ in 0..8 {
        match tree.read_link(&path) {
            Ok(next) => path = path.parent().unwrap_or(Path::new("/")).join(next),
            Err(_) => break,
        }
    }
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Gives a device its name in `/dev/mapper`, as udev does where it runs.
fn name_node(tree: &Tree, name: &DmName, node: &str) -> Result<()> {
    let path = name.path();
    let leads =
        || tree.read_link(&path).ok().and_then(|to| to.file_name().map(|n| n.to_string_lossy().into_owned()));
    let wanted = node.rsplit('/').next().map(str::to_owned);
    let deadline = Deadline::after(std::time::Duration::from_secs(10));
    loop {
        if leads() == wanted {
            return Ok(());
        }
        let made = tree.unlink(&path).and_then(|_| tree.link(node, &path));
        match made {
            // udev was between the two.
            Err(error) if error.errno() == Some(libc::EEXIST) && !deadline.is_over() => {}
            other => return other.map_err(Error::unreadable),
        }
    }
}
