//! A watch of a device-mapper in memory, told of changes as the kernel tells: events come once, in order, and none is lost.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // It is a test.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use host::nl::{Channel, Protocol, Transport};
use multipath::fake::{FakeMapper, Faults};
use multipath::{ConnectionError, Deadline, DmName, Error, Event, Host, Kernel, PathName, Watch};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const TABLE: &str = "0 0 1 1 service-time 0 2 1 8:16 1 8:32 1";

/// What a test sends into the sockets of a watch.
#[derive(Debug, Clone, Default)]
struct Sender {
    uevents: Arc<Mutex<Option<UnixDatagram>>>,
    iscsi: Arc<Mutex<Option<UnixDatagram>>>,
    lost: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Socket {
    socket: UnixDatagram,
    lost: Arc<AtomicBool>,
}

impl Channel for Socket {
    fn send(&mut self, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn receive(&mut self, _: Deadline, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        if self.lost.swap(false, Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
        }
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(length) => {
                take(&buffer[..length]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            Err(error) => Err(error),
        }
    }

    fn join(&mut self, group: u32) -> io::Result<()> {
        assert_eq!(group, 1);
        Ok(())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl host::nl::Kernel for Sender {
    fn open(&self, protocol: Protocol) -> io::Result<Box<dyn Channel>> {
        let (ours, theirs) = UnixDatagram::pair()?;
        theirs.set_nonblocking(true)?;
        let (place, lost) = match protocol {
            Protocol::KobjectUevent => (&self.uevents, Arc::clone(&self.lost)),
            Protocol::Iscsi => (&self.iscsi, Arc::default()),
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        *place.lock().expect("no panic") = Some(ours);
        Ok(Box::new(Socket { socket: theirs, lost }))
    }
}

impl Sender {
    fn uevent(&self, text: &str) {
        let socket = self.uevents.lock().expect("no panic");
        socket.as_ref().expect("a watch").send(text.as_bytes()).expect("sent");
    }

    fn path(&self, path: &str, what: &str) {
        self.uevent(&format!(
            "change@/devices/virtual/block/dm-0\0DM_ACTION={what}\0DM_PATH={path}\0DM_NAME=mpatha\0DM_NR_VALID_PATHS=1\0"
        ));
    }

    fn device(&self, node: &str) {
        self.uevent(&format!("change@/devices/virtual/block/{node}\0ACTION=change\0"));
    }

    fn connection_error(&self, session: u32, code: u32) {
        let mut message = vec![0; 16 + 56];
        for (at, value) in [(0, 72), (16, 102), (56, session), (64, code)] {
            message[at..at + 4].copy_from_slice(&u32::to_ne_bytes(value));
        }
        self.iscsi.lock().expect("no panic").as_ref().expect("a watch").send(&message).expect("sent");
    }
}

struct Bench {
    mapper: FakeMapper,
    faults: Faults,
    sender: Sender,
    watch: Watch<Event, Error>,
}

impl Bench {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let mapper = FakeMapper::new().with_map("mpatha", "mpath-3600a", 2048, TABLE);
        let sender = Sender::default();
        let host = Host::fake()
            .with_dm(host::dm::Backend::of(mapper.clone()))
            .with_nl(Transport::of(sender.clone()));
        let mut watch = Kernel::on(&host).watch()?;
        let Some(Event::Snapshot(maps)) = watch.next_before(soon())? else { panic!("no snapshot") };
        assert_eq!(maps.len(), 1);
        Ok(Self { mapper, faults: Faults::on(&host), sender, watch })
    }

    fn fail(&self, path: &str) -> Outcome {
        Ok(self.faults.fail(&name(), &number(path))?)
    }

    fn reinstate(&self, path: &str) -> Outcome {
        Ok(self.faults.reinstate(&name(), &number(path))?)
    }

    /// What has been told so far, in short.
    fn told(&mut self) -> Result<Vec<String>, Error> {
        let mut told = Vec::new();
        while let Some(event) = self.watch.next_before(Deadline::after(Duration::ZERO))? {
            told.push(match event {
                Event::PathFailed { path, left, .. } => format!("failed {path} left {left}"),
                Event::PathReinstated { path, left, .. } => format!("reinstated {path} left {left}"),
                Event::LastPathLost { map } => format!("lost {map}"),
                Event::MapAdded(map) => format!("added {}", map.name),
                Event::MapChanged { new, .. } => format!("changed {}", new.name),
                Event::MapRemoved(map) => format!("removed {}", map.name),
                Event::ConnectionFailed { session, error, .. } => format!("session {session}: {error}"),
                other => format!("{other:?}"),
            });
        }
        Ok(told)
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

fn name() -> DmName {
    "mpatha".parse().expect("a name")
}

fn number(text: &str) -> PathName {
    text.parse().expect("a number")
}

#[test]
fn every_fault_is_told_once_with_what_is_left() -> Outcome {
    let mut bench = Bench::new()?;
    assert_eq!(bench.told()?, [""; 0]);
    bench.fail("8:16")?;
    bench.sender.path("8:16", "PATH_FAILED");
    assert_eq!(bench.told()?, ["failed 8:16 left 1"]);
    bench.fail("8:32")?;
    bench.sender.path("8:32", "PATH_FAILED");
    assert_eq!(bench.told()?, ["failed 8:32 left 0", "lost mpatha"]);
    bench.reinstate("8:16")?;
    bench.sender.path("8:16", "PATH_REINSTATED");
    // Told twice by the kernel is told once.
    bench.sender.path("8:16", "PATH_REINSTATED");
    assert_eq!(bench.told()?, ["reinstated 8:16 left 1"]);
    Ok(())
}

#[test]
fn a_path_that_was_back_before_anybody_looked_is_told_all_the_same() -> Outcome {
    let mut bench = Bench::new()?;
    for what in ["PATH_FAILED", "PATH_REINSTATED", "PATH_FAILED", "PATH_REINSTATED"] {
        bench.sender.path("8:16", what);
    }
    let told =
        ["failed 8:16 left 1", "reinstated 8:16 left 2", "failed 8:16 left 1", "reinstated 8:16 left 2"];
    assert_eq!(bench.told()?, told);
    // The event comes late: the state was read already, and nothing is told of it again.
    bench.sender.path("8:16", "PATH_FAILED");
    assert_eq!(bench.told()?, ["failed 8:16 left 1", "reinstated 8:16 left 2"]);
    Ok(())
}

/// A table that is loaded anew makes all paths active, and the kernel does not tell.
#[test]
fn a_path_that_fails_twice_was_back_in_between() -> Outcome {
    let mut bench = Bench::new()?;
    bench.fail("8:16")?;
    bench.sender.path("8:16", "PATH_FAILED");
    bench.sender.path("8:16", "PATH_FAILED");
    let failed = "failed 8:16 left 1";
    assert_eq!(bench.told()?, [failed, "reinstated 8:16 left 2", failed]);
    // What was read before its event came is told once.
    bench.reinstate("8:16")?;
    bench.sender.device("dm-0");
    assert_eq!(bench.told()?, ["reinstated 8:16 left 2"]);
    bench.fail("8:16")?;
    bench.sender.device("dm-0");
    assert_eq!(bench.told()?, [failed]);
    bench.sender.path("8:16", "PATH_FAILED");
    assert_eq!(bench.told()?, [""; 0]);
    Ok(())
}

#[test]
fn maps_come_change_and_go() -> Outcome {
    let mut bench = Bench::new()?;
    let _mapper = bench.mapper.clone().with_map("mpathb", "mpath-3600b", 4096, TABLE);
    bench.sender.device("dm-1");
    assert_eq!(bench.told()?, ["added mpathb"]);
    let mapper: &dyn host::dm::Mapper = &bench.mapper;
    mapper.suspend(&name(), host::dm::Inflight::Left)?;
    bench.sender.device("dm-0");
    assert_eq!(bench.told()?, ["changed mpatha"]);
    let mapper: &dyn host::dm::Mapper = &bench.mapper;
    mapper.resume(&name())?;
    mapper.remove(&"mpathb".parse()?)?;
    bench.sender.device("dm-0");
    bench.sender.device("dm-1");
    assert_eq!(bench.told()?, ["changed mpatha", "removed mpathb"]);
    // Another disk under the old name is another map.
    let mapper: &dyn host::dm::Mapper = &bench.mapper;
    mapper.remove(&name())?;
    let _mapper = bench.mapper.clone().with_map("mpatha", "mpath-3600c", 2048, TABLE);
    bench.sender.device("dm-0");
    assert_eq!(bench.told()?, ["removed mpatha", "added mpatha"]);
    Ok(())
}

#[test]
fn what_was_lost_is_made_up_for_by_looking() -> Outcome {
    let mut bench = Bench::new()?;
    bench.fail("8:16")?;
    let _mapper = bench.mapper.clone().with_map("mpathb", "mpath-3600b", 4096, TABLE);
    bench.sender.lost.store(true, Ordering::SeqCst);
    assert_eq!(bench.told()?, ["Resynchronised", "failed 8:16 left 1", "added mpathb"]);
    assert_eq!(bench.told()?, [""; 0]);
    Ok(())
}

#[test]
fn connections_that_break_are_told_before_their_paths() -> Outcome {
    let mut bench = Bench::new()?;
    bench.sender.connection_error(3, 1022);
    assert_eq!(bench.told()?, ["session 3: the target does not answer"]);
    bench.sender.connection_error(4, 1099);
    let event = bench.watch.next_before(soon())?;
    assert_eq!(
        event,
        Some(Event::ConnectionFailed { session: 4, connection: 0, error: ConnectionError::Other(1099) })
    );
    Ok(())
}

#[test]
fn a_reader_that_waits_is_woken_and_ends_at_its_deadline() -> Outcome {
    let mut bench = Bench::new()?;
    let begun = Instant::now();
    assert_eq!(bench.watch.next_before(Deadline::after(Duration::from_millis(60)))?, None);
    assert!(begun.elapsed() >= Duration::from_millis(60));
    bench.fail("8:16")?;
    let sender = bench.sender.clone();
    let told = std::thread::scope(|scope| {
        scope.spawn(move || {
            assert!(Deadline::after(Duration::from_secs(1)).pause(Duration::from_millis(50)));
            sender.path("8:16", "PATH_FAILED");
        });
        bench.watch.next_before(soon())
    });
    assert!(matches!(told?, Some(Event::PathFailed { .. })));
    Ok(())
}

#[cfg(feature = "tokio")]
#[test]
fn tokio_gets_the_same_events() -> Outcome {
    let bench = Bench::new()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        bench.fail("8:16")?;
        let sender = bench.sender.clone();
        let mut events = multipath::Events::new(bench.watch)?;
        assert!(tokio::time::timeout(Duration::from_millis(50), events.next()).await.is_err(), "nothing yet");
        sender.path("8:16", "PATH_FAILED");
        let event = tokio::time::timeout(Duration::from_secs(5), events.next()).await??;
        assert!(matches!(event, Event::PathFailed { left: 1, .. }), "{event:?}");
        Ok(())
    })
}
