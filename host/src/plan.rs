//! Changes as data: ordered steps, each printable, with its undo and its impact.
//!
//! A crate's `plan` module computes a [`Plan`] from a state and a spec, purely. Its `apply` hands the plan to [`apply`] with a closure
//! that carries out one step. What happens when a step fails is the same for all six facilities and is decided here: the steps done are
//! undone in reverse order, and the error says which step failed, why, and what came of the undoing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::Host;

/// What a step does to those who use the system while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Impact {
    /// Nobody notices.
    Online,
    /// Sessions or connections are dropped; clients that retry carry on.
    DropsSessions,
    /// Data is lost. Refused unless the spec says so.
    DestroysData,
}

impl fmt::Display for Impact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Online => "online",
            Self::DropsSessions => "drops sessions",
            Self::DestroysData => "destroys data",
        })
    }
}

/// One change. `Display` is the line a person would have typed for it; it never shows a secret.
pub trait Step: fmt::Display + fmt::Debug + Clone {
    /// The steps that take this one back, in the order to run them. Empty where nothing needs to be or can be taken back
    /// (the type's documentation says which).
    fn undo(&self) -> Vec<Self>;

    /// What the step does to users of the system.
    fn impact(&self) -> Impact {
        Impact::Online
    }
}

/// Ordered steps from what is to what is wanted. An empty plan changes nothing and writes nothing.
///
/// `Display` prints one numbered line a step, as a person would have typed it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Plan<S> {
    steps: Vec<S>,
}

impl<S> Default for Plan<S> {
    fn default() -> Self {
        Self { steps: Vec::new() }
    }
}

impl<S> Plan<S> {
    /// A plan of these steps, in this order.
    #[must_use]
    pub fn new(steps: Vec<S>) -> Self {
        Self { steps }
    }

    /// Adds a step at the end.
    pub fn push(&mut self, step: S) {
        self.steps.push(step);
    }

    /// Adds all steps of another plan at the end.
    pub fn append(&mut self, other: Self) {
        self.steps.extend(other.steps);
    }

    /// The steps.
    #[must_use]
    pub fn steps(&self) -> &[S] {
        &self.steps
    }

    /// The steps, by value.
    #[must_use]
    pub fn into_steps(self) -> Vec<S> {
        self.steps
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How many steps there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Turns each step into another type: how a program joins the plans of several crates.
    pub fn map<T>(self, f: impl FnMut(S) -> T) -> Plan<T> {
        Plan { steps: self.steps.into_iter().map(f).collect() }
    }
}

impl<S: Step> Plan<S> {
    /// The worst impact of any step; `Online` for an empty plan.
    #[must_use]
    pub fn impact(&self) -> Impact {
        self.steps.iter().map(Step::impact).max().unwrap_or(Impact::Online)
    }
}

impl<S: fmt::Display> fmt::Display for Plan<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(f, "{number:3}. {step}")?;
        }
        Ok(())
    }
}

/// What a finished [`apply`] did, and how to take it back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Undo<S> {
    steps: Vec<S>,
}

impl<S> Undo<S> {
    /// The plan that leads back to the state before. Serialisable with the step type: a guard program can hold it.
    #[must_use]
    pub fn into_plan(self) -> Plan<S> {
        Plan { steps: self.steps }
    }

    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// What became of undoing after a failed step.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Undone {
    /// No step had been done.
    Nothing,
    /// All steps done were taken back; their number.
    All(usize),
    /// Some could not be taken back: the steps and the reasons.
    Partly(Vec<(String, String)>),
    /// The process "died" at this point ([`KillPoint::StopAfter`]); nothing was undone.
    Stopped,
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing had been changed"),
            Self::All(n) => write!(f, "the {n} steps before it were undone"),
            Self::Partly(left) => {
                f.write_str("these could not be undone:")?;
                left.iter().try_for_each(|(step, why)| write!(f, " [{step}: {why}]"))
            }
            Self::Stopped => f.write_str("stopped on purpose, nothing was undone"),
        }
    }
}

/// A step that failed. The sibling crates wrap it in an error of theirs.
#[derive(Debug)]
pub struct Failed<E> {
    /// Which step, from 1.
    pub number: usize,
    /// How many there were.
    pub total: usize,
    /// The step as text.
    pub step: String,
    /// Why; `None` at a kill point.
    pub cause: Option<E>,
    /// What became of the steps before it.
    pub undone: Undone,
}

