//! Device-mapper, as far as luks, multipath and lio need it: the devices with their UUIDs, their tables and status, and the exchange of a table
//! under a device that is in use.
//!
//! Speaks the ioctl interface of `/dev/mapper/control` (linux/dm-ioctl.h, version 4) itself; libdevmapper is not thread-safe and not
//! needed for reading.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};

use crate::{DmName, Sectors, sys};

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevNum {
    /// The driver.
    pub major: u32,
    /// The device.
    pub minor: u32,
}

impl DevNum {
    /// Takes the kernel's 64-bit encoding apart (`huge_encode_dev`, `include/linux/kdev_t.h`).
    #[must_use]
    pub fn decode(dev: u64) -> Self {
        let low = u32::try_from(dev & 0xffff_ffff).unwrap_or_default();
        Self { major: (low & 0x000f_ff00) >> 8, minor: (low & 0xff) | ((low >> 12) & 0x000f_ff00) }
    }
}

impl fmt::Display for DevNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One device of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Device {
    /// Its name: `/dev/mapper/NAME`.
    pub name: DmName,
    /// Its number: `/dev/dm-MINOR`.
    pub number: DevNum,
    /// Its UUID (`CRYPT-LUKS2-...`, `mpath-...`), which says who made it; `None` if it has none.
    pub uuid: Option<String>,
    /// Grows with each event of the device.
    pub event: u32,
}

impl Device {
    /// A device no event of which has been seen; for fakes.
    #[must_use]
    pub fn new(name: DmName, number: DevNum, uuid: Option<String>) -> Self {
        Self { name, number, uuid, event: 0 }
    }
}

/// What is known of a device beyond its table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// The device.
    pub device: Device,
    /// How many hold it open.
    pub open_count: u32,
    /// I/O waits.
    pub suspended: bool,
    /// It refuses writes.
    pub read_only: bool,
    /// It has a table that works.
    pub active: bool,
    /// It goes away when its last holder does.
    pub deferred_remove: bool,
}

impl Info {
    /// A device that nobody has open and that may be written; for fakes.
    #[must_use]
    pub fn new(device: Device, suspended: bool, active: bool) -> Self {
        Self { device, open_count: 0, suspended, read_only: false, active, deferred_remove: false }
    }
}

/// One line of a table, or its status.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Target {
    /// Where it begins on the device.
    pub start: Sectors,
    /// How long it is.
    pub length: Sectors,
    /// The target type: "linear", "crypt", "multipath".
    pub kind: String,
    /// Its parameters, as the target prints them. A crypt target's hold the key or its keyring name.
    pub params: String,
}

impl Target {
    /// A line of a table.
    #[must_use]
    pub fn new(start: Sectors, length: Sectors, kind: impl Into<String>, params: impl Into<String>) -> Self {
        Self { start, length, kind: kind.into(), params: params.into() }
    }
}

/// What a suspension does with I/O that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inflight {
    /// Waits until it is done. What comes later waits in the device.
    Awaited,
    /// Lets it be; a target that queues by itself gives it back (`--noflush`).
    Left,
}

/// What the lines of a device say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lines {
    /// What it was told.
    Table,
    /// How it fares.
    Status,
}

/// A device-mapper: the kernel's or a fake's.
pub trait Mapper: fmt::Debug + Send + Sync {
    /// All devices; `dmsetup ls`.
    ///
    /// # Errors
    /// The kernel's.
    fn list(&self) -> io::Result<Vec<Device>>;
    /// One device; `None` if there is none of that name.
    ///
    /// # Errors
    /// The kernel's.
    fn info(&self, name: &DmName) -> io::Result<Option<Info>>;
    /// The table of a device; `dmsetup table --showkeys`.
    ///
    /// # Errors
    /// ENXIO if there is no device of that name.
    fn table(&self, name: &DmName) -> io::Result<Vec<Target>>;
    /// The status of a device; `dmsetup status`.
    ///
    /// # Errors
    /// ENXIO if there is no device of that name.
    fn status(&self, name: &DmName) -> io::Result<Vec<Target>>;

