//! Device-mapper of the fake: names, tables, suspension. No I/O goes through it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use host::DmName;
use host::dm::{Backend, DevNum, Device, Inflight, Info, Mapper, Target};
use host::fake::Memory;

/// A device-mapper beside a memory: what it makes appears there in `/dev` and `/sys/class/block`, and block devices that tables lead to are
/// found there by their numbers. One whose node has the content `secondary` cannot be opened. Put it into a host with
/// [`with_dm`](host::Host::with_dm).
#[must_use]
pub fn mapper(memory: &Memory) -> Backend {
    Backend::of(Fake { memory: memory.clone(), devices: Mutex::default() })
}

#[derive(Debug)]
struct Fake {
    memory: Memory,
    devices: Mutex<BTreeMap<String, State>>,
}

#[derive(Debug, Default)]
struct State {
    minor: u32,
    uuid: String,
    live: Option<Vec<Target>>,
    next: Option<Vec<Target>>,
    suspended: bool,
}

fn errno<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

impl Fake {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, name: &DmName, f: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        match self.lock().get_mut(name.as_str()) {
            Some(device) => f(device),
            None => errno(libc::ENXIO),
        }
    }

    /// What `blkdev_get_by_dev` answers to a table's device.
    fn can_open(&self, number: &str) -> io::Result<()> {
        let node = self.memory.edit(|nodes| {
            let dirs = nodes.children("/sys/class/block");
            let is = |name: &String| {
                nodes.text(&format!("/sys/class/block/{name}/dev")).is_some_and(|dev| dev.trim() == number)
            };
            let name = dirs.into_iter().map(|(name, _)| name).find(is)?;
            nodes.text(&format!("/dev/{name}"))
        });
        match node.as_deref().map(str::trim) {
            None => errno(libc::ENXIO),
            Some("secondary") => errno(libc::EROFS),
            Some(_) => Ok(()),
        }
    }

    fn info_of(name: &DmName, device: &State) -> Info {
        // The kernel's structures are closed to others: read as they would be from it.
        Info::new(
            Device::new(name.clone(), DevNum { major: 253, minor: device.minor }, Some(device.uuid.clone())),
            device.suspended,
            device.live.is_some(),
        )
    }
}

impl Mapper for Fake {
    fn list(&self) -> io::Result<Vec<Device>> {
        let devices = self.lock();
        Ok(devices
            .iter()
            .map(|(name, device)| Self::info_of(&DmName::from_kernel(name), device).device)
            .collect())
    }

    fn info(&self, name: &DmName) -> io::Result<Option<Info>> {
        Ok(self.lock().get(name.as_str()).map(|device| Self::info_of(name, device)))
    }

    fn table(&self, name: &DmName) -> io::Result<Vec<Target>> {
        self.with(name, |device| Ok(device.live.clone().unwrap_or_default()))
    }

    fn status(&self, name: &DmName) -> io::Result<Vec<Target>> {
        self.table(name)
    }

    fn create(&self, name: &DmName, uuid: &str) -> io::Result<()> {
        let mut devices = self.lock();
        if devices.contains_key(name.as_str()) {
            return errno(libc::EBUSY);
        }
        let taken: Vec<u32> = devices.values().map(|device| device.minor).collect();
        let minor = (0..).find(|minor| !taken.contains(minor)).unwrap_or_default();
        devices.insert(name.to_string(), State { minor, uuid: uuid.to_owned(), ..State::default() });
        Ok(())
    }

    fn load(&self, name: &DmName, table: &[Target]) -> io::Result<()> {
        for line in table {
            let numbers: Vec<&str> = line.params.split(' ').filter(|word| word.contains(':')).collect();
            match (line.kind.as_str(), numbers.len()) {
                ("error", 0) | ("linear", 1) | ("log-writes", 2) => {}
                _ => return errno(libc::EINVAL),
            }
            numbers.iter().try_for_each(|number| self.can_open(number))?;
        }
        self.with(name, |device| {
            device.next = Some(table.to_vec());
            Ok(())
        })
    }

    fn suspend(&self, name: &DmName, _: Inflight) -> io::Result<()> {
        self.with(name, |device| {
            device.suspended = true;
            Ok(())
        })
    }

    fn resume(&self, name: &DmName) -> io::Result<()> {
        let (minor, size) = self.with(name, |device| {
            if let Some(next) = device.next.take() {
                device.live = Some(next);
            }
            let Some(live) = &device.live else { return errno(libc::EINVAL) };
            device.suspended = false;
            Ok((device.minor, live.iter().map(|line| line.length.0).sum::<u64>()))
        })?;
        self.memory.edit(|nodes| {
            nodes.put(&format!("/dev/dm-{minor}"), "");
            nodes.put(&format!("/sys/class/block/dm-{minor}/dev"), format!("253:{minor}\n"));
            nodes.put(&format!("/sys/class/block/dm-{minor}/size"), format!("{size}\n"));
        });
        Ok(())
    }

    fn remove(&self, name: &DmName) -> io::Result<()> {
        match self.lock().remove(name.as_str()) {
            Some(State { minor, .. }) => {
                self.memory.edit(|nodes| {
                    nodes.take(&format!("/dev/dm-{minor}"));
                    nodes.take(&format!("/sys/class/block/dm-{minor}"));
                });
                Ok(())
            }
            None => errno(libc::ENXIO),
        }
    }
}