impl<E> fmt::Display for Failed<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {} of {} failed ({}); {}", self.number, self.total, self.step, self.undone)
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Failed<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|e| e as _)
    }
}

/// Where an [`apply`] shall break off, for tests. Set on a [`Host`] with [`Host::with_kill_point`]; counts the steps of all
/// crates that share the host, so a whole node's plan can be broken at each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum KillPoint {
    /// Nowhere.
    #[default]
    Never,
    /// Step n + 1 fails as if the kernel had refused it: the n steps before are undone.
    FailAfter(usize),
    /// The process stops after step n: nothing is undone, and every later step of this host is refused too.
    StopAfter(usize),
    /// The process kills itself with SIGKILL after step n, as a power cut of the program would.
    KillAfter(usize),
}

/// One step that was carried out or failed, for progress output.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct StepEvent<'a> {
    /// The facility: "lio", "drbd", ...
    pub facility: &'a str,
    /// Which step, from 1.
    pub number: usize,
    /// How many the plan has.
    pub total: usize,
    /// The step as a person would have typed it.
    pub text: &'a str,
    /// How long it took.
    pub took: Duration,
    /// Whether it succeeded.
    pub ok: bool,
}

/// The kill point and observer of a host, shared by its clones.
#[derive(Clone, Default)]
pub(crate) struct Control {
    pub(crate) kill: KillPoint,
    pub(crate) done: Arc<AtomicUsize>,
    pub(crate) observer: Option<Observer>,
}

/// Who is told of each step.
pub(crate) type Observer = Arc<dyn Fn(&StepEvent<'_>) + Send + Sync>;

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("kill", &self.kill).finish_non_exhaustive()
    }
}

enum Verdict {
    Go,
    Fail,
    Stop,
}

impl Control {
    fn before_step(&self) -> Verdict {
        let done = self.done.load(Ordering::SeqCst);
        match self.kill {
            KillPoint::FailAfter(n) if done == n => Verdict::Fail,
            KillPoint::StopAfter(n) if done >= n => Verdict::Stop,
            _ => Verdict::Go,
        }
    }

    fn after_step(&self) {
        let done = self.done.fetch_add(1, Ordering::SeqCst) + 1;
        if self.kill == KillPoint::KillAfter(done) {
            crate::sys::kill_self();
        }
    }
}

/// Carries out a plan, step by step, with `run`. Stops at the first failure and undoes in reverse order.
///
/// The undoing goes through `run` too. What it finds already gone is `run`'s business to accept.
///
/// # Errors
/// [`Failed`] names the step and its number, holds the cause, and says what became of the steps before it.
pub fn apply<S: Step, E: fmt::Display>(
    host: &Host,
    facility: &str,
    plan: Plan<S>,
    mut run: impl FnMut(&S) -> Result<(), E>,
) -> Result<Undo<S>, Failed<E>> {
    let control = host.control();
    let total = plan.len();
    // Newest last, and turned round once: a plan of a hundred thousand steps must not move all of them for each.
    let mut back: Vec<Vec<S>> = Vec::new();
    let mut done = 0;
    for (number, step) in (1..).zip(plan.steps) {
        // Nobody looks at most steps: neither clock nor text is for them.
        let started = control.observer.as_ref().map(|observer| (observer, Instant::now()));
        let outcome = match control.before_step() {
            Verdict::Go => run(&step).map_err(Some),
            Verdict::Fail => Err(None),
            Verdict::Stop => {
                let step = step.to_string();
                return Err(Failed { number, total, step, cause: None, undone: Undone::Stopped });
            }
        };
        if let Some((observer, started)) = started {
            let (text, took) = (step.to_string(), started.elapsed());
            observer(&StepEvent { facility, number, total, text: &text, took, ok: outcome.is_ok() });
        }
        match outcome {
            Ok(()) => {
                log::debug!("{facility}: {step}");
                back.push(step.undo());
                done += 1;
                control.after_step();
            }
            Err(cause) => {
                let undone = roll_back(&newest_first(back), done, &mut run);
                log::debug!("{facility}: {step}: failed; {undone}");
                return Err(Failed { number, total, step: step.to_string(), cause, undone });
            }
        }
    }
    Ok(Undo { steps: newest_first(back) })
}

