//! What SIGKILL leaves of a volume in the middle of a change.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // It is for tests.

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use libtest_mimic::Failed;
use luks::{Bytes, Host, Luks, Overwrite, ReencryptSpec, Secret, Volume, WeakKdf};

use crate::guest::{check, fill};
use crate::kit::{QUICK, quick1, quick2, slot};
use crate::{Bench, Test, opened};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("data_survives_ten_kills_of_a_reencryption", offline),
    ("a_key_opens_after_each_kill_of_a_rotation", rotation),
    ("a_restore_survives_being_killed_at_each_piece", restore),
];

const HOTZONE: Option<Bytes> = Some(Bytes(256 << 10));

/// What this program does when it is run as the child of a test: it says each piece on a line, and is killed.
pub(crate) fn child() -> Option<ExitCode> {
    let what = std::env::var("SANKIT_LUKS_CHILD").ok()?;
    let device = std::env::var("DEVICE").expect("the parent says it");
    let (a, b) = (Secret::from("a"), Secret::from("b"));
    let volume = Volume::at(&device).with_log(|_, text| println!("said {text}"));
    let tell = |p: luks::Progress| {
        println!("part {}", p.done.0);
        ControlFlow::Continue(())
    };
    let spec =
        ReencryptSpec::new().with_kdf(QUICK).with_weak_kdf(WeakKdf::Allowed).with_hotzone(Bytes(256 << 10));
    let done = match what.as_str() {
        "open" => {
            let luks = Luks::on(&Host::live()).expect("live");
            let opened = luks.ensure(&[opened(device.as_ref())], &a);
            return Some(match opened {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::from(10),
                Err(error) => {
                    println!("{error:?}");
                    ExitCode::FAILURE
                }
            });
        }
        "reencrypt" => match volume.reencryption() {
            Ok(Some(_)) => volume.resume_reencrypt(&a, HOTZONE, tell).map(drop),
            _ => volume.reencrypt(&spec, &[&a], tell).map(drop),
        },
        "rotate" => volume.change_key(&a, &b, &slot()).map(drop),
        "restore" => {
            let of = |name: &str| format!("{}/{name}", std::env::var("DIR").expect("the parent says it"));
            volume.restore(of("b"), of("kept"), Overwrite::Never).map(drop)
        }
        other => panic!("{other}"),
    };
    if let Err(error) = &done {
        println!("{error:?}");
    }
    Some(if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn start(what: &str, device: &str, dir: &str) -> Result<Child, Failed> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env("SANKIT_LUKS_CHILD", what).env("DEVICE", device).env("DIR", dir).stdout(Stdio::piped());
    Ok(command.spawn()?)
}

/// Waits for so many lines and a moment, and kills. Whether it was alive until then.
fn kill_after(mut child: Child, lines: usize, moment: Duration) -> Result<bool, Failed> {
    let mut seen = 0;
    let mut out = BufReader::new(child.stdout.take().ok_or("no pipe")?);
    let mut line = String::new();
    while seen < lines {
        line.clear();
        if out.read_line(&mut line)? == 0 {
            break;
        }
        seen += 1;
    }
    if seen == lines {
        std::thread::sleep(moment);
    }
    child.kill()?;
    let ended = child.wait()?;
    if ended.code().is_some_and(|code| code != 0) {
        return Err(format!("the child failed: {line}").into());
    }
    Ok(ended.code().is_none())
}

/// Ten kills of one reencryption, each somewhere in the parts after the second since it went on; before each resumption the data is read.
fn kills(bench: &Bench, read: impl Fn() -> Result<(), Failed>) -> Result<u32, Failed> {
    let volume = bench.volume();
    let mut crashed = 0;
    for n in 0..10_u64 {
        let started = std::time::Instant::now();
        let child = start("reencrypt", &bench.device, "")?;
        // Odd moments, so that all that happens in a part is hit.
        if !kill_after(child, 2, Duration::from_millis(n * 11))? {
            return Err(format!("kill {n} came too late").into());
        }
        let state =
            volume.reencryption()?.ok_or_else(|| format!("kill {n}: it has not begun or has ended"))?;
        println!("kill {n}: {state:?} after {} ms", started.elapsed().as_millis());
        crashed += u32::from(state.health == luks::Health::Crashed);
        read().map_err(|e| format!("kill {n} ({state:?}): {e:?}"))?;
    }
    println!("{crashed} of 10 kills hit a part in work");
    Ok(crashed)
}

fn offline(bench: &Bench) -> Result<(), Failed> {
    let bench = &bench.small()?;
    let volume = bench.volume();
    volume.format(&quick2(), &bench.a, Overwrite::Always)?;
    let old = volume.volume_key(&bench.a)?;
    bench.open(&bench.a)?;
    fill(&Bench::node(), 16)?;
    bench.close()?;
    let crashed = kills(bench, || {
        // Opening recovers the part that was in work.
        bench.open(&bench.a)?;
        check(&Bench::node(), 128)?;
        bench.close()
    })?;
    assert!(crashed > 0, "none hit a part in work: that is what is to be tested");
    volume.resume_reencrypt(&bench.a, None, |_| ControlFlow::Continue(()))?;
    assert!(volume.reencryption()?.is_none() && volume.volume_key(&bench.a)? != old);
    bench.open(&bench.a)?;
    check(&Bench::node(), 16)
}

fn rotation(bench: &Bench) -> Result<(), Failed> {
    let (a, b) = (Secret::from("a"), Secret::from("b"));
    let mut killed = 0;
    // LUKS1 is killed on files, often (tests/kills_on_files.rs).
    for n in 0..10_u64 {
        let volume = bench.volume();
        volume.format(&quick2(), &a, Overwrite::Always)?;
        let key = volume.volume_key(&a)?;
        // Lines: added, checked, removed; between them, and before the first.
        let lines = usize::try_from(n % 3)?;
        let child = start("rotate", &bench.device, "")?;
        killed += u32::from(kill_after(child, lines, Duration::from_millis(n * 3))?);
        let opens = |secret: &Secret| volume.volume_key(secret).is_ok_and(|k| k == key);
        let old = opens(&a);
        assert!(old || opens(&b), "kill {n}: no key opens the volume");
        // The same call again gets there.
        let end = start("rotate", &bench.device, "")?.wait()?;
        assert!(end.success() && !opens(&a) && opens(&b), "kill {n}");
        // What is left of a slot that was being wiped opens with nothing, and can be removed.
        if volume.keyslots()?.len() == 2 {
            assert!(!old && volume.remove_key(0, &b)?, "kill {n}: the old one was whole");
        }
        assert_eq!(volume.keyslots()?.len(), 1, "kill {n}: nothing is left over");
    }
    println!("{killed} of 10 rotations were killed before their end");
    assert!(killed > 0);
    Ok(())
}

fn restore(bench: &Bench) -> Result<(), Failed> {
    let b = Secret::from("b");
    for spec in [quick2(), quick1()] {
        for lines in 0..4 {
            let dir = tempfile::tempdir()?;
            let text = dir.path().to_str().ok_or("no text")?;
            let volume = bench.volume();
            volume.format(&spec, &bench.a, Overwrite::Always)?;
            bench.open(&bench.a)?;
            fill(&Bench::node(), 512)?;
            bench.close()?;
            volume.backup(dir.path().join("b"))?;
            volume.change_key(&bench.a, &b, &slot())?;
            // "kept", "key slots", and the copies.
            kill_after(start("restore", &bench.device, text)?, lines, Duration::from_millis(2))?;
            let end = start("restore", &bench.device, text)?.wait()?;
            assert!(end.success(), "after the kill at line {lines}");
            bench.open(&bench.a)?;
            check(&Bench::node(), 512)?;
            bench.close()?;
            assert!(volume.check(&b).is_err() && !volume.read()?.needs_repair);
            assert!(Volume::at(dir.path().join("kept")).read().is_ok());
        }
    }
    Ok(())
}
