//! What we make, `cryptsetup` opens, and the reverse.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)] // It is for tests.

use std::io::{Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::process::Command;

use libtest_mimic::Failed;
use luks::{
    Bytes, Error, Kdf, Key, KeyslotSpec, Outcome, Overwrite, Priority, ReencryptSpec, Secret, Sectors,
    WeakKdf,
};

use crate::guest::{check, clear, fill};
use crate::kit::{QUICK, peer, quick1, quick2, slot};
use crate::{Bench, Test};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("cryptsetup_opens_every_key_slot_that_we_make", ours),
    ("we_open_every_key_slot_that_cryptsetup_makes", theirs),
    ("detached_headers_go_both_ways", detached),
    ("a_reencryption_that_is_half_way_goes_on_with_the_other", half_way),
    ("plain_dm_crypt_is_the_same_as_theirs", plain),
    ("status_and_flags_are_what_cryptsetup_shows", status),
    ("nothing_is_formatted_that_debians_tools_have_made_or_hold", refused),
];

/// All kinds of derivation.
const KDFS: [Kdf; 2] = [QUICK, Kdf::Argon2idFixed { passes: 4, memory_kib: 64, lanes: 1 }];

fn open_with(bench: &Bench, extra: &[&str], passphrase: &str) -> Result<(), Failed> {
    let mut args = vec!["open", "--key-file", "-"];
    args.extend(extra);
    args.extend([bench.device.as_str(), "crypt0"]);
    peer(&args, passphrase)?;
    Ok(())
}

fn close() -> Result<(), Failed> {
    peer(&["close", "crypt0"], "")?;
    Ok(())
}

fn ours(bench: &Bench) -> Result<(), Failed> {
    for spec in [
        quick2(),
        quick1(),
        quick2().with_sector_size(4096),
        quick2().with_cipher("aes-cbc-essiv:sha256".parse()?, 256),
    ] {
        let volume = bench.volume();
        volume.format(&spec, &bench.a, Overwrite::Always)?;
        bench.open(&bench.a)?;
        fill(&Bench::node(), 64)?;
        bench.close()?;
        let kdfs = if spec.version == luks::Version::Luks1 { &KDFS[..1] } else { &KDFS };
        for (n, kdf) in kdfs.iter().enumerate() {
            let new = KeyslotSpec::new().with_kdf(*kdf).with_weak_kdf(WeakKdf::Allowed);
            volume.add_key(&bench.a, &Secret::from(format!("p{n}").as_str()), &new)?;
            open_with(bench, &[], &format!("p{n}"))?;
            check(&Bench::node(), 64)?;
            close()?;
        }
        if spec.version == luks::Version::Luks2 {
            volume.set_priority(0, Priority::Prefer)?;
            let dump = peer(&["luksDump", &bench.device], "")?;
            assert!(dump.contains("Priority:   preferred"), "{dump}");
        }
    }
    Ok(())
}

fn theirs(bench: &Bench) -> Result<(), Failed> {
    let quick = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    for kind in [
        &["--type", "luks2"][..],
        &["--type", "luks1", "--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"],
    ] {
        let mut args = vec!["luksFormat", "-q", "--key-file", "-"];
        args.extend(kind);
        args.extend(quick);
        args.push(&bench.device);
        peer(&args, "a")?;
        open_with(bench, &[], "a")?;
        fill(&Bench::node(), 64)?;
        close()?;
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("new");
        let file = file.to_str().ok_or("no text")?;
        let mut kdfs = vec![&quick[..]];
        let argon = [
            "--pbkdf",
            "argon2id",
            "--pbkdf-force-iterations",
            "4",
            "--pbkdf-memory",
            "64",
            "--pbkdf-parallel",
            "1",
        ];
        let argon_i = [
            "--pbkdf",
            "argon2i",
            "--pbkdf-force-iterations",
            "4",
            "--pbkdf-memory",
            "64",
            "--pbkdf-parallel",
            "1",
        ];
        if kind[1] == "luks2" {
            kdfs.extend([&argon[..], &argon_i[..]]);
        }
        for (n, kdf) in kdfs.iter().enumerate() {
            std::fs::write(file, format!("p{n}"))?;
            let mut args = vec!["luksAddKey", "--key-file", "-"];
            args.extend(*kdf);
            args.extend([bench.device.as_str(), file]);
            peer(&args, "a")?;
            bench.open(Secret::from(format!("p{n}").as_str()))?;
            check(&Bench::node(), 64)?;
            bench.close()?;
        }
        // Theirs opens what ours changed, and the reverse.
        bench.volume().change_key(Secret::from("p0"), &Secret::from("q"), &slot())?;
        open_with(bench, &[], "q")?;
        close()?;
    }
    Ok(())
}

