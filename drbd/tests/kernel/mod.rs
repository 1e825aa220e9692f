//! What only a kernel can show: its own words and those of the stock tools.

use std::time::{Duration, Instant};

use drbd::{Deadline, Drbd, Promote, ResourceState};

use crate::conformance::operate::until;
use crate::conformance::{Bench, Case, Failure, Outcome, later, seen};

pub(crate) const ALL: &[Case] = &[
    ("states_equal_proc_drbd", states_equal_proc_drbd),
    ("states_equal_drbdsetup_status", states_equal_drbdsetup_status),
    ("options_equal_drbdsetup_show", options_equal_drbdsetup_show),
    ("data_written_here_is_there_after_the_move", data_written_here_is_there_after_the_move),
    ("round_trips_are_quick", round_trips_are_quick),
    ("the_kernel_calls_the_helper_and_goes_on", the_kernel_calls_the_helper_and_goes_on),
    ("a_replayed_log_brings_back_what_was_being_written", a_replayed_log_brings_back_what_was_being_written),
];

/// Why a test cannot run on this machine.
pub(crate) fn skip(name: &str, bench: &Bench) -> Option<String> {
    let needs_tools = ["states_equal_drbdsetup_status", "options_equal_drbdsetup_show"];
    (needs_tools.contains(&name) && !bench.has_tools)
        .then(|| "needs drbd-utils: run with --mode root".to_owned())
}

