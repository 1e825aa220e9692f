//! A disk that does not answer: nobody waits for it for ever, and nobody is in the way meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use host::dm::{Inflight, Target};
use lio::{AclSpec, BackstoreSpec, Deadline, ErrorKind, HaState, Iqn, Removal, Side, TargetSpec, UnitSerial};

use super::ha::{pair, soon};
use super::{Bench, Outcome, TARGET, chain, iqn};

/// A disk that stops answering, as DRBD without quorum: a device-mapper device that is suspended. However a test ends, it answers again:
/// what waits for it waits where no signal reaches it, and a guest with such a process does not even switch itself off.
struct Frozen<'a> {
    bench: &'a Bench,
    name: host::DmName,
}

impl<'a> Frozen<'a> {
    fn new(bench: &'a Bench, disk: usize) -> Result<Self, Box<dyn std::error::Error>> {
        let node = std::fs::canonicalize(&bench.disks[disk])?;
        let node = node.file_name().expect("a name").to_string_lossy().into_owned();
        let read = |file: &str| bench.host.tree().read(format!("/sys/class/block/{node}/{file}"));
        // A name of its own: udev may be about to remove the node of the one before.
        let name: host::DmName = format!("frozen{disk}").parse()?;
        let (dm, length) = (bench.host.dm(), host::Sectors(read("size")?.trim().parse()?));
        dm.create(&name, &format!("TEST-{name}"))?;
        dm.load(
            &name,
            &[Target::new(host::Sectors(0), length, "linear", format!("{} 0", read("dev")?.trim()))],
        )?;
        dm.resume(&name)?;
        let minor = dm.info(&name)?.expect("made").device.number.minor;
        bench.host.tree().unlink(name.path())?;
        bench.host.tree().link(format!("/dev/dm-{minor}"), name.path())?;
        Ok(Self { bench, name })
    }

    fn freeze(&self) -> Outcome {
        Ok(self.bench.host.dm().suspend(&self.name, Inflight::Left)?)
    }

    fn thaw(&self) -> Outcome {
        Ok(self.bench.host.dm().resume(&self.name)?)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let (dm, deadline) = (self.bench.host.dm(), soon());
        dm.resume(&self.name).ok();
        // udev may be looking at it.
        while dm.remove(&self.name).is_err() && deadline.pause(Duration::from_millis(50)) {}
        self.bench.host.tree().unlink(self.name.path()).ok();
    }
}

/// Writes a page in a thread.
fn write_page(device: &str) -> std::io::Result<std::thread::JoinHandle<std::io::Result<()>>> {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let file = std::fs::OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(device)?;
    Ok(std::thread::spawn(move || {
        let buffer = vec![b'z'; 2 * 4096];
        let skip = buffer.as_ptr().align_offset(4096);
        file.write_all_at(&buffer[skip..skip + 4096], 0)
    }))
}

pub fn held_when_it_answers(bench: &Bench) -> Outcome {
    let (lio, before, frozen) = (bench.lio(), bench.snapshot(), Frozen::new(bench, 0)?);
    let disk = |name: &str| {
        BackstoreSpec::block(name.parse().unwrap(), frozen.name.path())
            .with_serial(UnitSerial::derived_from(name))
    };
    let pair = pair("frozen", &[disk("frozen0")]);
    lio.ensure_ha(&pair, Side::One)?;
    lio.takeover(&pair, Side::One, soon())?;
    frozen.freeze()?;
    let write = write_page("/dev/mapper/lio-frozen0")?;
    let node = std::fs::canonicalize("/dev/mapper/lio-frozen0")?;
    let file = format!("/sys/class/block/{}/inflight", node.file_name().expect("a name").to_string_lossy());
    let deadline = soon();
    while bench.host.tree().read(&file)?.split_whitespace().all(|n| n == "0") {
        assert!(deadline.pause(Duration::from_millis(20)), "no command under way");
    }
    let began = Instant::now();
    let error = lio.hold(&pair, Side::One, Deadline::after(Duration::from_secs(1))).expect_err("frozen");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Late, true));
    assert!(error.to_string().contains("does not answer") && began.elapsed().as_secs() < 30, "{error}");
    frozen.thaw()?;
    write.join().expect("no panic")?;
    let deadline = soon();
    while lio.ha_state(&pair, Side::One)? != HaState::Held {
        assert!(deadline.pause(Duration::from_millis(50)), "{:?}", lio.ha_state(&pair, Side::One)?);
    }
    lio.standby(&pair, Side::One, soon())?;
    lio.remove_ha(&pair, Side::One, soon())?;
    bench.same(&before, "removed");
    Ok(())
}

