//! A whole storage node in memory: the fakes of five crates behind one `Host`, as they stand behind one kernel.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use drbd::fake::FakeDrbd;
use drbd::{Bytes, Drbd, Metadata, Overwrite};
use host::fake::Memory;
use host::nl::fake::{Answer, FakeKernel, Responder};
use host::nl::{Channel, Kernel, Protocol, Reply, Transport};
use host::plan::KillPoint;
use host::tree::{Entry, Files, Kind};
use host::{Deadline, Host, Secret, Tree};
use luks::fake::FakeCrypt;
use netcfg::fake::FakeNet;
use san_node::config::Config;
use san_node::node::Node;

const EACCES: i32 = 13;
const EPERM: i32 = 1;
const CARDS: [&str; 10] =
    ["int1", "int2", "int3", "int4", "int5", "int6", "drbd1", "drbd2", "drbd3", "drbd4"];

/// What was done to the machine, in order, whatever facility it went through.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

/// One node; clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) net: FakeNet,
    pub(crate) crypt: FakeCrypt,
    pub(crate) drbd: FakeDrbd,
    pub(crate) lio: Memory,
    pub(crate) irq: Memory,
    pub(crate) log: Log,
    /// Whether the caller lacks every right.
    pub(crate) powerless: Arc<AtomicBool>,
    pub(crate) node: String,
}

impl Machine {
    /// A machine with the disks and cards of a node of the article, freshly booted: nothing is configured.
    pub(crate) fn new(node: &str, drbd: FakeDrbd, text: &str) -> Self {
        let config = Config::parse(Path::new("node.toml"), text, node).expect("is in order");
        let irq = irqaff::fake::machine(6);
        for (card, first) in CARDS.iter().zip((0x20..).step_by(8)) {
            irqaff::fake::add_virtio(&irq, card, first, 2);
        }
        let lio = lio::fake::configfs();
        let secret = config.passphrase().expect("there is one");
        let mut crypt = FakeCrypt::new();
        for (unit, disk) in config.units.iter().zip(["/dev/md0", "/dev/md1"]) {
            let luks::Source::Uuid(uuid) = &unit.mapping.source else { panic!("disks are named by UUID") };
            crypt = crypt.with_volume(disk, uuid.clone(), secret.share());
            for volume in &unit.resource.volumes {
                drbd.add_disk(&volume.disk.display().to_string(), Bytes(256 << 20));
                Metadata::create(&drbd.host(), volume, Overwrite::Never).expect("the disk is new");
                lio.edit(|nodes| nodes.put(&volume.minor.path().display().to_string(), "secondary"));
            }
        }
        Self {
            net: FakeNet::new(&CARDS),
            crypt,
            drbd,
            lio,
            irq,
            log: Log::default(),
            powerless: Arc::default(),
            node: node.to_owned(),
        }
    }

    /// The machine as the crates see it.
    pub(crate) fn host(&self) -> Host {
        let refusing = FakeKernel::new(Powerless);
        let transport = Transport::of(Kernels { machine: self.clone(), refusing });
        self.drbd.host().with_tree(Tree::of(self.clone())).with_nl(transport)
    }

    /// The program on this machine.
    pub(crate) fn node(&self, text: &str) -> Node {
        self.node_with(text, KillPoint::Never)
    }

    /// The program on this machine, breaking off somewhere.
    pub(crate) fn node_with(&self, text: &str, kill: KillPoint) -> Node {
        let config = Config::parse(Path::new("node.toml"), text, &self.node).expect("is in order");
        let host = self.host().with_kill_point(kill);
        let luks = self.crypt.luks(&host);
        Node::with_luks(&host, config, luks)
    }