    /// A device and its lines at one moment; `None` if there is none of that name. One ioctl where the kernel is asked.
    ///
    /// # Errors
    /// The kernel's.
    fn look(&self, name: &DmName, lines: Lines) -> io::Result<Option<(Info, Vec<Target>)>> {
        let Some(info) = self.info(name)? else { return Ok(None) };
        let targets = match lines {
            Lines::Table => self.table(name),
            Lines::Status => self.status(name),
        };
        match targets {
            Ok(targets) => Ok(Some((info, targets))),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tells a target something, in its own words; `dmsetup message NAME 0 TEXT`.
    ///
    /// # Errors
    /// ENXIO if there is no device of that name, EINVAL for words the target does not know, EBUSY while it is suspended.
    fn message(&self, name: &DmName, sector: Sectors, text: &str) -> io::Result<()> {
        let _ = (name, sector, text);
        no()
    }

    /// Makes a device without a table; `dmsetup create --notable`. udev gives it its name in `/dev/mapper` and looks no further: what stands
    /// on it is not this machine's.
    ///
    /// # Errors
    /// EBUSY if there is one of that name or UUID.
    fn create(&self, name: &DmName, uuid: &str) -> io::Result<()> {
        let _ = (name, uuid);
        no()
    }

    /// Gives a device the table that comes into force when it is [resumed](Self::resume); `dmsetup load`. Devices that the table names are
    /// opened here.
    ///
    /// # Errors
    /// ENXIO if there is no device of that name, EINVAL for a table the kernel does not understand; what opening a device answers.
    fn load(&self, name: &DmName, table: &[Target]) -> io::Result<()> {
        let _ = (name, table);
        no()
    }

    /// Stops a device: from now on I/O waits in it; `dmsetup suspend --nolockfs`. One that is suspended already stays so. Blocks while I/O is
    /// [awaited](Inflight::Awaited), for as long as that takes.
    ///
    /// # Errors
    /// ENXIO if there is no device of that name.
    fn suspend(&self, name: &DmName, inflight: Inflight) -> io::Result<()> {
        let _ = (name, inflight);
        no()
    }

    /// Lets a device go on, with the table that was [loaded](Self::load) last; `dmsetup resume`. Devices of the table before are closed.
    ///
    /// # Errors
    /// ENXIO if there is no device of that name, EINVAL if the table's size does not suit.
    fn resume(&self, name: &DmName) -> io::Result<()> {
        let _ = name;
        no()
    }

    /// Removes a device; `dmsetup remove`.
    ///
    /// # Errors
    /// ENXIO if there is none of that name, EBUSY if somebody has it open.
    fn remove(&self, name: &DmName) -> io::Result<()> {
        let _ = name;
        no()
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV | libc::ENOENT))
}

fn no<T>() -> io::Result<T> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this host has no device-mapper behind it (captured or fake)",
    ))
}

/// The device-mapper of a [`Host`](crate::Host). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Backend(Arc<dyn Mapper>);

impl Backend {
    /// This machine's.
    #[must_use]
    pub fn live() -> Self {
        Self::of(Live { control: OnceLock::new() })
    }

    /// None: every call answers "not supported here".
    #[must_use]
    pub fn none() -> Self {
        Self::of(Nothing)
    }

    /// Any implementation.
    #[must_use]
    pub fn of(mapper: impl Mapper + 'static) -> Self {
        Self(Arc::new(mapper))
    }
}

