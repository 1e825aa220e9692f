//! A DRBD in memory: resources, roles, disks, connections, syncs and events, behind the same netlink messages as the kernel's.
//!
//! [`FakeDrbd`] is one node or one of a pair. Its [`host`](FakeDrbd::host) is given to [`Drbd::on`](crate::Drbd::on). Two resources of one
//! node with mirrored addresses connect to each other too, as they do in a kernel. The crate's conformance tests run on it and on real
//! kernels alike, which is what keeps it honest.
//!
//! ```
//! use drbd::{Bytes, Drbd, Minor, Promote, ResourceSpec, Volume, VolumeSpec, fake::FakeDrbd};
//! let (alpha, beta) = FakeDrbd::pair();
//! let (here, there) = ("10.0.0.1:7801".parse()?, "10.0.0.2:7801".parse()?);
//! for (node, local, peer) in [(&alpha, here, there), (&beta, there, here)] {
//!     node.add_disk("/dev/vda", Bytes(256 << 20));
//!     let volume = VolumeSpec::new(Volume(0), Minor::new(0)?, "/dev/vda");
//!     drbd::Metadata::create(&node.host(), &volume, drbd::Overwrite::Never)?;
//!     Drbd::on(&node.host())?.ensure(&ResourceSpec::new("r0".parse()?, local, peer).with_volume(volume))?;
//! }
//! let (r0, drbd) = ("r0".parse()?, Drbd::on(&alpha.host())?);
//! drbd.promote(&r0, Promote::Force)?;
//! alpha.finish_sync(&r0);
//! assert!(drbd.get(&r0)?.is_some_and(|state| state.is_primary() && state.is_synced()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod encode;
mod kernel;
mod model;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use host::exec::{Output, Program, Programs, Runner};
use host::fake::Memory;
use host::nl::fake::FakeKernel;
use host::nl::{Message, Protocol, Reply};
use host::{Bytes, Deadline, Host};

use crate::wire::NO_MINOR;
use crate::wire::superblock::{self, BLOCK};
use crate::{Minor, ResourceName};
use encode::{Key, Object};
use kernel::{Kernel, controller_event};
use model::{Cluster, FakeDisk, Generation};

/// The number of the group `events`.
const EVENTS: u32 = 9;
/// The number of the controller's group `notify`.
const NOTIFY: u32 = 3;
/// The module's parameter.
const HELPER: &str = "/sys/module/drbd/parameters/usermode_helper";
/// How large the image of a disk is: room for signatures at both ends.
const IMAGE: usize = 256 * 1024;

#[derive(Debug, Default)]
struct World {
    cluster: Cluster,
    kernels: Vec<FakeKernel>,
    memories: Vec<Memory>,
    /// The number of the last event, for each node.
    seqs: Vec<u32>,
    loaded: Vec<bool>,
    /// Changes asked for, for each node.
    changes: Vec<usize>,
    /// Events to be lost on the way, for each node.
    lose: Vec<usize>,
    /// How many looks a sync takes; 0: it waits to be told.
    sync_steps: u64,
    /// Refusals that the next commands get.
    planted: Vec<i32>,
    /// How long the next command hangs.
    hang: Option<Duration>,
}

