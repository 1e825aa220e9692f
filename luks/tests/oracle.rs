//! The header reader against `cryptsetup`: what it makes we read as it does, what it refuses we refuse.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods
)] // It is a test.

mod common;

use std::path::Path;
use std::process::ExitCode;

use common::{CHEAP, cryptsetup, made, must};
use libtest_mimic::{Arguments, Failed, Trial};
use luks::Header;
use luks::header::{Identity, Priority};
use serde_json::Value;

fn main() -> ExitCode {
    let missing = common::no_cryptsetup();
    if let Some(reason) = missing {
        println!("the oracle's tests are ignored: {reason}");
    }
    let trials = [
        ("headers_of_all_kinds_are_read_as_cryptsetup_dumps_them", kinds as fn() -> Result<(), Failed>),
        ("metadata_are_refused_exactly_where_cryptsetup_refuses_them", metadata),
        ("a_damaged_header_is_read_exactly_where_cryptsetup_reads_it", damage),
        ("the_copy_of_the_higher_sequence_number_counts", sequence),
        ("luks1_is_read_as_cryptsetup_dumps_it", luks1),
        ("a_reencryption_begun_is_seen", reencryption),
    ];
    let trials = trials.map(|(name, test)| Trial::test(name, test).with_ignored_flag(missing.is_some()));
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit_code()
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Compares everything that both sides say of a LUKS2 header.
fn same(path: &Path) -> Result<Header, Failed> {
    let json: Value = serde_json::from_str(&must(&["luksDump", "--dump-json-metadata", shown(path)]))?;
    let header = Header::read(path)?;
    assert_eq!(must(&["luksUUID", shown(path)]).trim(), header.uuid.as_str());
    assert_eq!(
        Identity::read(path)?.map(|i| (i.uuid, i.label)),
        Some((header.uuid.clone(), header.label.clone()))
    );
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let long = |v: &Value| v.as_str().and_then(|s| s.parse::<u64>().ok());
    let list = |v: &Value| -> Vec<u32> {
        v.as_array().into_iter().flatten().map(|n| text(n).parse().expect("a number")).collect()
    };
    let words = |v: &Value| -> Vec<String> { v.as_array().into_iter().flatten().map(text).collect() };
    let of = |part: &str| -> Vec<(u32, Value)> {
        let object = json[part].as_object().expect("an object").clone();
        let mut all: Vec<_> = object.into_iter().map(|(n, v)| (n.parse().expect("a number"), v)).collect();
        all.sort_by_key(|(n, _)| *n);
        all
    };
    let slots = of("keyslots").into_iter().filter(|(_, v)| v["type"] == "luks2").map(|(n, v)| {
        let cost = v["kdf"]["time"].as_u64().or(v["kdf"]["iterations"].as_u64()).unwrap_or_default();
        let memory = v["kdf"]["memory"].as_u64().unwrap_or_default();
        let lanes = v["kdf"]["cpus"].as_u64().unwrap_or(1);
        let area = (long(&v["area"]["offset"]), long(&v["area"]["size"]), text(&v["area"]["encryption"]));
        (n, text(&v["kdf"]["type"]), cost, memory, lanes, v["key_size"].as_u64(), area)
    });
    let ours = header.keyslots.iter().map(|k| {
        let area = (Some(k.area_offset), Some(k.area_size), k.cipher.clone());
        (k.number, k.kdf.clone(), k.cost, k.memory_kib, u64::from(k.lanes), Some(k.key_bytes.into()), area)
    });
    assert_eq!(ours.collect::<Vec<_>>(), slots.collect::<Vec<_>>());
    let tokens = of("tokens").into_iter().map(|(n, v)| (n, text(&v["type"]), list(&v["keyslots"]), v));
    let ours = header.tokens.iter().map(|t| {
        let json: Value = serde_json::from_str(&t.json).expect("JSON");
        (t.number, t.kind.clone(), t.keyslots.clone(), json)
    });
    assert_eq!(ours.collect::<Vec<_>>(), tokens.collect::<Vec<_>>());
    let segments = of("segments").into_iter().map(|(n, v)| {
        let sector = v["sector_size"].as_u64().unwrap_or(512);
        (
            n,
            text(&v["type"]),
            long(&v["offset"]),
            long(&v["size"]),
            text(&v["encryption"]),
            sector,
            words(&v["flags"]),
        )
    });
    let ours = header.segments.iter().map(|s| {
        let sector = u64::from(s.sector_size);
        (s.number, s.kind.clone(), Some(s.offset), s.size, s.cipher.clone(), sector, s.flags.clone())
    });
    assert_eq!(ours.collect::<Vec<_>>(), segments.collect::<Vec<_>>());
    let digests = of("digests")
        .into_iter()
        .map(|(n, v)| (n, text(&v["type"]), list(&v["keyslots"]), list(&v["segments"])));
    let ours =
        header.digests.iter().map(|d| (d.number, d.kind.clone(), d.keyslots.clone(), d.segments.clone()));
    assert_eq!(ours.collect::<Vec<_>>(), digests.collect::<Vec<_>>());
    assert_eq!(header.flags, words(&json["config"]["flags"]));
    assert_eq!(header.requirements, words(&json["config"]["requirements"]["mandatory"]));
    Ok(header)
}

fn kinds() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let argon =
        ["--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "32", "--pbkdf-parallel"];
    let mut seen = 0;
    for cipher in [
        &["--cipher", "aes-xts-plain64", "--key-size", "512"][..],
        &["--cipher", "aes-xts-plain64", "--key-size", "256"],
        &["--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"],
    ] {
        for sector in ["512", "1024", "2048", "4096"] {
            for kdf in [&CHEAP[..], &[&argon[..], &["1"]].concat(), &[&argon[..], &["2"]].concat()] {
                let sector = ["--type", "luks2", "--sector-size", sector];
                same(&made(dir, "one", &[cipher, &sector, kdf].concat()))?;
                seen += 1;
            }
        }
    }
    for size in ["16k", "32k", "64k", "128k", "256k", "512k", "1024k", "2048k", "4096k"] {
        let options = ["--type", "luks2", "--luks2-metadata-size", size, "--luks2-keyslots-size", "1m"];
        let options = [&options[..], &["--label", "a label", "--subsystem", "sankit"], &CHEAP].concat();
        let header = same(&made(dir, "sized", &options))?;
        assert_eq!(header.copy_size, size.trim_end_matches('k').parse::<u64>()? * 1024);
        assert_eq!((header.label.as_str(), header.subsystem.as_str()), ("a label", "sankit"));
        assert!(!header.needs_repair && header.copies.len() == 2, "{:?}", header.copies);
        seen += 1;
    }
    // Many key slots, priorities, tokens, persistent flags are not set without a mapping.
    let path = made(dir, "many", &[&["--type", "luks2"][..], &CHEAP].concat());
    let key = common::key_file(dir, "skull");
    for n in 0..5 {
        let other = common::key_file(dir, &format!("other{n}"));
        must(
            &[&["luksAddKey", "--batch-mode", "--key-file", &key][..], &CHEAP, &[shown(&path), &other]]
                .concat(),
        );
        let token = dir.join("token");
        std::fs::write(
            &token,
            format!(r#"{{"type":"vendor","keyslots":["{n}"],"deep":[{{"x":null}},{n}]}}"#),
        )?;
        must(&["token", "import", "--json-file", shown(&token), shown(&path)]);
    }
    must(&["luksKillSlot", "--batch-mode", "--key-file", &key, shown(&path), "3"]);
    for (slot, priority) in [("1", "ignore"), ("2", "prefer")] {
        must(&["config", "--key-slot", slot, "--priority", priority, shown(&path)]);
    }
    let other = common::key_file(dir, "unbound");
    let unbound = ["luksAddKey", "--batch-mode", "--unbound", "--key-size", "256", "--key-slot", "20"];
    must(&[&unbound[..], &CHEAP, &[shown(&path), &other]].concat());
    let header = same(&path)?;
    let priorities: Vec<_> = header.keyslots.iter().map(|k| (k.number, k.priority, k.unbound)).collect();
    let normal = Priority::Normal;
    let expected = [
        (0, normal, false),
        (1, Priority::Ignore, false),
        (2, Priority::Prefer, false),
        (4, normal, false),
        (5, normal, false),
        (20, normal, true),
    ];
    assert_eq!(priorities, expected);
    // A detached header.
    let data = dir.join("data");
    common::image(&data, 1 << 20, &[])?;
    let detached = dir.join("detached");
    let options =
        ["luksFormat", "--batch-mode", "--type", "luks2", "--key-file", &key, "--header", shown(&detached)];
    must(&[&options[..], &CHEAP, &[shown(&data)]].concat());
    assert!(same(&detached)?.is_detached());
    println!("{} headers are read as cryptsetup reads them", seen + 2);
    Ok(())
}

fn metadata() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("image");
    let mut wrong = Vec::new();
    for (name, json) in common::corpus("luks_metadata") {
        common::image(&path, 24 << 20, &common::luks2_around(&json))?;
        let theirs = cryptsetup(&["luksDump", shown(&path)]).0;
        if theirs != Header::read(&path).is_ok() || theirs != name.starts_with("good") {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

fn damage() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let path = made(dir.path(), "image", &[&["--type", "luks2"][..], &CHEAP].concat());
    let good = std::fs::read(&path)?[..0x8000].to_vec();
    let whole = same(&path)?;
    // The magic, the version, the size, the sequence, the checksum's name, the UUID, the place, the checksum, the JSON, behind the JSON.
    let places = [0, 6, 8, 15, 23, 72, 168, 263, 448, 4096, 5000, 0x3fff];
    for first in std::iter::once(None).chain(places.map(Some)) {
        for second in std::iter::once(None).chain(places.map(Some)) {
            let mut bytes = good.clone();
            first.into_iter().chain(second.map(|at| at + 0x4000)).for_each(|at| bytes[at] ^= 0x55);
            common::image(&path, 40 << 20, &bytes)?;
            let ours = Header::read(&path);
            let expected = [first, second].map(|damage| damage.is_none());
            if let Ok(header) = &ours {
                let copies: Vec<_> = header.copies.iter().map(|copy| copy.damage.is_none()).collect();
                assert_eq!((copies.as_slice(), &header.keyslots), (&expected[..], &whole.keyslots));
                assert_eq!(header.needs_repair, expected != [true, true]);
            }
            // cryptsetup repairs what it reads.
            let theirs = cryptsetup(&["luksDump", shown(&path)]);
            assert_eq!(ours.is_ok(), theirs.0, "{first:?} and {second:?}: {ours:?}, {}", theirs.1);
            // A first copy of an unknown version is not passed over.
            let expected = expected.contains(&true) && first != Some(6);
            assert_eq!(ours.is_ok(), expected, "{first:?} and {second:?}: {ours:?}");
        }
    }
    Ok(())
}

fn sequence() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let path = made(dir.path(), "image", &[&["--type", "luks2", "--label", "old"][..], &CHEAP].concat());
    let old = std::fs::read(&path)?[..0x8000].to_vec();
    must(&["config", "--label", "new", shown(&path)]);
    let new = std::fs::read(&path)?[..0x8000].to_vec();
    for (first, second) in [(&old, &new), (&new, &old)] {
        let mixed = [&first[..0x4000], &second[0x4000..]].concat();
        common::image(&path, 40 << 20, &mixed)?;
        let header = Header::read(&path)?;
        assert_eq!(header.label, "new");
        assert!(header.needs_repair && header.copies.iter().all(|copy| copy.damage.is_none()));
        assert_ne!(header.copies[0].sequence, header.copies[1].sequence);
        let dump = must(&["luksDump", shown(&path)]);
        assert!(dump.contains("Label:         \tnew"), "{dump}");
    }
    Ok(())
}

fn luks1() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    for (cipher, bits, hash) in [
        ("aes-xts-plain64", "512", "sha256"),
        ("aes-cbc-essiv:sha256", "256", "sha1"),
        ("aes-cbc-plain64", "128", "sha512"),
    ] {
        let options = ["--type", "luks1", "--cipher", cipher, "--key-size", bits, "--hash", hash];
        let options = [&options[..], &["--pbkdf-force-iterations", "1000"]].concat();
        let path = made(dir.path(), "image", &options);
        let (key, other) = (common::key_file(dir.path(), "skull"), common::key_file(dir.path(), "other"));
        must(&[
            "luksAddKey",
            "--batch-mode",
            "--key-file",
            &key,
            "--key-slot",
            "5",
            "--pbkdf-force-iterations",
            "2000",
            shown(&path),
            &other,
        ]);
        let header = Header::read(&path)?;
        let dump = must(&["luksDump", shown(&path)]);
        let field = |name: &str| -> Vec<String> {
            let lines = dump.lines().filter_map(|line| line.trim().strip_prefix(name));
            lines.map(|rest| rest.trim_start_matches(':').trim().to_owned()).collect()
        };
        assert_eq!(field("UUID"), [header.uuid.as_str()]);
        assert_eq!(format!("{}-{}", field("Cipher name")[0], field("Cipher mode")[0]), header.cipher);
        assert_eq!(field("Payload offset"), [(header.data_offset / 512).to_string()]);
        assert_eq!(field("MK bits"), [(header.keyslots[0].key_bytes * 8).to_string()]);
        assert_eq!(
            field("Iterations"),
            header.keyslots.iter().map(|k| k.cost.to_string()).collect::<Vec<_>>()
        );
        assert_eq!(
            field("Key material offset"),
            header.keyslots.iter().map(|k| (k.area_offset / 512).to_string()).collect::<Vec<_>>()
        );
        assert_eq!(header.keyslots.iter().map(|k| k.number).collect::<Vec<_>>(), [0, 5]);
    }
    Ok(())
}

fn reencryption() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let options = ["--type", "luks2", "--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"];
    let path = made(dir.path(), "image", &[&options[..], &CHEAP].concat());
    assert_eq!(same(&path)?.reencryption, None);
    let key = common::key_file(dir.path(), "skull");
    let options = [
        "reencrypt",
        "--init-only",
        "--batch-mode",
        "--cipher",
        "aes-xts-plain64",
        "--key-size",
        "512",
        "--key-file",
        &key,
    ];
    must(&[&options[..], &CHEAP, &[shown(&path)]].concat());
    let header = same(&path)?;
    let begun = header.reencryption.expect("begun");
    assert_eq!(
        (begun.mode.as_str(), begun.direction.as_str(), begun.done),
        ("reencrypt", "forward", Some(0))
    );
    assert_eq!((begun.from.as_str(), begun.to.as_str()), ("aes-cbc-essiv:sha256", "aes-xts-plain64"));
    assert_eq!(begun.resilience, "checksum");
    assert_eq!(header.requirements, ["online-reencrypt-v2"]);
    Ok(())
}