impl std::ops::Deref for Backend {
    type Target = dyn Mapper;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

#[derive(Debug)]
struct Nothing;

impl Mapper for Nothing {
    fn list(&self) -> io::Result<Vec<Device>> {
        no()
    }
    fn info(&self, _: &DmName) -> io::Result<Option<Info>> {
        no()
    }
    fn table(&self, _: &DmName) -> io::Result<Vec<Target>> {
        no()
    }
    fn status(&self, _: &DmName) -> io::Result<Vec<Target>> {
        no()
    }
}

#[derive(Debug)]
struct Live {
    control: OnceLock<File>,
}

const LIST_DEVICES: u8 = 2;
const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
const DEV_SUSPEND: u8 = 6;
const DEV_STATUS: u8 = 7;
const TABLE_LOAD: u8 = 9;
const TABLE_STATUS: u8 = 12;
const TARGET_MESSAGE: u8 = 14;
const HEADER: usize = 312;
/// Flags of `struct dm_ioctl`.
const READONLY: u32 = 1;
const SUSPENDED: u32 = 1 << 1;
const STATUS_TABLE: u32 = 1 << 4;
const ACTIVE: u32 = 1 << 5;
const BUFFER_FULL: u32 = 1 << 8;
const SKIP_LOCKFS: u32 = 1 << 10;
const NO_FLUSH: u32 = 1 << 11;
/// In a list: the answer has UUIDs too (since 4.44, Linux 5.13; older kernels ignore it and the UUIDs are asked for one by one).
const WANT_UUID: u32 = 1 << 14;
const DEFERRED: u32 = 1 << 17;
/// What udev's rules read out of the event of a change (libdevmapper.h, `DM_UDEV_*`, in the upper half of the cookie): it is a change, and no
/// rules of subsystems (0x2), of disks (0x4) or others (0x8) apply. They would open the device and look what is on it.
const UDEV: u32 = (0x40 | 0x2 | 0x4 | 0x8) << 16;
/// Of `struct dm_target_spec`.
const TARGET_SPEC: usize = 40;

impl Live {
    fn control(&self) -> io::Result<&File> {
        if let Some(file) = self.control.get() {
            return Ok(file);
        }
        let file = OpenOptions::new().read(true).write(true).open("/dev/mapper/control")?;
        Ok(self.control.get_or_init(|| file))
    }

    /// One ioctl, repeated with a larger buffer while the kernel says it is full.
    fn call(&self, number: u8, name: Option<&DmName>, flags: u32) -> io::Result<Vec<u8>> {
        let mut size: usize = 16 * 1024;
        loop {
            let mut buffer = header(size, name, flags)?;
            sys::dm::ioctl(self.control()?.as_fd(), number, &mut buffer)?;
            if u32_at(&buffer, 28) & BUFFER_FULL == 0 {
                return Ok(buffer);
            }
            size *= 2;
        }
    }

