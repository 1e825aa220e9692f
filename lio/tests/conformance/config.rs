//! Whole configurations, and the file of targetcli.

use lio::{
    Access, AclSpec, AluaGroupSpec, AluaState, BackstoreSpec, Bytes, ConfigSpec, DemoMode, IscsiSpec,
    LuGroup, Others, Secret, Tag, TargetSpec, UnitSerial,
};

use super::{Bench, Outcome, iqn, ramdisk};

/// Something of everything.
pub fn everything(bench: &Bench) -> ConfigSpec {
    let group = |id| {
        AluaGroupSpec::new(id).with_attribute("alua_access_type", 1).with_attribute("nonop_delay_msecs", 0)
    };
    let disk = ramdisk("config1")
        .with_alua_group("node1".parse().unwrap(), group(1).with_state(AluaState::NonOptimized))
        .with_alua_group("node2".parse().unwrap(), group(2).with_state(AluaState::Standby))
        .with_lu_group(LuGroup::new("units".parse().unwrap(), 5))
        .with_vendor("SANKIT".parse().unwrap())
        .with_product("config one".parse().unwrap())
        .with_attribute("emulate_tas", 0);
    let file = BackstoreSpec::file("config2".parse().unwrap(), "/tmp/sankit-config2", Bytes(4 << 20))
        .with_serial(UnitSerial::derived_from("config2"))
        .with_revision("9".parse().unwrap());
    let full = bench.full("config");
    let one = full.with_lun(6, disk).with_lun_group(6, "node2".parse().unwrap()).with_acl(
        AclSpec::new(iqn("host3")).with_tag("rack".parse().unwrap()).with_lun(1, 6, Access::ReadOnly),
    );
    let two = TargetSpec::new(iqn("config"))
        .with_tag(Tag(2))
        .with_lun(0, file.clone())
        .with_portal("127.0.0.1:13350".parse().unwrap())
        .enabled(lio::Enabled::No);
    let open = TargetSpec::new(iqn("config-open"))
        .with_demo_mode(DemoMode::Allowed)
        .with_chap("anybody".parse().unwrap(), Secret::from("a password for all"))
        .with_lun(0, file);
    let shared =
        IscsiSpec::new().with_discovery_chap("scout".parse().unwrap(), Secret::from("who may ask for it"));
    ConfigSpec::new()
        .with_iscsi(shared)
        .with_target(one)
        .with_target(two)
        .with_target(open)
        .with_backstore(ramdisk("config9"))
}

pub fn round_trip(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    let spec = everything(bench);
    assert!(lio.ensure_config(&spec, Others::Keep)?);
    assert!(!lio.ensure_config(&spec, Others::Keep)?, "{}", lio.plan_config(&spec, Others::Keep)?);
    assert!(!lio.ensure_config(&spec, Others::Remove)?, "{}", lio.plan_config(&spec, Others::Remove)?);
    let made = bench.snapshot();
    // What runs, as a specification, is what runs.
    let (running, notes) = lio.running()?;
    assert!(notes.is_empty(), "{notes:?}");
    assert!(
        lio.plan_config(&running, Others::Remove)?.is_empty(),
        "{}",
        lio.plan_config(&running, Others::Remove)?
    );
    let empty = ConfigSpec::new().with_iscsi(IscsiSpec::new());
    assert!(lio.ensure_config(&empty, Others::Remove)?);
    bench.same(&before, "cleared");
    assert!(lio.ensure_config(&running, Others::Remove)?);
    bench.same(&made, "from what ran");
    let undo = lio.apply(lio.plan_config(&empty, Others::Remove)?)?;
    bench.same(&before, "cleared again");
    lio.apply(undo.into_plan())?;
    bench.same(&made, "undone");
    lio.ensure_config(&empty, Others::Remove)?;
    #[cfg(feature = "saveconfig")]
    for config in [&spec, &running] {
        let text = lio::saveconfig::write(config)?;
        let (read, notes) = lio::saveconfig::read(text.expose())?;
        assert!(notes.iter().all(|note| note.contains("demo mode")), "{notes:?}");
        // Once written it stays the same.
        let again = lio::saveconfig::write(&read)?;
        let lines = |text: &Secret| -> Vec<String> {
            String::from_utf8_lossy(text.expose()).lines().map(str::to_owned).collect()
        };
        let differs: Vec<_> =
            lines(&text).into_iter().zip(lines(&again)).filter(|(a, b)| a != b).take(5).collect();
        assert!(text == again, "{differs:#?}");
        assert!(lio.ensure_config(&read, Others::Remove)?);
        bench.same(&made, "from the file");
        lio.ensure_config(&empty, Others::Remove)?;
        bench.same(&before, "cleared after the file");
    }
    Ok(())
}

pub fn others(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    let theirs = TargetSpec::new(iqn("theirs1")).with_lun(0, ramdisk("theirs1"));
    let ours = TargetSpec::new(iqn("ours1")).with_lun(0, ramdisk("ours1"));
    lio.ensure(&theirs)?;
    let config = ConfigSpec::new().with_target(ours.clone());
    assert!(lio.ensure_config(&config, Others::Keep)?);
    assert!(lio.get(&theirs.iqn)?.is_some());
    // A disk of a target that goes may be wanted by one that comes.
    let moved = ConfigSpec::new().with_target(ours.with_lun(1, ramdisk("theirs1")));
    assert!(lio.ensure_config(&moved, Others::Remove)?);
    assert!(lio.get(&theirs.iqn)?.is_none());
    assert!(!lio.ensure_config(&moved, Others::Remove)?);
    assert!(lio.ensure_config(&ConfigSpec::new(), Others::Remove)?);
    bench.same(&before, "removed");
    let twice = ConfigSpec::new().with_target(theirs.clone()).with_target(theirs);
    assert!(
        lio.plan_config(&twice, Others::Keep).expect_err("twice").to_string().contains("described twice")
    );
    Ok(())
}
