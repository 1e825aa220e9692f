//! Sets of volumes on the fake.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing)] // It is a test.

mod conformance;

use conformance::{Bench, CASES, IDS};
use host::plan::KillPoint;
use luks::fake::FakeCrypt;
use luks::{Error, Host, Luks, MappingSpec, Secret, Uuid};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const ONE: &str = "1bd1f798-d105-4150-841b-f2751f419efc";
const TWO: &str = "d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc456";

fn uuid(text: &str) -> Uuid {
    text.parse().expect("a UUID")
}

fn two_disks() -> FakeCrypt {
    FakeCrypt::new().with_volume("/dev/sdb", uuid(ONE), Secret::from("skull")).with_volume(
        "/dev/sdc",
        uuid(TWO),
        Secret::from("skull"),
    )
}

fn specs() -> [MappingSpec; 2] {
    [("VM_STORAGE_1", ONE), ("VM_STORAGE_2", TWO)]
        .map(|(name, id)| MappingSpec::by_uuid(name.parse().expect("name"), uuid(id)))
}

fn of(fake: &FakeCrypt) -> Luks {
    fake.luks(&Host::fake())
}

#[test]
fn mappings_in_memory_do_what_those_of_a_kernel_do() -> Outcome {
    for (name, case) in CASES {
        let devices = ["/dev/vda", "/dev/vdb", "/dev/vdc"].map(str::to_owned);
        let fake = (0..2).fold(FakeCrypt::new(), |fake, n| {
            fake.with_volume(&devices[n], uuid(IDS[n]), Secret::from(conformance::PASSPHRASE))
        });
        let holder = fake.clone();
        let hold = move |name: &luks::DmName| -> Box<dyn FnOnce()> {
            holder.hold(name.as_str(), "sleep (process 7)");
            let (fake, name) = (holder.clone(), name.clone());
            Box::new(move || fake.release(name.as_str()))
        };
        let bench = Bench { luks: of(&fake), devices, hold: Box::new(hold) };
        case(&bench).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

#[test]
fn one_passphrase_opens_a_set_and_a_second_ensure_writes_nothing() -> Outcome {
    let fake = two_disks();
    let luks = of(&fake);
    let plan = luks.plan(&specs())?.to_string();
    assert!(plan.contains("cryptsetup open /dev/sdb VM_STORAGE_1") && !plan.contains("skull"), "{plan}");
    assert!(luks.ensure(&specs(), Secret::from("skull"))?);
    assert_eq!(fake.writes(), 2);
    assert!(!luks.ensure(&specs(), Secret::from("anything"))?);
    assert_eq!(fake.writes(), 2);
    assert!(luks.remove(&"VM_STORAGE_1".parse()?)? && !luks.remove(&"VM_STORAGE_1".parse()?)?);
    Ok(())
}

#[test]
fn a_wrong_passphrase_opens_nothing() -> Outcome {
    let fake = two_disks().with_volume("/dev/sdc", uuid(TWO), Secret::from("other"));
    let error = of(&fake).ensure(&specs(), Secret::from("skull")).expect_err("the second disk differs");
    assert!(error.is_wrong_passphrase(), "{error}");
    assert!(of(&fake).list()?.is_empty(), "the first was closed again");
    Ok(())
}

#[test]
fn what_is_in_the_way_is_named_and_nothing_is_opened() -> Outcome {
    let fake = two_disks();
    fake.put_mapping("VM_STORAGE_2", Some(uuid(ONE)), Some("sdb"), &[]);
    let error = of(&fake).ensure(&specs()[1..], Secret::from("skull")).expect_err("taken");
    assert!(matches!(error, Error::NameTaken { .. }), "{error}");
    let error = of(&fake).ensure(&specs()[..1], Secret::from("skull")).expect_err("open elsewhere");
    assert!(
        error.to_string().contains("is open as /dev/mapper/VM_STORAGE_2, not as VM_STORAGE_1"),
        "{error}"
    );
    let missing = MappingSpec::by_uuid("x".parse()?, uuid("00000000-0000-0000-0000-000000000000"));
    let error = of(&fake).ensure(&[missing], Secret::from("skull")).expect_err("missing");
    assert!(error.to_string().contains("on /dev/sdb"), "{error}");
    assert_eq!(fake.writes(), 0);
    fake.put_mapping("VM_STORAGE_2", Some(uuid(TWO)), Some("sdc"), &["drbd1"]);
    let error = of(&fake).remove(&"VM_STORAGE_2".parse()?).expect_err("held");
    assert!(error.is_busy() && error.to_string().contains("drbd1"), "{error}");
    Ok(())
}

#[test]
fn a_stop_after_each_step_converges_when_run_again() -> Outcome {
    let steps = of(&two_disks()).plan(&specs())?.len();
    for n in 0..steps {
        let fake = two_disks();
        let host = Host::fake().with_kill_point(KillPoint::StopAfter(n));
        fake.luks(&host).ensure(&specs(), Secret::from("skull")).expect_err("stops");
        assert_eq!(of(&fake).list()?.len(), n);
        of(&fake).ensure(&specs(), Secret::from("skull"))?;
        assert!(of(&fake).plan(&specs())?.is_empty());
    }
    println!("stopped after each of {steps} steps");
    Ok(())
}