/// A node in memory; clones are the same.
#[derive(Debug, Clone)]
pub struct FakeDrbd {
    world: Arc<Mutex<World>>,
    node: usize,
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for FakeDrbd {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeDrbd {
    /// One node, without disks and resources.
    #[must_use]
    pub fn new() -> Self {
        Self::add(&Arc::default())
    }

    /// Two nodes and a network between them.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let world = Arc::default();
        (Self::add(&world), Self::add(&world))
    }

    fn add(world: &Arc<Mutex<World>>) -> Self {
        let mut inner = lock(world);
        let node = inner.cluster.nodes.len();
        inner.cluster.nodes.push(model::Node::default());
        inner.kernels.push(FakeKernel::new(Kernel { world: Arc::clone(world), node }));
        let memory = Memory::new();
        memory.edit(|nodes| nodes.put(HELPER, "/sbin/drbdadm\n"));
        inner.memories.push(memory);
        inner.seqs.push(2);
        inner.loaded.push(true);
        inner.changes.push(0);
        inner.lose.push(0);
        drop(inner);
        Self { world: Arc::clone(world), node }
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// The node as a host, for [`Drbd::on`](crate::Drbd::on). It has `modprobe`.
    #[must_use]
    pub fn host(&self) -> Host {
        let world = self.lock();
        let host = Host::fake().with_exec(Runner::of(self.clone()));
        match (world.memories.get(self.node), world.kernels.get(self.node)) {
            (Some(memory), Some(kernel)) => host.with_tree(memory.tree()).with_nl(kernel.transport()),
            _ => host,
        }
    }

    /// The node's files, to plant things in.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.lock().memories.get(self.node).cloned().unwrap_or_default()
    }

    /// Adds an empty disk.
    pub fn add_disk(&self, path: &str, size: Bytes) {
        let disk = FakeDisk { size: size.sectors().0, meta: None, claimed: false };
        if let Some(node) = self.lock().cluster.nodes.get_mut(self.node) {
            node.disks.insert(path.to_owned(), disk);
        }
        self.memory().edit(|nodes| nodes.put(path, vec![0; IMAGE]));
    }

    /// Takes the module away. [`Drbd::on`](crate::Drbd::on) loads it again.
    pub fn unload(&self) {
        let mut world = self.lock();
        if let Some(loaded) = world.loaded.get_mut(self.node) {
            *loaded = false;
        }
        world.read_images();
        world.cluster.power_cut(self.node);
        world.write_images();
        let kernel = world.kernels.get(self.node).cloned();
        drop(world);
        self.memory().edit(|nodes| nodes.take("/sys/module/drbd"));
        if let Some(kernel) = kernel {
            kernel.notify(Protocol::Generic, NOTIFY, &controller_event(2));
        }
    }

    /// Somebody opens a device: demoting it is refused with -12.
    pub fn hold(&self, minor: Minor) {
        if let Some(node) = self.lock().cluster.nodes.get_mut(self.node) {
            node.held.push(minor.get());
        }
    }

    /// And closes it again.
    pub fn release(&self, minor: Minor) {
        if let Some(node) = self.lock().cluster.nodes.get_mut(self.node) {
            node.held.retain(|held| *held != minor.get());
        }
    }

    /// The next commands are refused with these codes, in this order, whatever they are; 101 lets one pass.
    pub fn refuse_next(&self, codes: &[i32]) {
        let mut planted = codes.to_vec();
        planted.reverse();
        self.lock().planted = planted;
    }

    /// The next command hangs in the kernel, and all others behind it, as behind a disk that does not answer.
    pub fn hang_next(&self, time: Duration) {
        self.lock().hang = Some(time);
    }

    /// Makes the disks of a volume differ: the next verify finds so much.
    pub fn plant_difference(&self, minor: Minor, size: Bytes) {
        let mut world = self.lock();
        let Some((place, number)) = world.cluster.find(self.node, minor.get()) else { return };
        if let Some(vol) = world.cluster.get_mut(&place).and_then(|res| res.volumes.get_mut(&number)) {
            vol.differs = size.sectors().0;
        }
    }

    /// Ends a resync.
    pub fn finish_sync(&self, name: &ResourceName) {
        self.advance_sync(name, 1);
    }

    /// Moves a resync on by one part of so many.
    pub fn advance_sync(&self, name: &ResourceName, one_in: u64) {
        let place = (self.node, name.to_string());
        self.change(|cluster| cluster.sync(&place, one_in));
    }

    /// From now on each look at a resync moves it on by one part of so many; 0 for not at all, as at the start.
    pub fn set_sync_steps(&self, steps: u64) {
        self.lock().sync_steps = steps;
    }

    /// Cuts or heals the network between all resources.
    pub fn set_network(&self, works: bool) {
        self.change(|cluster| {
            cluster.is_cut = !works;
            cluster.settle();
        });
    }

    /// The node loses power: its resources are gone, its disks keep what they had.
    pub fn power_cut(&self) {
        let node = self.node;
        self.change(|cluster| cluster.power_cut(node));
    }

    /// The next events of this node are lost on the way, although they are numbered.
    pub fn lose_events(&self, count: usize) {
        if let Some(lose) = self.lock().lose.get_mut(self.node) {
            *lose = count;
        }
    }

    /// The kernel calls a helper, which is not there.
    pub fn call_helper(&self, name: &ResourceName, helper: &str) {
        let context = crate::wire::Context::resource(name.as_str());
        let mut world = self.lock();
        let replies = world.number(self.node, encode::helper(&context, NO_MINOR, helper).into());
        let kernel = world.kernels.get(self.node).cloned();
        drop(world);
        if let Some(kernel) = kernel {
            replies.iter().for_each(|reply| kernel.notify(Protocol::Generic, EVENTS, reply));
        }
    }

    /// How many requests the kernel was sent, on whatever socket.
    #[must_use]
    pub fn requests(&self) -> usize {
        // Not while holding the world: a request holds its kernel and waits for that.
        let kernel = self.lock().kernels.get(self.node).cloned();
        kernel.map_or(0, |kernel| kernel.requests())
    }

    /// How many of them were to change something.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.lock().changes.get(self.node).copied().unwrap_or_default()
    }

