//! Plans on trial.

use std::time::Duration;

use host::plan::KillPoint;
use netcfg::{Host, IfName, Netcfg};

use super::{Outcome, article, picture};

pub(super) fn trials(host: &Host, a: &IfName, b: &IfName) -> Outcome {
    let net = Netcfg::on(host)?;
    let minute = Duration::from_secs(60);
    let before = picture(host)?;
    assert!(net.trial()?.is_none() && !net.confirm()? && !net.roll_back()?);
    // Not confirmed.
    net.apply_on_trial(net.plan(&article(a, b))?, minute)?;
    let trial = net.trial()?.expect("under way");
    assert!(trial.steps > 10 && trial.left <= minute && !trial.left.is_zero(), "{trial:?}");
    let error = net.apply_on_trial(netcfg::Plan::default(), minute).expect_err("one at a time").to_string();
    assert!(error.contains("a trial is under way"), "{error}");
    assert!(net.roll_back()? && !net.roll_back()?);
    assert_eq!(picture(host)?, before);
    // Broken off after each step, as by a kill: whoever takes over knows the way back.
    let plan = net.plan(&article(a, b))?;
    for n in 0..=plan.len() {
        let broken = Netcfg::on(&host.clone().with_kill_point(KillPoint::StopAfter(n)))?;
        assert_eq!(broken.apply_on_trial(plan.clone(), minute).is_ok(), n == plan.len());
        assert!(net.roll_back()?, "step {n}");
        assert_eq!(picture(host)?, before, "not as before after a stop at step {n}");
    }
    // A step that fails is undone at once, and nothing is left to be confirmed.
    let broken = Netcfg::on(&host.clone().with_kill_point(KillPoint::FailAfter(3)))?;
    broken.apply_on_trial(plan.clone(), minute).expect_err("breaks");
    assert!(picture(host)? == before && net.trial()?.is_none());
    // Confirmed: it stays, and there is no way back any more.
    net.apply_on_trial(plan, minute)?;
    assert!(net.confirm()? && net.trial()?.is_none() && !net.roll_back()?);
    assert!(net.plan(&article(a, b))?.is_empty());
    Ok(())
}