fn newest_first<S>(back: Vec<Vec<S>>) -> Vec<S> {
    back.into_iter().rev().flatten().collect()
}

fn roll_back<S: Step, E: fmt::Display>(
    back: &[S],
    done: usize,
    run: &mut impl FnMut(&S) -> Result<(), E>,
) -> Undone {
    let left: Vec<_> =
        back.iter().filter_map(|step| run(step).err().map(|e| (step.to_string(), e.to_string()))).collect();
    match (done, left.is_empty()) {
        (0, _) => Undone::Nothing,
        (n, true) => Undone::All(n),
        (_, false) => Undone::Partly(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Toy {
        Add(u32),
        Del(u32),
    }

    impl fmt::Display for Toy {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                Self::Add(n) => write!(f, "add {n}"),
                Self::Del(n) => write!(f, "del {n}"),
            }
        }
    }

    impl Step for Toy {
        fn undo(&self) -> Vec<Self> {
            match self {
                Self::Add(n) => vec![Self::Del(*n)],
                Self::Del(n) => vec![Self::Add(*n)],
            }
        }
    }

    fn run(set: &mut BTreeSet<u32>, step: &Toy) -> Result<(), String> {
        match step {
            Toy::Add(13) => Err("unlucky".into()),
            Toy::Add(n) => set.insert(*n).then_some(()).ok_or_else(|| "there".into()),
            Toy::Del(n) => set.remove(n).then_some(()).ok_or_else(|| "not there".into()),
        }
    }

    fn plan(numbers: &[u32]) -> Plan<Toy> {
        Plan::new(numbers.iter().map(|n| Toy::Add(*n)).collect())
    }

    #[test]
    fn a_failed_step_is_undone_and_reported() {
        let mut set = BTreeSet::new();
        let failed =
            apply(&Host::live(), "toy", plan(&[1, 2, 13, 4]), |s| run(&mut set, s)).expect_err("13 fails");
        assert!(set.is_empty());
        assert_eq!(failed.to_string(), "step 3 of 4 failed (add 13); the 2 steps before it were undone");
        assert_eq!(failed.cause.as_deref(), Some("unlucky"));
    }

    #[test]
    fn a_failing_undo_is_reported_too() {
        let mut calls = 0;
        let failed = apply(&Host::live(), "toy", plan(&[1, 13]), |s| {
            calls += 1;
            if matches!(s, Toy::Del(_)) { Err("stuck".to_owned()) } else { run(&mut BTreeSet::new(), s) }
        })
        .expect_err("13 fails");
        assert_eq!(calls, 3);
        assert_eq!(failed.undone, Undone::Partly(vec![("del 1".into(), "stuck".into())]));
    }

    #[test]
    fn every_kill_point_leaves_what_it_says() {
        for n in 0..4 {
            let mut set = BTreeSet::new();
            let host = Host::live().with_kill_point(KillPoint::StopAfter(n));
            let failed = apply(&host, "toy", plan(&[1, 2, 3, 4]), |s| run(&mut set, s)).expect_err("stops");
            assert_eq!((set.len(), &failed.undone), (n, &Undone::Stopped));
            // The host stays stopped for the next facility.
            assert!(apply(&host, "toy", plan(&[9]), |s| run(&mut set, s)).is_err());

            let mut set = BTreeSet::new();
            let host = Host::live().with_kill_point(KillPoint::FailAfter(n));
            let failed = apply(&host, "toy", plan(&[1, 2, 3, 4]), |s| run(&mut set, s)).expect_err("fails");
            assert!(set.is_empty() && failed.number == n + 1);
        }
    }

    #[test]
    fn the_undo_of_a_plan_leads_back() {
        let mut set = BTreeSet::new();
        let host = Host::live();
        let undo = apply(&host, "toy", plan(&[1, 2]), |s| run(&mut set, s)).expect("applies");
        let back = undo.into_plan();
        assert_eq!(back.steps(), [Toy::Del(2), Toy::Del(1)]);
        apply(&host, "toy", back, |s| run(&mut set, s)).expect("leads back");
        assert!(set.is_empty());
    }
}
