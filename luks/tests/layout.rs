//! What this crate takes for granted of libcryptsetup.h, compared with the installed header by the C compiler.

#![allow(clippy::expect_used, clippy::panic, clippy::disallowed_types, clippy::disallowed_methods)] // The C compiler is run, by tests only.

use std::fmt::Write as _;
use std::io::Write as _;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::{Command, Stdio};

use bitflags::Flags as _;
use libcryptsetup_rs_sys as raw;

use luks::{OpenFlags, Priority};

/// Whether the C compiler accepts a text after the header.
fn compiles(text: &str) -> Result<(), String> {
    let mut child = Command::new("cc")
        .args(["-fsyntax-only", "-Wall", "-Werror", "-x", "c", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cc, which also links Rust programs, is here");
    let whole = format!("#include <stddef.h>\n#include <libcryptsetup.h>\n{text}");
    child.stdin.take().expect("a pipe").write_all(whole.as_bytes()).expect("cc reads");
    let output = child.wait_with_output().expect("cc ends");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn must(text: &mut String, claim: &str) {
    writeln!(text, "_Static_assert({claim}, \"{}\");", claim.replace('"', "'")).expect("a string");
}

macro_rules! structure {
    ($text:ident, $name:ident, $($field:ident = $c:literal),+) => {
        let c = concat!("struct ", stringify!($name));
        must(&mut $text, &format!("sizeof({c}) == {}", size_of::<raw::$name>()));
        $(must(&mut $text, &format!("offsetof({c}, {}) == {}", $c, offset_of!(raw::$name, $field)));)+
    };
    ($text:ident, $name:ident, $($field:ident),+) => {
        let c = concat!("struct ", stringify!($name));
        must(&mut $text, &format!("sizeof({c}) == {}", size_of::<raw::$name>()));
        $(must(&mut $text, &format!("offsetof({c}, {}) == {}", stringify!($field), offset_of!(raw::$name, $field)));)+
    };
}

/// A claim for each structure that is used.
fn structures() -> String {
    let mut text = String::new();
    structure!(text, crypt_active_device, offset, iv_offset, size, flags);
    structure!(text, crypt_params_luks1, hash, data_alignment, data_device);
    structure!(
        text,
        crypt_params_luks2,
        pbkdf,
        integrity,
        integrity_params,
        data_alignment,
        data_device,
        sector_size,
        label,
        subsystem
    );
    structure!(text, crypt_params_plain, hash, offset, skip, size, sector_size);
    structure!(
        text,
        crypt_params_reencrypt,
        mode,
        direction,
        resilience,
        hash,
        data_shift,
        max_hotzone_size,
        device_size,
        luks2,
        flags
    );
    structure!(text, crypt_token_params_luks2_keyring, key_description);
    structure!(
        text,
        crypt_pbkdf_type,
        type_ = "type",
        hash = "hash",
        time_ms = "time_ms",
        iterations = "iterations",
        max_memory_kb = "max_memory_kb",
        parallel_threads = "parallel_threads",
        flags = "flags"
    );
    text
}

/// A claim for each constant that is used.
fn constants() -> String {
    let mut text = String::new();
    // Ours, and those of the bindings that are used.
    let flags = [
        ("READONLY", OpenFlags::READ_ONLY),
        ("NO_UUID", OpenFlags::NO_UUID),
        ("SHARED", OpenFlags::SHARED),
        ("ALLOW_DISCARDS", OpenFlags::ALLOW_DISCARDS),
        ("PRIVATE", OpenFlags::PRIVATE),
        ("CORRUPTED", OpenFlags::CORRUPTED),
        ("SAME_CPU_CRYPT", OpenFlags::SAME_CPU),
        ("SUBMIT_FROM_CRYPT_CPUS", OpenFlags::SUBMIT_FROM_CRYPT_CPUS),
        ("KEYRING_KEY", OpenFlags::KEYRING_KEY),
        ("NO_JOURNAL", OpenFlags::NO_JOURNAL),
        ("RECOVERY", OpenFlags::RECOVERY),
        ("IGNORE_PERSISTENT", OpenFlags::IGNORE_PERSISTENT),
        ("ALLOW_UNBOUND_KEY", OpenFlags::ALLOW_UNBOUND_KEY),
        ("RECALCULATE", OpenFlags::RECALCULATE),
        ("REFRESH", OpenFlags::REFRESH),
        ("SERIALIZE_MEMORY_HARD_PBKDF", OpenFlags::SERIALIZE_KDF),
        ("NO_JOURNAL_BITMAP", OpenFlags::NO_JOURNAL_BITMAP),
        ("SUSPENDED", OpenFlags::SUSPENDED),
        ("IV_LARGE_SECTORS", OpenFlags::IV_LARGE_SECTORS),
        ("NO_READ_WORKQUEUE", OpenFlags::NO_READ_WORKQUEUE),
        ("NO_WRITE_WORKQUEUE", OpenFlags::NO_WRITE_WORKQUEUE),
        ("RECALCULATE_RESET", OpenFlags::RECALCULATE_RESET),
    ];
    for (name, flag) in flags {
        must(&mut text, &format!("CRYPT_ACTIVATE_{name} == {}", flag.bits()));
    }
    // Newer than the oldest library this builds with.
    writeln!(text, "#ifdef CRYPT_ACTIVATE_HIGH_PRIORITY").expect("a string");
    must(&mut text, &format!("CRYPT_ACTIVATE_HIGH_PRIORITY == {}", OpenFlags::HIGH_PRIORITY.bits()));
    writeln!(text, "#endif").expect("a string");
    let priority = |priority: Priority| i32::try_from(priority.number()).expect("as the header has it");
    // None is left out: the named flags are these and the newer one.
    let named = OpenFlags::FLAGS.iter().filter(|flag| !flag.name().is_empty()).count();
    assert_eq!(named, flags.len() + 1);
    for (name, value) in [
        ("CRYPT_ANY_SLOT", raw::CRYPT_ANY_SLOT),
        ("CRYPT_ANY_TOKEN", raw::CRYPT_ANY_SLOT),
        ("CRYPT_SLOT_PRIORITY_IGNORE", priority(Priority::Ignore)),
        ("CRYPT_SLOT_PRIORITY_NORMAL", priority(Priority::Normal)),
        ("CRYPT_SLOT_PRIORITY_PREFER", priority(Priority::Prefer)),
    ] {
        must(&mut text, &format!("{name} == {value}"));
    }
    for (name, value) in [
        ("CRYPT_LOG_NORMAL", raw::CRYPT_LOG_NORMAL),
        ("CRYPT_LOG_ERROR", raw::CRYPT_LOG_ERROR),
        ("CRYPT_LOG_VERBOSE", raw::CRYPT_LOG_VERBOSE),
        ("CRYPT_DEACTIVATE_DEFERRED", raw::CRYPT_DEACTIVATE_DEFERRED),
        ("CRYPT_DEACTIVATE_DEFERRED_CANCEL", raw::CRYPT_DEACTIVATE_DEFERRED_CANCEL),
        ("CRYPT_REENCRYPT_NONE", raw::crypt_reencrypt_info_CRYPT_REENCRYPT_NONE),
        ("CRYPT_REENCRYPT_CLEAN", raw::crypt_reencrypt_info_CRYPT_REENCRYPT_CLEAN),
        ("CRYPT_REENCRYPT_CRASH", raw::crypt_reencrypt_info_CRYPT_REENCRYPT_CRASH),
        ("CRYPT_PBKDF_NO_BENCHMARK", raw::CRYPT_PBKDF_NO_BENCHMARK),
        ("CRYPT_VOLUME_KEY_NO_SEGMENT", raw::CRYPT_VOLUME_KEY_NO_SEGMENT),
        ("CRYPT_VOLUME_KEY_DIGEST_REUSE", raw::CRYPT_VOLUME_KEY_DIGEST_REUSE),
        ("CRYPT_REENCRYPT_RESUME_ONLY", raw::CRYPT_REENCRYPT_RESUME_ONLY),
        ("CRYPT_FLAGS_ACTIVATION", raw::crypt_flags_type_CRYPT_FLAGS_ACTIVATION),
        ("CRYPT_SLOT_INVALID", raw::crypt_keyslot_info_CRYPT_SLOT_INVALID),
        ("CRYPT_SLOT_INACTIVE", raw::crypt_keyslot_info_CRYPT_SLOT_INACTIVE),
        ("CRYPT_SLOT_ACTIVE", raw::crypt_keyslot_info_CRYPT_SLOT_ACTIVE),
        ("CRYPT_SLOT_ACTIVE_LAST", raw::crypt_keyslot_info_CRYPT_SLOT_ACTIVE_LAST),
        ("CRYPT_SLOT_UNBOUND", raw::crypt_keyslot_info_CRYPT_SLOT_UNBOUND),
        ("CRYPT_TOKEN_INVALID", raw::crypt_token_info_CRYPT_TOKEN_INVALID),
        ("CRYPT_TOKEN_INACTIVE", raw::crypt_token_info_CRYPT_TOKEN_INACTIVE),
        ("CRYPT_TOKEN_INTERNAL", raw::crypt_token_info_CRYPT_TOKEN_INTERNAL),
        ("CRYPT_TOKEN_EXTERNAL", raw::crypt_token_info_CRYPT_TOKEN_EXTERNAL),
        ("CRYPT_WIPE_ZERO", raw::crypt_wipe_pattern_CRYPT_WIPE_ZERO),
        ("CRYPT_WIPE_RANDOM", raw::crypt_wipe_pattern_CRYPT_WIPE_RANDOM),
        ("CRYPT_REENCRYPT_REENCRYPT", raw::crypt_reencrypt_mode_info_CRYPT_REENCRYPT_REENCRYPT),
        ("CRYPT_REENCRYPT_FORWARD", raw::crypt_reencrypt_direction_info_CRYPT_REENCRYPT_FORWARD),
    ] {
        must(&mut text, &format!("{name} == {value}"));
    }
    for (name, value) in [
        ("CRYPT_LUKS1", raw::CRYPT_LUKS1.len()),
        ("CRYPT_LUKS2", raw::CRYPT_LUKS2.len()),
        ("CRYPT_PLAIN", raw::CRYPT_PLAIN.len()),
    ] {
        must(&mut text, &format!("sizeof({name}) == {value}"));
    }
    text
}

#[test]
fn every_structure_has_the_layout_of_the_installed_header() {
    let text = structures();
    compiles(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
}

#[test]
fn every_constant_has_the_value_of_the_installed_header() {
    let text = constants();
    compiles(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    // The comparison can fail: with one value changed it does.
    let wrong = text.replacen("== 1,", "== 7,", 1);
    assert!(wrong != text && compiles(&wrong).is_err());
}

/// dm-verity's, and one of a kind of dm-integrity that this crate does not make.
const OF_OTHERS: [&str; 8] = [
    "IGNORE_CORRUPTION",
    "RESTART_ON_CORRUPTION",
    "IGNORE_ZERO_BLOCKS",
    "CHECK_AT_MOST_ONCE",
    "PANIC_ON_CORRUPTION",
    "TASKLETS",
    "ERROR_AS_CORRUPTION",
    "INLINE_MODE",
];

#[test]
fn every_flag_of_the_installed_header_is_known() {
    let output = Command::new("pkg-config").args(["--variable=includedir", "libcryptsetup"]).output();
    let dir = output.expect("pkg-config is here").stdout;
    let path = Path::new(String::from_utf8_lossy(&dir).trim()).join("libcryptsetup.h");
    let header = std::fs::read_to_string(path).expect("the header");
    let text = constants();
    let names = header.lines().filter_map(|line| line.strip_prefix("#define CRYPT_ACTIVATE_"));
    let mut known = 0;
    for name in names.filter_map(|rest| rest.split_whitespace().next()) {
        let is_ours = text.contains(&format!("(CRYPT_ACTIVATE_{name} =="));
        assert!(is_ours != OF_OTHERS.contains(&name), "CRYPT_ACTIVATE_{name}");
        known += usize::from(is_ours);
    }
    assert!(known > 20, "{known}");
}

/// All names of the bindings that stand in the sources, and what follows them.
fn used(dir: &Path, into: &mut Vec<(String, char)>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            used(&path, into);
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source");
        for rest in text.split("raw::").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let (name, rest) = rest.split_at(end);
            into.push((name.to_owned(), rest.chars().next().unwrap_or(' ')));
        }
    }
}

/// Functions are left out: bindgen has their types from the same header.
#[test]
fn no_constant_and_no_structure_is_used_that_is_not_compared() {
    let mut names = Vec::new();
    used(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut names);
    let (constants, structures) = (constants(), structures());
    let (mut seen, mut functions) = (0, 0);
    for (name, next) in names {
        // bindgen writes the name of an enumeration before that of its constant.
        if let Some(at) = name.find("CRYPT_") {
            let c = name.get(at..).unwrap_or_default();
            let is_compared = [format!("({c} =="), format!("(sizeof({c}) ==")];
            assert!(is_compared.iter().any(|claim| constants.contains(claim)), "{c} is not compared");
            seen += 1;
        } else if next == '(' {
            functions += 1;
        } else if name != "crypt_device" {
            let claim = format!("sizeof(struct {name}) ==");
            assert!(structures.contains(&claim), "struct {name} is not compared");
            seen += 1;
        }
    }
    assert!(seen > 40 && functions > 40, "{seen} {functions}");
}