/// Runs the stock tool.
fn drbdsetup(words: &[&str]) -> Result<String, Failure> {
    let output = std::process::Command::new("/usr/sbin/drbdsetup").args(words).output()?;
    assert!(output.status.success(), "drbdsetup {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// `cs: ro: ds:` of a minor in /proc/drbd.
fn in_proc(bench: &Bench, minor: u32) -> Result<String, Failure> {
    let text = bench.host.tree().read("/proc/drbd")?;
    let prefix = format!("{minor}: ");
    let line = text.lines().map(str::trim).find(|line| line.starts_with(&prefix)).unwrap_or_default();
    Ok(line.split_whitespace().skip(1).take(3).collect::<Vec<_>>().join(" "))
}

/// The same of a state. `/proc/drbd` says `Connected` for an established replication and `WFConnection` for `Connecting`.
fn of_state(state: &ResourceState) -> String {
    let (connection, volume) = (&state.connections[0], &state.volumes[0]);
    let peer = &connection.volumes[0];
    let cs = match peer.repl {
        drbd::ReplState::Off => "WFConnection".to_owned(),
        drbd::ReplState::Established => "Connected".to_owned(),
        other => other.to_string(),
    };
    format!("cs:{cs} ro:{}/{} ds:{}/{}", state.role, connection.peer_role, volume.disk, peer.peer_disk)
}

fn compare(bench: &Bench, drbd: &Drbd) -> Outcome {
    for state in drbd.list()? {
        let minor = state.volumes[0].minor.get();
        // States change while they are compared: a few tries.
        let until = Deadline::after(Duration::from_secs(5));
        loop {
            let before = seen(drbd, &state.name)?;
            let shown = in_proc(bench, minor)?;
            if of_state(&before) == shown {
                break;
            }
            let after = seen(drbd, &state.name)?;
            assert!(
                of_state(&before) != of_state(&after) || !until.is_over(),
                "{} is not {shown}",
                of_state(&after)
            );
            assert!(until.pause(Duration::from_millis(50)), "{} is not {shown}", of_state(&after));
        }
    }
    Ok(())
}

fn states_equal_proc_drbd(bench: &Bench) -> Outcome {
    let (drbd, here, there) = bench.up(7500)?;
    compare(bench, &drbd)?;
    drbd.promote(&here.name, Promote::Force)?;
    compare(bench, &drbd)?;
    drbd.wait_synced(&here.name, later(), |_| {})?;
    drbd.wait_synced(&there.name, later(), |_| {})?;
    compare(bench, &drbd)?;
    drbd.disconnect(&there.name)?;
    // The two are not read in one moment, and the connection still goes through its states.
    until(|| Ok(in_proc(bench, 0)? == of_state(&seen(&drbd, &here.name)?)))
}

fn states_equal_drbdsetup_status(bench: &Bench) -> Outcome {
    let (drbd, here, _) = bench.synced(7510)?;
    let state = seen(&drbd, &here.name)?;
    let text = drbdsetup(&["status", "here", "--verbose", "--statistics"])?;
    let volume = &state.volumes[0];
    for word in [
        format!("role:{}", state.role),
        format!("disk:{}", volume.disk),
        format!("minor:{}", volume.minor),
        // In KiB.
        format!("size:{}", volume.size.0 / 2),
        format!("connection:{}", state.connections[0].state),
        format!("peer-disk:{}", state.connections[0].volumes[0].peer_disk),
        format!("replication:{}", state.connections[0].volumes[0].repl),
        "out-of-sync:0".to_owned(),
    ] {
        assert!(text.split_whitespace().any(|shown| shown == word), "{word} is not in {text}");
    }
    Ok(())
}

fn options_equal_drbdsetup_show(bench: &Bench) -> Outcome {
    let (drbd, here, _) = bench.up(7520)?;
    let net =
        here.net.clone().with("protocol", "B")?.with("max-buffers", "8192")?.with("verify-alg", "sha1")?;
    drbd.ensure(&here.clone().with_net(net))?;
    let text = drbdsetup(&["show", "here", "--show-defaults"])?;
    let words: Vec<&str> = text.split([' ', '\t', ';', '"', '\n']).filter(|word| !word.is_empty()).collect();
    let state = seen(&drbd, &here.name)?;
    for name in
        ["protocol", "max-buffers", "verify-alg", "cram-hmac-alg", "ko-count", "after-sb-0pri", "use-rle"]
    {
        let ours = state.connections[0].options.as_ref().and_then(|net| net.get(name)).unwrap_or_default();
        assert!(words.windows(2).any(|pair| pair == [name, ours.as_str()]), "{name} {ours} is not in {text}");
    }
    Ok(())
}

fn data_written_here_is_there_after_the_move(bench: &Bench) -> Outcome {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let (drbd, here, there) = bench.synced(7530)?;
    let pattern: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let device =
        std::fs::OpenOptions::new().write(true).custom_flags(0o4000).open(here.volumes[0].minor.path())?;
    device.write_all_at(&pattern, 16 << 20)?;
    device.sync_all()?;
    drop(device);
    drbd.demote(&here.name)?;
    drbd.promote(&there.name, Promote::IfSafe)?;
    let mut back = vec![0; pattern.len()];
    std::fs::File::open(there.volumes[0].minor.path())?.read_exact_at(&mut back, 16 << 20)?;
    assert!(back == pattern, "other data");
    Ok(())
}

fn round_trips_are_quick(bench: &Bench) -> Outcome {
    let (drbd, here, _) = bench.synced(7540)?;
    let timed = |f: &dyn Fn() -> drbd::Result<()>| -> Result<Duration, Failure> {
        let started = Instant::now();
        for _ in 0..20 {
            f()?;
        }
        Ok(started.elapsed() / 20)
    };
    let get = timed(&|| drbd.get(&here.name).map(drop))?;
    let again = timed(&|| drbd.promote(&here.name, Promote::IfSafe))?;
    let moved = timed(&|| {
        drbd.demote(&here.name)?;
        drbd.promote(&here.name, Promote::IfSafe)
    })?;
    println!("get {get:?}, promote when Primary {again:?}, demote and promote {moved:?}");
    assert!(get < Duration::from_millis(200) && again < Duration::from_millis(200), "{get:?} {again:?}");
    Ok(())
}

/// Where this program stands as helper, and what it was called for.
pub(crate) const HELPER: &str = "/run/drbd-helper-of-the-test";
const CALLS: &str = "/run/drbd-helper-calls";

/// This program, called by the kernel.
pub(crate) fn as_helper() {
    use std::io::Write;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let call = drbd::helper::Call::read(&words, |name| std::env::var(name).ok());
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(CALLS).expect("a file");
    let code = call.as_ref().map_or(9, |call| call.neutral().code());
    let said = call.map_or_else(|error| error.to_string(), |call| call.to_string());
    writeln!(file, "{said}: {code}").expect("written");
    std::process::exit(code.into());
}

fn the_kernel_calls_the_helper_and_goes_on(bench: &Bench) -> Outcome {
    for path in [HELPER, CALLS] {
        bench.host.tree().unlink(path)?;
    }
    bench.host.tree().link(std::env::current_exe()?, HELPER)?;
    let (drbd, here, _) = bench.up(7550)?;
    assert!(drbd.set_helper(std::path::Path::new(HELPER))?);
    // A helper that vetoes would end the connection here.
    drbd.promote(&here.name, Promote::Force)?;
    drbd.wait_synced(&here.name, later(), |_| {})?;
    let calls = bench.host.tree().read(CALLS)?;
    for expected in [
        "before-resync-source of minor 0, peer 127.0.0.1: 0",
        "before-resync-target of minor 1, peer 127.0.0.1: 0",
        "after-resync-target of minor 1, peer 127.0.0.1: 0",
    ] {
        assert!(calls.lines().any(|line| line == expected), "{expected} is not in {calls}");
    }
    // Asked to fence, it says that it has not: the Primary that lost its peer is not promoted again.
    drbd.set_disk_options(
        &here.name,
        drbd::Volume(0),
        &crate::conformance::disk()?.with("fencing", "resource-only")?,
    )?;
    drbd.demote(&here.name)?;
    drbd.disconnect(&here.name)?;
    let refused = drbd.promote(&here.name, Promote::IfSafe).expect_err("the peer is not fenced");
    assert_eq!(refused.refusal(), Some(drbd::Refusal::PeerNotOutdated), "{refused}");
    let calls = bench.host.tree().read(CALLS)?;
    assert!(
        calls.lines().any(|line| line.starts_with("fence-peer of here") && line.ends_with(": 1")),
        "{calls}"
    );
    Ok(())
}

/// A copy of what a Primary's disk holds while it writes is what a power cut leaves of it.
fn a_replayed_log_brings_back_what_was_being_written(bench: &Bench) -> Outcome {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let (drbd, here, _) = bench.synced(7560)?;
    let device =
        std::fs::OpenOptions::new().write(true).custom_flags(0o4000).open(here.volumes[0].minor.path())?;
    // Three extents of 4 MiB.
    for extent in [0, 2, 5] {
        device.write_all_at(&[7; 4096], extent * (4 << 20))?;
    }
    device.sync_all()?;
    let (from, to) = (&here.volumes[0].disk, &bench.disks[3]);
    // DRBD writes past the page cache, which may hold what was there before.
    bench.host.tree().write("/proc/sys/vm/drop_caches", "3")?;
    let mut disk = std::fs::File::open(from)?;
    let mut copy = std::fs::OpenOptions::new().write(true).open(to)?;
    std::io::copy(&mut disk, &mut copy)?;
    copy.sync_all()?;
    drop((device, disk, copy));
    let replayed = drbd::Metadata::apply_al(&bench.host, to, &drbd::MetaDisk::Internal)?.expect("unclean");
    assert!(replayed.extents >= 3, "{replayed:?}");
    assert_eq!(replayed.marked.0 % (4 << 20), 0, "{replayed:?}");
    let mut text = Vec::new();
    assert!(drbd::Metadata::dump(&bench.host, to, &drbd::MetaDisk::Internal, &mut text)?);
    let text = String::from_utf8(text)?;
    assert!(text.contains("0xFFFFFFFFFFFFFFFF;"), "{text}");
    drbd.demote(&here.name)?;
    Ok(())
}