    /// One ioctl that changes something; `fill` puts in what is more than name and flags.
    fn change(
        &self,
        number: u8,
        name: &DmName,
        flags: u32,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> io::Result<()> {
        let mut buffer = header(HEADER, Some(name), flags)?;
        fill(&mut buffer);
        // The kernel wants room for its answer behind the question.
        buffer.resize(buffer.len().next_multiple_of(8) + 1024, 0);
        let size = u32::try_from(buffer.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        put(&mut buffer, 12, size);
        sys::dm::ioctl(self.control()?.as_fd(), number, &mut buffer)
    }

    fn targets(&self, name: &DmName, flags: u32) -> io::Result<Vec<Target>> {
        let buffer = self.call(TABLE_STATUS, Some(name), flags)?;
        parse_targets(&buffer).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl Mapper for Live {
    fn list(&self) -> io::Result<Vec<Device>> {
        let buffer = match self.call(LIST_DEVICES, None, WANT_UUID) {
            // No module, no devices.
            Err(e) if is_gone(&e) => return Ok(vec![]),
            other => other?,
        };
        let devices = parse_list(&buffer).ok_or(io::ErrorKind::InvalidData)?;
        devices
            .into_iter()
            .filter_map(|(device, has_uuids)| match has_uuids {
                true => Some(Ok(device)),
                false => self.info(&device.name).map(|info| info.map(|i| i.device)).transpose(),
            })
            .collect()
    }

    fn info(&self, name: &DmName) -> io::Result<Option<Info>> {
        let buffer = match self.call(DEV_STATUS, Some(name), 0) {
            Err(e) if is_gone(&e) => return Ok(None),
            other => other?,
        };
        Ok(Some(parse_info(&buffer, name)))
    }

    fn look(&self, name: &DmName, lines: Lines) -> io::Result<Option<(Info, Vec<Target>)>> {
        let flags = if lines == Lines::Table { STATUS_TABLE } else { 0 };
        let buffer = match self.call(TABLE_STATUS, Some(name), flags) {
            Err(e) if is_gone(&e) => return Ok(None),
            other => other?,
        };
        let targets = parse_targets(&buffer).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Some((parse_info(&buffer, name), targets)))
    }

    fn message(&self, name: &DmName, sector: Sectors, text: &str) -> io::Result<()> {
        self.change(TARGET_MESSAGE, name, 0, |buffer| {
            // struct dm_target_msg: where, then the words with their end.
            buffer.extend(sector.0.to_ne_bytes());
            buffer.extend(text.as_bytes());
            buffer.push(0);
        })
    }

    fn table(&self, name: &DmName) -> io::Result<Vec<Target>> {
        self.targets(name, STATUS_TABLE)
    }

    fn status(&self, name: &DmName) -> io::Result<Vec<Target>> {
        self.targets(name, 0)
    }

    fn create(&self, name: &DmName, uuid: &str) -> io::Result<()> {
        self.change(DEV_CREATE, name, 0, |buffer| write_text(buffer, 176, 128, uuid))
    }

    fn load(&self, name: &DmName, table: &[Target]) -> io::Result<()> {
        self.change(TABLE_LOAD, name, 0, |buffer| {
            put(buffer, 20, u32::try_from(table.len()).unwrap_or_default());
            table.iter().for_each(|target| push_target(buffer, target));
        })
    }

    fn suspend(&self, name: &DmName, inflight: Inflight) -> io::Result<()> {
        let left = if inflight == Inflight::Left { NO_FLUSH } else { 0 };
        self.change(DEV_SUSPEND, name, SUSPENDED | SKIP_LOCKFS | left, |_| {})
    }

    fn resume(&self, name: &DmName) -> io::Result<()> {
        self.change(DEV_SUSPEND, name, 0, |buffer| put(buffer, 32, UDEV))
    }

    fn remove(&self, name: &DmName) -> io::Result<()> {
        self.change(DEV_REMOVE, name, 0, |buffer| put(buffer, 32, UDEV))
    }
}

/// `struct dm_ioctl` at the front of a buffer: version 4, sizes, flags, name.
fn header(size: usize, name: Option<&DmName>, flags: u32) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; size];
    let total = u32::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?;
    put(&mut buffer, 0, 4);
    put(&mut buffer, 12, total);
    put(&mut buffer, 16, u32::try_from(HEADER).unwrap_or_default());
    put(&mut buffer, 28, flags);
    if let Some(name) = name {
        write_text(&mut buffer, 48, 127, name.as_str());
    }
    Ok(buffer)
}

/// Puts a text into a field that is zero.
fn write_text(buffer: &mut [u8], at: usize, most: usize, text: &str) {
    if let Some(place) = buffer.get_mut(at..at + most) {
        place.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    }
}

/// A line of a table as `DM_TABLE_LOAD` takes it: the specification, the parameters with their end, and where the next one begins, counted
/// from this one.
fn push_target(buffer: &mut Vec<u8>, target: &Target) {
    let begin = buffer.len();
    let length = (TARGET_SPEC + target.params.len() + 1).next_multiple_of(8);
    buffer.resize(begin + length, 0);
    for (at, value) in [(0, target.start.0), (8, target.length.0)] {
        if let Some(place) = buffer.get_mut(begin + at..begin + at + 8) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
    }
    put(buffer, begin + 20, u32::try_from(length).unwrap_or_default());
    write_text(buffer, begin + 24, 15, &target.kind);
    write_text(buffer, begin + TARGET_SPEC, target.params.len(), &target.params);
}

fn put(buffer: &mut [u8], at: usize, value: u32) {
    if let Some(place) = buffer.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_ne_bytes());
    }
}

fn u32_at(buffer: &[u8], at: usize) -> u32 {
    buffer.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes).unwrap_or_default()
}

fn text_at(buffer: &[u8], at: usize) -> String {
    let rest = buffer.get(at..).unwrap_or_default();
    let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
    String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned()
}