    /// Everything that a person could look at, as text: what "nothing changed" is judged by. Counters and timing are not in it.
    pub(crate) fn picture(&self) -> Vec<String> {
        let mut lines = self.net.picture();
        let luks = self.crypt.luks(&Host::fake());
        lines.extend(luks.list().expect("a fake").iter().map(|m| format!("{m:?}")));
        let drbd = Drbd::on(&self.drbd.host()).expect("a fake");
        for state in drbd.list().expect("a fake") {
            lines.push(format!("{} {} {:?} {:?}", state.name, state.role, state.volumes, state.connections));
        }
        for memory in [&self.lio, &self.irq, &self.sysctls()] {
            memory.edit(|nodes| {
                let shown = nodes.iter().filter(|(path, _)| !path.starts_with("/dev/"));
                lines.extend(shown.map(|(path, node)| match node {
                    host::fake::Node::File(data) => format!("{path} {:?}", String::from_utf8_lossy(data)),
                    other => format!("{path} {other:?}"),
                }));
            });
        }
        lines
    }

    /// What was done since the last call.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().expect("no test panicked with it"))
    }

    fn sysctls(&self) -> Memory {
        let memory = Memory::new();
        let tree = self.net.host().tree().clone();
        for dir in ["/proc/sys/net/core", "/proc/sys/net/ipv4"] {
            for entry in tree.list(dir).expect("a fake") {
                if entry.kind == Kind::File {
                    let path = format!("{dir}/{}", entry.name);
                    // Kernels have spaces and line breaks of their own, whatever was written.
                    memory.edit(|nodes| {
                        nodes.put(
                            &path,
                            tree.read(&path)
                                .expect("a fake")
                                .split_whitespace()
                                .collect::<Vec<_>>()
                                .join(" "),
                        )
                    });
                }
            }
        }
        memory
    }

    fn note(&self, line: String) {
        self.log.lock().expect("no test panicked with it").push(line);
    }

    /// DRBD's devices refuse to be opened while they are Secondary; the target's fake reads that in the device.
    fn update_devices(&self) {
        let Ok(drbd) = Drbd::on(&self.drbd.host()) else { return };
        for state in drbd.list().unwrap_or_default() {
            for volume in &state.volumes {
                let content = if state.is_primary() { "" } else { "secondary" };
                self.lio.edit(|nodes| nodes.put(&volume.minor.path().display().to_string(), content));
            }
        }
    }

    fn change(
        &self,
        what: &str,
        path: &Path,
        run: impl FnOnce(&dyn Files) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.powerless.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(EACCES));
        }
        self.note(format!("{what} {}", path.display()));
        if path.starts_with("/sys/kernel/config") {
            self.update_devices();
        }
        self.on(path, |files| run(files))
    }

    /// Which fake a path belongs to.
    fn on<T>(&self, path: &Path, run: impl FnOnce(&dyn Files) -> io::Result<T>) -> io::Result<T> {
        const LIO: [&str; 6] = [
            "/sys/kernel/config",
            "/sys/module/target_core_mod",
            "/sys/module/iscsi_target_mod",
            "/proc/mounts",
            "/proc/net",
            "/dev/drbd0",
        ];
        const IRQ: [&str; 5] =
            ["/proc/irq", "/proc/interrupts", "/sys/class/net", "/sys/devices", "/sys/kernel/irq"];
        let is_in = |dirs: &[&str]| dirs.iter().any(|dir| path.starts_with(dir));
        if is_in(&LIO) || path.starts_with("/dev/drbd1") {
            run(&self.lio)
        } else if is_in(&IRQ) {
            run(&self.irq)
        } else if path.starts_with("/proc/sys") {
            run(&Below(self.net.host().tree().clone()))
        } else {
            run(&self.drbd.memory())
        }
    }
}

impl Files for Machine {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.on(path, |files| files.read(path))
    }

    fn write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        let shown = String::from_utf8_lossy(data).into_owned();
        self.change(&format!("write {shown} to"), path, |files| files.write(path, data))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.change("mkdir", path, |files| files.make_dir(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.change("rmdir", path, |files| files.remove_dir(path))
    }

    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        self.change("ln", path, |files| files.link(target, path))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.change("unlink", path, |files| files.unlink(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.on(path, |files| files.list(path))
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        self.on(path, |files| files.read_link(path))
    }

    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        self.on(path, |files| files.kind(path))
    }

    fn replace(&self, path: &Path, data: &[u8], mode: u32) -> io::Result<()> {
        self.change("replace", path, |files| files.replace(path, data, mode))
    }
}

