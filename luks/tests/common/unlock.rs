//! What must hold of a set of volumes, in memory and on a real kernel alike.

use std::ops::ControlFlow;
use std::path::PathBuf;

use luks::unlock::{Event, OnWrongKey, Outcome, Purpose, Report, UnlockSet};
use luks::{Luks, MappingSpec, Secret, Source, Uuid};

/// Three volumes, closed: the first two open with "skull", the third with "other".
pub(crate) struct Rig {
    pub(crate) luks: Luks,
    pub(crate) volumes: [(PathBuf, Uuid); 3],
}

type Outcomes = Vec<String>;
type Case = fn(&Rig) -> Done;
type Done = Result<(), Box<dyn std::error::Error>>;

/// The cases and their names.
pub(crate) const CASES: [(&str, Case); 5] = [
    ("a_set_opens_and_a_second_run_finds_all_open", all),
    ("one_wrong_key_does_not_keep_the_others_closed", one_wrong),
    ("what_is_in_the_way_is_told_for_each_volume", in_the_way),
    ("a_check_opens_nothing", check),
    ("a_set_that_is_called_off_tries_no_more", called_off),
];

impl Rig {
    fn specs(&self) -> Vec<MappingSpec> {
        let name = |n: usize| format!("set{n}").parse().expect("a name");
        (0..).zip(&self.volumes).map(|(n, (_, uuid))| MappingSpec::by_uuid(name(n), uuid.clone())).collect()
    }

    fn open(&self) -> usize {
        self.luks.list().expect("can be listed").len()
    }
}

fn shown(reports: &[Report]) -> Outcomes {
    reports.iter().map(|report| format!("{} {:?}", report.name, report.outcome)).collect()
}

fn secrets() -> [Secret; 2] {
    [Secret::from("skull"), Secret::from("other")]
}

fn all(rig: &Rig) -> Done {
    let set = UnlockSet::new(rig.specs());
    let mut told = Vec::new();
    let reports = set.run_with(&rig.luks, &secrets(), |event| {
        match event {
            Event::Deriving { .. } => told.push(0),
            Event::Finished { finished, total, .. } => told.push(finished * 10 + total),
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    assert!(
        reports.iter().all(|r| matches!(r.outcome, Outcome::Opened { keyslot: Some(0) })),
        "{:?}",
        shown(&reports)
    );
    assert_eq!(told.iter().copied().filter(|n| *n > 0).collect::<Vec<_>>(), [13, 23, 33]);
    assert!(told.iter().filter(|n| **n == 0).count() >= 3);
    assert_eq!(rig.open(), 3);
    let again = set.run(&rig.luks, &[])?;
    assert!(again.iter().all(|r| matches!(r.outcome, Outcome::AlreadyOpen)), "{:?}", shown(&again));
    for spec in rig.specs() {
        assert!(rig.luks.remove(&spec.name)?);
    }
    Ok(())
}

fn one_wrong(rig: &Rig) -> Done {
    let reports = UnlockSet::new(rig.specs()).run(&rig.luks, &secrets()[..1])?;
    let expected = ["set0 Opened { keyslot: Some(0) }", "set1 Opened { keyslot: Some(0) }", "set2 WrongKey"];
    assert_eq!(shown(&reports), expected);
    assert_eq!(rig.open(), 2);
    // A typo is one wrong key, and the rest is not tried, or was under way.
    let stopping = UnlockSet::new(rig.specs()[2..].to_vec()).with_on_wrong_key(OnWrongKey::Stop);
    assert_eq!(shown(&stopping.run(&rig.luks, &[Secret::from("typo")])?), ["set2 WrongKey"]);
    for spec in &rig.specs()[..2] {
        assert!(rig.luks.remove(&spec.name)?);
    }
    Ok(())
}

fn in_the_way(rig: &Rig) -> Done {
    let specs = rig.specs();
    let renamed =
        |n: usize, name: &str| MappingSpec::by_uuid(name.parse().expect("a name"), rig.volumes[n].1.clone());
    UnlockSet::new([specs[0].clone()]).run(&rig.luks, &secrets())?;
    let nowhere = MappingSpec::by_uuid("x".parse()?, "00000000-0000-0000-0000-000000000000".parse()?);
    let no_label = MappingSpec::new("y".parse()?, Source::Label("nobody has it".to_owned()));
    let no_path = MappingSpec::new("z".parse()?, Source::Path("/no/such/disk".into()));
    let by_path = MappingSpec::new("set1".parse()?, Source::Path(rig.volumes[1].0.clone()));
    let set = [renamed(0, "elsewhere"), renamed(1, "set0"), nowhere, no_label, no_path, by_path];
    let reports = UnlockSet::new(set).run(&rig.luks, &secrets())?;
    let outcomes: Vec<&Outcome> = reports.iter().map(|report| &report.outcome).collect();
    assert!(matches!(outcomes[0], Outcome::OpenAs(name) if name == "set0"), "{outcomes:?}");
    assert!(matches!(outcomes[1], Outcome::NameTaken { .. }), "{outcomes:?}");
    for missing in &outcomes[2..5] {
        assert!(matches!(missing, Outcome::Missing { .. }), "{outcomes:?}");
    }
    assert!(matches!(outcomes[5], Outcome::Opened { .. }), "{outcomes:?}");
    assert_eq!(rig.open(), 2);
    for spec in &specs[..2] {
        assert!(rig.luks.remove(&spec.name)?);
    }
    Ok(())
}

fn check(rig: &Rig) -> Done {
    let set = UnlockSet::new(rig.specs()).with_purpose(Purpose::Check);
    let reports = set.run(&rig.luks, &secrets()[1..])?;
    assert_eq!(shown(&reports), ["set0 WrongKey", "set1 WrongKey", "set2 Opened { keyslot: Some(0) }"]);
    assert_eq!(rig.open(), 0);
    Ok(())
}

fn called_off(rig: &Rig) -> Done {
    UnlockSet::new(rig.specs()[..1].to_vec()).run(&rig.luks, &secrets())?;
    // The first event is that the first volume is open already.
    let reports = UnlockSet::new(rig.specs()).run_with(&rig.luks, &secrets(), |_| ControlFlow::Break(()))?;
    assert_eq!(shown(&reports), ["set0 AlreadyOpen", "set1 NotTried", "set2 NotTried"]);
    assert!(rig.luks.remove(&rig.specs()[0].name)?);
    Ok(())
}