pub fn removed_when_it_answers(bench: &Bench) -> Outcome {
    let (before, frozen) = (bench.snapshot(), Frozen::new(bench, 1)?);
    let lio = bench.lio().with_removal(Removal::Final);
    let disk = BackstoreSpec::block("frozen1".parse()?, frozen.name.path())
        .with_serial(UnitSerial::derived_from("frozen1"));
    let spec = TargetSpec::new(iqn("frozen1"))
        .with_lun(0, disk)
        .with_portal("127.0.0.1:13403".parse()?)
        .with_acl(AclSpec::new(iqn("host1")));
    lio.ensure(&spec)?;
    let mut initiator = Initiator::log_in("127.0.0.1:13403", &iqn("host1"), &spec.iqn)?;
    frozen.freeze()?;
    let counter = format!("{TARGET}/iscsi/{}/tpgt_1/lun/lun_0/statistics/scsi_tgt_port/in_cmds", spec.iqn);
    let counted = bench.host.tree().read(&counter)?;
    initiator.read()?;
    let deadline = soon();
    while bench.host.tree().read(&counter)? == counted {
        assert!(deadline.pause(Duration::from_millis(20)), "no command under way");
    }
    let began = Instant::now();
    let error = lio.remove_before(&spec.iqn, Deadline::after(Duration::from_secs(2))).expect_err("frozen");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Late, true), "{}", chain(&error));
    assert!(error.to_string().contains("its sessions have commands under way"), "{error}");
    // A second one does not hang either.
    let again = lio.clone().with_lock_timeout(Duration::from_secs(1));
    let error = again.remove_before(&spec.iqn, soon()).expect_err("the first one is at it");
    assert_eq!(error.kind(), ErrorKind::Locked, "{}", chain(&error));
    assert!(began.elapsed().as_secs() < 60);
    // Other targets can be made by others meanwhile: no lock of the kernel is held.
    let other = format!("{TARGET}/iscsi/{}", iqn("meanwhile"));
    bench.host.tree().make_dir(&other)?;
    bench.host.tree().remove_dir(&other)?;
    frozen.thaw()?;
    // When the lock is free the first one is through.
    let last = lio.with_lock_timeout(Duration::from_secs(60));
    assert!(!last.remove_before(&spec.iqn, soon())?, "the removal did not go on");
    bench.same(&before, "removed");
    Ok(())
}

/// What waits in a node that is held does not keep it from being removed.
pub fn removed_while_it_is_held(bench: &Bench) -> Outcome {
    let (lio, before) = (bench.lio(), bench.snapshot());
    let mut pair = pair("held", &[bench.disk(0, "held0")]);
    pair.target = pair.target.with_acl(AclSpec::new(iqn("host1")));
    lio.ensure_ha(&pair, Side::One)?;
    lio.takeover(&pair, Side::One, soon())?;
    let mut initiator = Initiator::log_in("127.0.0.1:13400", &iqn("host1"), &pair.target.iqn)?;
    assert!(lio.hold(&pair, Side::One, soon())?);
    initiator.read()?;
    let answer = initiator.answer_within(Duration::from_millis(300));
    assert!(answer.is_err(), "it waits: {answer:?}");
    assert!(lio.remove_ha(&pair, Side::One, soon())?);
    bench.same(&before, "removed");
    Ok(())
}

/// As little of an initiator as can have a command under way: no disk appears for which the machine itself would wait.
struct Initiator {
    stream: TcpStream,
    /// The next command's number.
    command: u32,
    /// What the target said last.
    status: u32,
}