fn detached(bench: &Bench) -> Result<(), Failed> {
    let volume = bench.volume().with_header(&bench.other);
    volume.format(&quick2().with_data_offset(Sectors(0)), &bench.a, Overwrite::Always)?;
    let spec = bench.spec().with_header(&bench.other);
    bench.luks.create(&spec, &bench.a)?;
    fill(&Bench::node(), 64)?;
    bench.close()?;
    open_with(bench, &["--header", &bench.other], "a")?;
    check(&Bench::node(), 64)?;
    close()?;
    clear(&bench.other)?;
    let quick = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let mut args = vec!["luksFormat", "-q", "--key-file", "-", "--header", &bench.other];
    args.extend(quick);
    args.push(&bench.device);
    peer(&args, "a")?;
    open_with(bench, &["--header", &bench.other], "a")?;
    fill(&Bench::node(), 64)?;
    close()?;
    bench.luks.create(&spec, &bench.a)?;
    check(&Bench::node(), 64)
}

fn half_way(bench: &Bench) -> Result<(), Failed> {
    let bench = &bench.small()?;
    let volume = bench.volume();
    let spec =
        ReencryptSpec::new().with_kdf(QUICK).with_weak_kdf(WeakKdf::Allowed).with_hotzone(Bytes(1 << 20));
    volume.format(&quick2(), &bench.a, Overwrite::Always)?;
    bench.open(&bench.a)?;
    fill(&Bench::node(), 16)?;
    bench.close()?;
    let mut parts = 0;
    let outcome = volume.reencrypt(&spec, &[&bench.a], |_| {
        parts += 1;
        if parts == 10 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    assert_eq!(outcome, Outcome::Stopped);
    open_with(bench, &[], "a")?;
    check(&Bench::node(), 16)?;
    close()?;
    peer(&["reencrypt", "-q", "--resume-only", "--key-file", "-", &bench.device], "a")?;
    assert!(volume.reencryption()?.is_none());
    bench.open(&bench.a)?;
    check(&Bench::node(), 16)?;
    bench.close()?;
    // And theirs, begun and not run, is ended here.
    let begin = [
        "reencrypt",
        "-q",
        "--init-only",
        "--key-file",
        "-",
        "--pbkdf-memory",
        "32",
        "--pbkdf-force-iterations",
        "4",
    ];
    let mut args = begin.to_vec();
    args.push(&bench.device);
    peer(&args, "a")?;
    assert!(volume.reencryption()?.is_some());
    bench.open(&bench.a)?;
    check(&Bench::node(), 64)?;
    assert_eq!(volume.resume_reencrypt(&bench.a, None, |_| ControlFlow::Continue(()))?, Outcome::Finished);
    check(&Bench::node(), 16)
}

fn plain(bench: &Bench) -> Result<(), Failed> {
    let spec = luks::PlainSpec::new("aes-cbc-essiv:sha256".parse()?, 256).with_hash("sha256");
    let none = luks::OpenFlags::empty();
    bench.luks.create_plain(&Bench::name(), &bench.device, &spec, &bench.a, none, Overwrite::Never)?;
    fill(&Bench::node(), 64)?;
    bench.close()?;
    let kind =
        ["--type", "plain", "--cipher", "aes-cbc-essiv:sha256", "--key-size", "256", "--hash", "sha256"];
    // Without a key file: a hash is taken of what is typed.
    let mut args = vec!["open", "-q"];
    args.extend(kind);
    args.extend([bench.device.as_str(), "crypt0"]);
    peer(&args, "a\n")?;
    check(&Bench::node(), 64)?;
    close()
}

fn status(bench: &Bench) -> Result<(), Failed> {
    let fast = luks::OpenFlags::NO_READ_WORKQUEUE | luks::OpenFlags::ALLOW_DISCARDS;
    bench.volume().format(&quick2(), &bench.a, Overwrite::Always)?;
    bench.luks.create(&bench.spec().with_flags(fast), Key::from(&bench.a))?;
    let text = peer(&["status", "crypt0"], "")?;
    assert!(text.contains("type:    LUKS2") && text.contains("is active"), "{text}");
    let flags = text.lines().find(|line| line.trim().starts_with("flags:")).unwrap_or_default();
    assert!(flags.contains("discards") && flags.contains("no_read_workqueue"), "{text}");
    bench.close()?;
    open_with(bench, &["--perf-same_cpu_crypt", "--readonly"], "a")?;
    let seen = bench.luks.active(&Bench::name())?;
    assert!(seen.flags.contains(luks::OpenFlags::SAME_CPU | luks::OpenFlags::READ_ONLY), "{seen:?}");
    let mapping = bench.luks.get(&Bench::name())?.ok_or("open")?;
    assert_eq!(mapping.uuid, Some(bench.volume().read()?.uuid));
    Ok(())
}

/// Runs programs of Debian's one after another; DEV stands for the device.
fn tools(device: &str, lines: &[&str]) -> Result<(), Failed> {
    for line in lines {
        let mut words = line.split(' ').map(|word| if word == "DEV" { device } else { word });
        let program = words.next().ok_or("no program")?;
        let output = Command::new(program).args(words).output()?;
        if !output.status.success() {
            return Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
    }
    Ok(())
}

/// What stands where headers and signatures do.
fn ends(device: &str) -> Result<Vec<u8>, Failed> {
    let mut file = std::fs::File::open(device)?;
    let mut bytes = vec![0; 2 << 20];
    let (head, tail) = bytes.split_at_mut(1 << 20);
    file.read_exact(head)?;
    file.seek(SeekFrom::End(-(1 << 20)))?;
    file.read_exact(tail)?;
    Ok(bytes)
}

/// What makes something on a device and takes hold of it, who is named then, what lets go, and what is found afterwards.
struct Made {
    make: &'static [&'static str],
    holder: &'static str,
    release: &'static [&'static str],
    found: &'static str,
}

const MADE: [Made; 5] = [
    Made {
        make: &["mkfs.ext4 -q -F DEV", "mount DEV /mnt"],
        holder: "the mount /mnt",
        release: &["umount /mnt"],
        found: "an ext file system",
    },
    Made {
        make: &["mkswap -q DEV", "swapon DEV"],
        holder: "swap",
        release: &["swapoff DEV"],
        found: "a swap area",
    },
    Made {
        make: &["pvcreate -q -y DEV", "vgcreate -q -y san DEV", "lvcreate -q -y -n data -L 32M san"],
        holder: "/dev/mapper/san-data",
        release: &["vgchange -q -an san"],
        found: "an LVM physical volume",
    },
    Made {
        make: &["mdadm -q --create /dev/md7 --run --level=1 --raid-devices=1 --force --metadata=1.2 DEV"],
        holder: "md7",
        release: &["mdadm -q --stop /dev/md7"],
        found: "a software RAID member",
    },
    Made {
        make: &["drbdmeta --force 7 v08 DEV internal create-md"],
        holder: "",
        release: &[],
        found: "DRBD metadata",
    },
];

fn refused(bench: &Bench) -> Result<(), Failed> {
    let device = bench.device.as_str();
    for Made { make, holder, release, found } in MADE {
        clear(device)?;
        tools(device, make)?;
        let format = |overwrite| bench.volume().format(&quick2(), &bench.a, overwrite).map(drop);
        if !holder.is_empty() {
            // Not even by force.
            let before = ends(device)?;
            let error = format(Overwrite::Always).expect_err("held");
            assert!(error.is_busy() && error.to_string().contains(holder), "{make:?}: {error}");
            assert!(ends(device)? == before, "{make:?}: something was written");
        }
        tools(device, release)?;
        let before = ends(device)?;
        let error = format(Overwrite::Never).expect_err("it holds something");
        assert!(
            matches!(error, Error::HoldsData { .. }) && error.to_string().contains(found),
            "{make:?}: {error}"
        );
        assert!(ends(device)? == before, "{make:?}: something was written");
    }
    clear(device)
}