/// `struct dm_ioctl` as the kernel fills it in for every answer about a device (`__dev_status`, drivers/md/dm-ioctl.c).
fn parse_info(buffer: &[u8], name: &DmName) -> Info {
    let flags = u32_at(buffer, 28);
    let dev = buffer.get(40..48).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes).unwrap_or_default();
    Info {
        device: Device {
            name: name.clone(),
            number: DevNum::decode(dev),
            uuid: Some(text_at(buffer, 176)).filter(|u| !u.is_empty()),
            event: u32_at(buffer, 32),
        },
        open_count: u32_at(buffer, 24),
        suspended: flags & SUSPENDED != 0,
        read_only: flags & READONLY != 0,
        active: flags & ACTIVE != 0,
        deferred_remove: flags & DEFERRED != 0,
    }
}

/// The answer of `DM_LIST_DEVICES`: `struct dm_name_list { u64 dev; u32 next; char name[]; }`, then 8-aligned `u32 event_nr; u32 flags`
/// and, if flags says so (1), the UUID. Says for each device whether the kernel told of UUIDs at all.
fn parse_list(buffer: &[u8]) -> Option<Vec<(Device, bool)>> {
    let mut at = usize::try_from(u32_at(buffer, 16)).ok()?;
    let mut devices = Vec::new();
    loop {
        let dev = u64::from_ne_bytes(buffer.get(at..at + 12)?.get(..8)?.try_into().ok()?);
        // An empty list is one entry of device 0.
        if dev == 0 {
            return Some(devices);
        }
        let next = usize::try_from(u32_at(buffer, at + 8)).ok()?;
        let name = text_at(buffer, at + 12);
        let tail = (at + 12 + name.len() + 1).next_multiple_of(8);
        let flags = u32_at(buffer, tail + 4);
        let uuid = (flags & 1 != 0).then(|| text_at(buffer, tail + 8)).filter(|u| !u.is_empty());
        let name = DmName::from_kernel(name);
        let device = Device { name, number: DevNum::decode(dev), uuid, event: u32_at(buffer, tail) };
        devices.push((device, flags & 3 != 0));
        if next == 0 {
            return Some(devices);
        }
        at = at.checked_add(next)?;
    }
}

/// The answer of `DM_TABLE_STATUS`: `struct dm_target_spec { u64 start; u64 length; s32 status; u32 next; char type[16]; }` and a text.
fn parse_targets(buffer: &[u8]) -> Option<Vec<Target>> {
    let begin = usize::try_from(u32_at(buffer, 16)).ok()?;
    let count = u32_at(buffer, 20);
    let mut at = begin;
    let mut targets = Vec::new();
    for _ in 0..count {
        let number = |at: usize| Some(u64::from_ne_bytes(buffer.get(at..at + 8)?.try_into().ok()?));
        let kind = text_at(buffer.get(..at + 40)?, at + 24);
        targets.push(Target {
            start: Sectors(number(at)?),
            length: Sectors(number(at + 8)?),
            kind,
            params: text_at(buffer, at + 40),
        });
        // Here `next` counts from the first target, not from this one.
        at = begin.checked_add(usize::try_from(u32_at(buffer, at + 20)).ok()?)?;
    }
    Some(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_taken_apart() {
        assert_eq!(DevNum::decode(0xfd05).to_string(), "253:5");
        assert_eq!(DevNum::decode((253 << 8) | 0x2c | (0x1 << 20)), DevNum { major: 253, minor: 0x12c });
    }

    #[test]
    fn a_table_is_written_as_it_is_read() {
        let line = |start, kind: &str, params: &str| Target::new(Sectors(start), Sectors(8), kind, params);
        let lines = [line(0, "error", ""), line(8, "linear", "254:16 0")];
        let mut buffer = header(HEADER, None, 0).expect("small");
        put(&mut buffer, 20, 2);
        lines.iter().for_each(|line| push_target(&mut buffer, line));
        // The kernel's answers count from the first line, its questions from the one before: the same for two.
        assert_eq!(parse_targets(&buffer).expect("a table"), lines);
    }

    #[test]
    fn a_cut_answer_is_no_panic() {
        let mut buffer = vec![0xff; 400];
        put(&mut buffer, 16, 312);
        for length in 0..400 {
            parse_list(&buffer[..length]);
            parse_targets(&buffer[..length]);
        }
        assert!(parse_list(&buffer[..320]).is_none());
    }
}