impl Initiator {
    fn log_in(portal: &str, name: &Iqn, target: &Iqn) -> Result<Self, Box<dyn std::error::Error>> {
        let stream = TcpStream::connect(portal)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut new = Self { stream, command: 1, status: 0 };
        // RFC 7143, 11.12: at once to the operational stage, and from there to the full feature phase. With every key proposed the target has
        // nothing left to propose.
        let keys = [
            ("InitiatorName", name.as_str()),
            ("TargetName", target.as_str()),
            ("SessionType", "Normal"),
            ("HeaderDigest", "None"),
            ("DataDigest", "None"),
            ("MaxConnections", "1"),
            ("InitialR2T", "Yes"),
            ("ImmediateData", "Yes"),
            ("MaxRecvDataSegmentLength", "8192"),
            ("MaxBurstLength", "262144"),
            ("FirstBurstLength", "65536"),
            ("DefaultTime2Wait", "2"),
            ("DefaultTime2Retain", "20"),
            ("MaxOutstandingR2T", "1"),
            ("DataPDUInOrder", "Yes"),
            ("DataSequenceInOrder", "Yes"),
            ("ErrorRecoveryLevel", "0"),
        ];
        let keys: String = keys.iter().map(|(key, value)| format!("{key}={value}\0")).collect();
        let mut request = [0_u8; 48];
        request[..2].copy_from_slice(&[0x43, 0x87]);
        request[8..14].copy_from_slice(&[0x80, 0, 0, 1, 0, 0]);
        new.send(request, keys.as_bytes())?;
        let answer = new.receive()?;
        assert_eq!(answer[1] & 0x83, 0x83, "login: {answer:?}");
        assert_eq!((answer[0] & 0x3f, answer[36], answer[37]), (0x23, 0, 0), "login: {answer:?}");
        // TEST UNIT READY until what has happened since the last login is told.
        let deadline = soon();
        loop {
            new.command(&[0; 6], 0)?;
            let answer = new.answer_within(Duration::from_secs(60))?;
            if answer[3] == 0 {
                return Ok(new);
            }
            assert!(deadline.pause(Duration::from_millis(20)), "not ready: {answer:?}");
        }
    }

    /// Sends READ (10) of one block.
    fn read(&mut self) -> std::io::Result<()> {
        self.command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 512)
    }

    /// The answer to a command; pings may come in between.
    fn answer_within(&mut self, patience: Duration) -> std::io::Result<[u8; 48]> {
        self.stream.set_read_timeout(Some(patience))?;
        loop {
            let answer = self.receive()?;
            if matches!(answer[0] & 0x3f, 0x21 | 0x25) {
                return Ok(answer);
            }
        }
    }

    /// Sends a command to LUN 0 that reads so many bytes.
    fn command(&mut self, cdb: &[u8], reads: u32) -> std::io::Result<()> {
        let mut request = [0_u8; 48];
        request[0] = 0x01;
        request[1] = if reads == 0 { 0x81 } else { 0xc1 };
        request[20..24].copy_from_slice(&reads.to_be_bytes());
        request[32..32 + cdb.len()].copy_from_slice(cdb);
        self.send(request, &[])?;
        self.command += 1;
        Ok(())
    }

    fn send(&mut self, mut request: [u8; 48], data: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(data.len()).expect("short");
        request[5..8].copy_from_slice(&length.to_be_bytes()[1..]);
        request[16..20].copy_from_slice(&self.command.to_be_bytes());
        request[24..28].copy_from_slice(&self.command.to_be_bytes());
        request[28..32].copy_from_slice(&self.status.wrapping_add(1).to_be_bytes());
        self.stream.write_all(&request)?;
        self.stream.write_all(data)?;
        self.stream.write_all(&vec![0; data.len().next_multiple_of(4) - data.len()])
    }

    fn receive(&mut self) -> std::io::Result<[u8; 48]> {
        let mut answer = [0_u8; 48];
        self.stream.read_exact(&mut answer)?;
        let length = u32::from_be_bytes([0, answer[5], answer[6], answer[7]]);
        let mut data = vec![0; usize::try_from(length).expect("64 bits").next_multiple_of(4)];
        self.stream.read_exact(&mut data)?;
        self.status = u32::from_be_bytes([answer[24], answer[25], answer[26], answer[27]]);
        Ok(answer)
    }
}