    /// Changes the cluster and tells all nodes.
    fn change(&self, f: impl FnOnce(&mut Cluster)) {
        let mut world = self.lock();
        world.read_images();
        let before = world.look();
        f(&mut world.cluster);
        world.write_images();
        let told = world.tell(&before);
        let kernels = world.kernels.clone();
        drop(world);
        for (kernel, replies) in kernels.iter().zip(told) {
            replies.iter().for_each(|reply| kernel.notify(Protocol::Generic, EVENTS, reply));
        }
    }
}

/// Brings the images of the disks to what the kernel has written.
fn write_images(memory: &Memory, disks: &BTreeMap<String, FakeDisk>) {
    memory.edit(|nodes| {
        for (path, disk) in disks {
            let Some(host::fake::Node::File(image)) = nodes.get(path) else { continue };
            let mut image = image.clone();
            let Some(place) = image.len().checked_sub(BLOCK).and_then(|last| image.get_mut(last..)) else {
                continue;
            };
            let (Some(meta), Some(block)) = (disk.meta, superblock::decode(place)) else { continue };
            place.copy_from_slice(&superblock::encode(&meta.into_block(block, disk.size)));
            nodes.put(path, image);
        }
    });
}

/// Takes what programs have written to the disks that the kernel does not hold.
fn read_images(memory: &Memory, disks: &mut BTreeMap<String, FakeDisk>) {
    memory.edit(|nodes| {
        for (path, disk) in disks.iter_mut().filter(|(_, disk)| !disk.claimed) {
            let Some(host::fake::Node::File(image)) = nodes.get(path) else { continue };
            let block = image.len().checked_sub(BLOCK).and_then(|last| image.get(last..));
            disk.meta = block.and_then(superblock::decode).map(|block| Generation::of(&block));
        }
    });
}

impl Programs for FakeDrbd {
    fn run(
        &self,
        program: Program,
        args: &[String],
        _: &[u8],
        _: Deadline,
    ) -> Result<Output, host::exec::Error> {
        let words: Vec<&str> =
            args.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
        let done = match (program, words.as_slice()) {
            (Program::MODPROBE, ["drbd", ..]) => {
                if let Some(loaded) = self.lock().loaded.get_mut(self.node) {
                    *loaded = true;
                }
                self.memory().edit(|nodes| nodes.put(HELPER, "/sbin/drbdadm\n"));
                true
            }
            _ => {
                return Err(host::exec::Error::NotInstalled {
                    program: program.name,
                    package: program.package,
                });
            }
        };
        Ok(if done { Output::new(0, "", "") } else { Output::new(20, "", "no such device") })
    }
}

impl World {
    /// Takes what programs have written to the disks; before each change.
    fn read_images(&mut self) {
        let nodes = self.memories.iter().zip(&mut self.cluster.nodes);
        nodes.for_each(|(memory, node)| read_images(memory, &mut node.disks));
    }

    /// Writes what the kernel has; after each change.
    fn write_images(&self) {
        let nodes = self.memories.iter().zip(&self.cluster.nodes);
        nodes.for_each(|(memory, node)| write_images(memory, &node.disks));
    }

    fn look(&self) -> Vec<BTreeMap<Key, Object>> {
        (0..self.cluster.nodes.len()).map(|node| encode::objects(&self.cluster, node)).collect()
    }

    /// The events of each node since a look.
    fn tell(&mut self, before: &[BTreeMap<Key, Object>]) -> Vec<Vec<Reply>> {
        let after = self.look();
        let pairs = before.iter().zip(&after).map(|(before, after)| encode::events(before, after));
        let mut told: Vec<_> = pairs.collect();
        // A helper is called before the state changes because of what it is told.
        for ((node, name), volume, minor, helper) in std::mem::take(&mut self.cluster.calls).into_iter().rev()
        {
            let context = crate::wire::Context::volume(&name, volume);
            if let Some(messages) = told.get_mut(node) {
                messages.splice(0..0, encode::helper(&context, minor, helper));
            }
        }
        told.into_iter().enumerate().map(|(node, messages)| self.number(node, messages)).collect()
    }

    /// Gives events their numbers; those that get lost are left out.
    fn number(&mut self, node: usize, messages: Vec<Message>) -> Vec<Reply> {
        let (Some(seq), Some(lose)) = (self.seqs.get_mut(node), self.lose.get_mut(node)) else {
            return Vec::new();
        };
        let mut replies = Vec::new();
        for message in messages {
            *seq = seq.wrapping_add(1);
            match lose.checked_sub(1) {
                Some(left) => *lose = left,
                None => replies.push(encode::reply(&message, *seq)),
            }
        }
        replies
    }
}