/// The files of another fake, of which only the `Tree` is to be had.
#[derive(Debug)]
struct Below(Tree);

impl Files for Below {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.read_bytes(path).map_err(|e| e.source)
    }

    fn write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        self.0.write(path, data).map_err(|e| e.source)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.0.make_dir(path).map_err(|e| e.source)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir(path).map(drop).map_err(|e| e.source)
    }

    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        self.0.link(target, path).map_err(|e| e.source)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.0.unlink(path).map(drop).map_err(|e| e.source)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.0.list(path).map_err(|e| e.source)
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        self.0.read_link(path).map_err(|e| e.source)
    }

    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        self.0.kind(path).map_err(|e| e.source)
    }

    fn replace(&self, path: &Path, data: &[u8], mode: u32) -> io::Result<()> {
        self.0.replace(path, data, mode).map_err(|e| e.source)
    }
}

/// One kernel of two fakes: the network's answers what is about routes, DRBD's what is generic.
#[derive(Debug)]
struct Kernels {
    machine: Machine,
    refusing: FakeKernel,
}

impl Kernel for Kernels {
    fn open(&self, protocol: Protocol) -> io::Result<Box<dyn Channel>> {
        let host = match protocol {
            Protocol::Route => self.machine.net.host(),
            _ => self.machine.drbd.host(),
        };
        let open = |transport: &Transport| Kernel::open(transport, protocol);
        Ok(Box::new(Wire {
            machine: self.machine.clone(),
            protocol,
            granted: open(host.nl())?,
            refused: open(&self.refusing.transport())?,
            was_refused: false,
        }))
    }
}

/// Refuses all that is asked.
#[derive(Debug)]
struct Powerless;

impl Responder for Powerless {
    fn answer(&mut self, _: Protocol, _: &Reply) -> Answer {
        Answer::status(EPERM, None)
    }
}

/// One socket: it notes what changes something, and refuses that to who has no rights.
#[derive(Debug)]
struct Wire {
    machine: Machine,
    protocol: Protocol,
    granted: Box<dyn Channel>,
    refused: Box<dyn Channel>,
    was_refused: bool,
}

/// The name of a request that changes something.
fn change(protocol: Protocol, request: &Reply) -> Option<String> {
    match (protocol, request.kind) {
        // RTM_GETLINK and the like are those with 2 in the last two bits.
        (Protocol::Route, kind) if kind % 4 == 2 => None,
        (Protocol::Route, 20) => Some("add an address".to_owned()),
        (Protocol::Route, 21) => Some("remove an address".to_owned()),
        (Protocol::Route, kind) => Some(format!("rtnetlink {kind}")),
        // The controller is only asked for names.
        (Protocol::Generic, 16) => None,
        (_, _) => match request.body.first().copied().unwrap_or_default() {
            2 | 30..=33 | 38 => None,
            14 => Some("promote".to_owned()),
            15 => Some("demote".to_owned()),
            command => Some(format!("drbd {command}")),
        },
    }
}

impl Channel for Wire {
    fn send(&mut self, data: &[u8]) -> io::Result<()> {
        let changes: Vec<String> =
            Reply::parse_all(data).flatten().filter_map(|request| change(self.protocol, &request)).collect();
        self.was_refused = self.machine.powerless.load(Ordering::SeqCst) && !changes.is_empty();
        if self.was_refused {
            return self.refused.send(data);
        }
        changes.into_iter().for_each(|line| self.machine.note(line));
        self.granted.send(data)
    }

    fn receive(&mut self, deadline: Deadline, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let channel = if self.was_refused { &mut self.refused } else { &mut self.granted };
        channel.receive(deadline, take)
    }

    fn join(&mut self, group: u32) -> io::Result<()> {
        self.granted.join(group)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.granted.fd()
    }
}

/// A passphrase that opens nothing.
pub(crate) fn wrong_passphrase() -> Secret {
    Secret::from("not written anywhere")
}
