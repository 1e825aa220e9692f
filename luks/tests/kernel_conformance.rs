//! Real mappings in a lab guest: open, close, a set, and what `cryptsetup` and `dmsetup` say of them.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_types)] // It is a test.

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};
use luks::{Error, FormatSpec, Header, Host, Kdf, Luks, MappingSpec, Overwrite, Secret, Uuid};

const IDS: [&str; 2] = ["1bd1f798-d105-4150-841b-f2751f419efc", "d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc456"];
const DISKS: [&str; 2] = ["t0", "t1"];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let ready = Host::live().tree().read("/proc/cmdline").unwrap_or_default().contains("lab.mode=");
    if !ready {
        println!("kernel tests are ignored here: they need a lab guest, run `lab test luks`");
    }
    let trials = [
        ("a_set_of_disks_opens_by_uuid_with_one_passphrase", set as fn() -> Result<(), Failed>),
        ("a_wrong_passphrase_leaves_nothing_open", wrong),
        ("data_written_through_a_mapping_is_read_after_reopening", data),
        ("a_held_mapping_is_busy_and_names_its_holder", held),
        ("an_open_volume_is_not_formatted", format_open),
    ];
    let trials = trials.map(|(name, test)| Trial::test(name, test).with_ignored_flag(!ready));
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

/// The node of one of the lab's spare disks, found by its serial number.
fn disk(serial: &str) -> Result<String, Failed> {
    let tree = Host::live().tree().clone();
    for entry in tree.list("/sys/block")? {
        if tree.read_opt(format!("/sys/block/{}/serial", entry.name))?.is_some_and(|s| s.trim() == serial) {
            return Ok(format!("/dev/{}", entry.name));
        }
    }
    Err(format!("no disk {serial}").into())
}

fn specs() -> Vec<MappingSpec> {
    let name = |n: usize| format!("VM_STORAGE_{n}").parse().expect("name");
    (1..).zip(IDS).map(|(n, id)| MappingSpec::by_uuid(name(n), id.parse::<Uuid>().expect("UUID"))).collect()
}

fn prepared() -> Result<Luks, Failed> {
    let luks = Luks::on(&Host::live())?;
    for spec in specs() {
        luks.remove(&spec.name)?;
    }
    for (serial, id) in DISKS.iter().zip(IDS) {
        let spec = FormatSpec::luks2().with_kdf(Kdf::Pbkdf2Fixed { iterations: 1000 }).with_uuid(id.parse()?);
        Header::format(disk(serial)?, &spec, &Secret::from("skull"), Overwrite::Always)?;
    }
    Ok(luks)
}

fn set() -> Result<(), Failed> {
    let luks = prepared()?;
    assert!(luks.ensure(&specs(), Secret::from("skull"))?);
    assert!(!luks.ensure(&specs(), Secret::from("not looked at"))?);
    let open = luks.list()?;
    assert_eq!(open.len(), 2);
    assert!(open.iter().all(|m| m.device.is_some() && m.holders.is_empty() && !m.suspended), "{open:?}");
    if let Ok(output) = Command::new("cryptsetup").args(["status", "VM_STORAGE_1"]).output() {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("type:    LUKS2") && text.contains("is active"), "{text}");
    }
    for spec in specs() {
        assert!(luks.remove(&spec.name)? && !luks.remove(&spec.name)?);
    }
    assert!(luks.list()?.is_empty());
    Ok(())
}

fn wrong() -> Result<(), Failed> {
    let luks = prepared()?;
    let error = luks.ensure(&specs(), Secret::from("wrong")).expect_err("wrong");
    assert!(error.is_wrong_passphrase(), "{error}");
    assert!(luks.list()?.is_empty());
    Ok(())
}

fn data() -> Result<(), Failed> {
    use std::io::{Read, Seek, SeekFrom, Write};
    let luks = prepared()?;
    let node = |name: &str| format!("/dev/mapper/{name}");
    luks.ensure(&specs(), Secret::from("skull"))?;
    let mut file = std::fs::OpenOptions::new().write(true).open(node("VM_STORAGE_1"))?;
    file.seek(SeekFrom::Start(4096))?;
    file.write_all(&[0xa5; 8192])?;
    file.sync_all()?;
    drop(file);
    luks.remove(&"VM_STORAGE_1".parse()?)?;
    luks.ensure(&specs(), Secret::from("skull"))?;
    let mut bytes = vec![0; 8192];
    let mut file = std::fs::File::open(node("VM_STORAGE_1"))?;
    file.seek(SeekFrom::Start(4096))?;
    file.read_exact(&mut bytes)?;
    assert!(bytes.iter().all(|b| *b == 0xa5));
    drop(file);
    for spec in specs() {
        luks.remove(&spec.name)?;
    }
    Ok(())
}

fn held() -> Result<(), Failed> {
    let luks = prepared()?;
    luks.ensure(&specs(), Secret::from("skull"))?;
    let file = std::fs::File::open("/dev/mapper/VM_STORAGE_2")?;
    let error = luks.remove(&"VM_STORAGE_2".parse()?).expect_err("held");
    assert!(error.is_busy() && error.to_string().contains("/dev/mapper/VM_STORAGE_2 is in use"), "{error}");
    drop(file);
    for spec in specs() {
        luks.remove(&spec.name)?;
    }
    Ok(())
}

fn format_open() -> Result<(), Failed> {
    let luks = prepared()?;
    luks.ensure(&specs(), Secret::from("skull"))?;
    let again = Header::format(disk(DISKS[0])?, &FormatSpec::luks2(), &Secret::from("x"), Overwrite::Always);
    assert!(matches!(again, Err(Error::Busy { .. })), "{again:?}");
    for spec in specs() {
        luks.remove(&spec.name)?;
    }
    Ok(())
}
