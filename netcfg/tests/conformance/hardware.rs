//! What a card does in hardware and driver.

use host::plan::KillPoint;
use netcfg::{HardwareAttribute, HardwareSpec, Host, IfName, LinkSpec, NetSpec, Netcfg};

use super::{Outcome, name};

pub(super) fn settings(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let now = net.hardware(a)?;
    let most = *now.most.get(&HardwareAttribute::RxRing).ok_or("a card with rings")?;
    assert!(now.values.contains_key(&HardwareAttribute::RxRing) && now.features.get("rx-gro") == Some(&true));
    let spec = |hardware: HardwareSpec| {
        NetSpec::default().with_link(LinkSpec::existing(a.clone()).with_hardware(hardware))
    };
    net.ensure(&spec(HardwareSpec::default()))?;
    let off = HardwareSpec::default().with_feature("gro", false);
    let plan = net.plan(&spec(off.clone()))?;
    assert_eq!(
        plan.steps().iter().map(ToString::to_string).collect::<Vec<_>>(),
        [format!("ethtool -K {a} rx-gro off")]
    );
    let broken = host.clone().with_kill_point(KillPoint::FailAfter(0));
    Netcfg::on(&broken)?.ensure(&spec(off.clone())).expect_err("breaks");
    assert_eq!(net.hardware(a)?, now);
    let undo = net.apply(plan)?;
    assert_eq!(net.hardware(a)?.features.get("rx-gro"), Some(&false));
    assert!(!net.ensure(&spec(off))?, "it is so already");
    net.apply(undo.into_plan())?;
    assert_eq!(net.hardware(a)?, now);
    // Refused before anything is changed, with the reason.
    let refused = |hardware: HardwareSpec| -> Result<String, Box<dyn std::error::Error>> {
        let other = spec(hardware).with_link(LinkSpec::existing(b.clone()).with_mtu(1400));
        let error = net.ensure(&other).expect_err("refused").to_string();
        assert_ne!(net.get(b)?.ok_or("card")?.mtu, 1400, "{error}");
        Ok(error)
    };
    let error = refused(HardwareSpec::default().with(HardwareAttribute::RxRing, most + 1))?;
    assert!(error.contains(a.as_str()) && error.contains(&format!("{most} at most")), "{error}");
    let error = refused(HardwareSpec::default().with(HardwareAttribute::PauseRx, 1))?;
    assert!(error.contains("ethtool -A rx 1") && error.contains("no such setting"), "{error}");
    let error = refused(HardwareSpec::default().with_feature("no-such-feature", true))?;
    assert!(error.contains("cannot do that"), "{error}");
    let dummy = LinkSpec::dummy(name("dum9"))
        .with_hardware(HardwareSpec::default().with(HardwareAttribute::RxRing, 64));
    let error = net.plan(&NetSpec::default().with_link(dummy)).expect_err("no card").to_string();
    assert!(error.contains("dum9") && error.contains("network card"), "{error}");
    let error = net.hardware(&name("none9")).expect_err("no link");
    assert_eq!(error.errno(), Some(libc::ENODEV));
    Ok(())
}
