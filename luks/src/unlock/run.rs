//! A set being unlocked: worker threads derive, the calling thread opens.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};

use host::{Bytes, Deadline, Lock, Secret};

use super::budget::Gate;
use super::outcome::with_causes;
use super::{Budget, Event, OnWrongKey, Outcome, Planned, Purpose, Report, Tokens, UnlockSet, resolve};
use crate::Luks;
use crate::apply::{Backend, Opening};
use crate::error::{Error, Result};
use crate::header::{Found, Keyslot, Token};
use crate::key::VolumeKey;

/// What a worker says to the calling thread.
enum Message {
    Deriving(usize, u32),
    Found(usize, Key),
    Failed(usize, Outcome),
}

/// What opens a volume.
enum Key {
    Volume {
        keyslot: Option<u32>,
        key: VolumeKey,
    },
    /// A volume in reencryption has two volume keys: the library must have the passphrases.
    Passphrases,
    /// Or the token.
    Token(u32),
}

/// What all workers share.
struct Work<'a> {
    backend: &'a dyn Backend,
    secrets: &'a [Secret],
    planned: &'a [(usize, Planned)],
    queue: Mutex<VecDeque<usize>>,
    gate: Gate,
    budget: Budget,
    deadline: Deadline,
    on_wrong_key: OnWrongKey,
    /// Nothing new is begun.
    stop: &'a AtomicBool,
    /// The secret that fitted last: it is tried first.
    lucky: AtomicUsize,
}

pub(super) fn run(
    set: &UnlockSet,
    luks: &Luks,
    secrets: &[Secret],
    mut progress: impl FnMut(&Event<'_>) -> ControlFlow<()>,
) -> Result<Vec<Report>> {
    let total = set.specs.len();
    let mut reports: Vec<Option<Report>> = Vec::with_capacity(total);
    let mut planned = Vec::new();
    for (place, one) in set.plan(luks)?.into_iter().enumerate() {
        match one {
            Ok(one) => {
                planned.push((place, one));
                reports.push(None);
            }
            Err(report) => reports.push(Some(report)),
        }
    }
    let mut finished = 0;
    let stop = AtomicBool::new(false);
    let mut tell = |event: &Event<'_>| {
        if progress(event).is_break() {
            stop.store(true, Ordering::SeqCst);
        }
    };
    for report in reports.iter().flatten() {
        finished += 1;
        tell(&Event::Finished { report, finished, total });
    }
    let budget = set.budget.unwrap_or_else(|| Budget::of(&luks.host));
    let work = Work {
        backend: &*luks.backend,
        secrets,
        planned: &planned,
        queue: Mutex::default(),
        gate: Gate::new(budget),
        budget,
        deadline: Deadline::after(set.timeout),
        on_wrong_key: set.on_wrong_key,
        stop: &stop,
        lucky: AtomicUsize::new(0),
    };
    let mut opener = Opener { set, luks, secrets, lock: None };
    let mut conclude = |number: usize, outcome: Outcome, tell: &mut dyn FnMut(&Event<'_>)| {
        let Some((place, one)) = planned.get(number) else { return };
        let report = Report { name: one.name.clone(), device: Some(one.device.clone()), outcome };
        finished += 1;
        tell(&Event::Finished { report: &report, finished, total });
        if let Some(slot) = reports.get_mut(*place) {
            *slot = Some(report);
        }
    };
    let mut order = Vec::with_capacity(planned.len());
    for (number, (_, one)) in planned.iter().enumerate() {
        let by_token = match set.tokens {
            Tokens::PassOver => None,
            Tokens::Try => ask(&work, &mut opener, one, &mut tell)?,
        };
        match by_token {
            Some(outcome) => conclude(number, outcome, &mut tell),
            None => order.push(number),
        }
    }
    // The longest first: one that is begun last keeps the others waiting for its end.
    order.sort_by_key(|n| std::cmp::Reverse(planned.get(*n).map(|(_, one)| one.weight())));
    let workers = order.len().min(usize::try_from(budget.lanes).unwrap_or(1));
    *work.queue.lock().unwrap_or_else(PoisonError::into_inner) = order.into();
    std::thread::scope(|scope| -> Result<()> {
        let (sender, messages) = mpsc::channel();
        for _ in 0..workers {
            let (sender, work) = (sender.clone(), &work);
            scope.spawn(move || work.all(&sender));
        }
        drop(sender);
        let mut failed = Ok(());
        for message in messages {
            match message {
                Message::Deriving(number, keyslot) => {
                    if let Some((_, one)) = planned.get(number) {
                        tell(&Event::Deriving { name: &one.name, keyslot });
                    }
                }
                Message::Failed(number, outcome) => conclude(number, outcome, &mut tell),
                Message::Found(number, key) => {
                    match planned.get(number).map(|(_, one)| opener.open(one, key)) {
                        Some(Ok(outcome)) => conclude(number, outcome, &mut tell),
                        // No lock or no module: nothing can be opened, and the workers are told to end.
                        Some(Err(error)) => {
                            stop.store(true, Ordering::SeqCst);
                            failed = Err(error);
                        }
                        None => {}
                    }
                }
            }
        }
        failed
    })?;
    Ok(reports.into_iter().flatten().collect())
}

/// Asks the tokens of a volume for its key, one after another: they share devices. `None` if none opens it and there are passphrases to try.
fn ask(
    work: &Work<'_>,
    opener: &mut Opener<'_>,
    one: &Planned,
    tell: &mut dyn FnMut(&Event<'_>),
) -> Result<Option<Outcome>> {
    let mut why = Vec::new();
    for token in one.tokens() {
        if work.stop.load(Ordering::SeqCst) {
            return Ok(Some(Outcome::NotTried));
        }
        if work.deadline.is_over() {
            return Ok(Some(Outcome::TimedOut));
        }
        tell(&Event::Asking { name: &one.name, token });
        let outcome = match work.key_of_token(one, token) {
            Ok(key) => opener.open(one, key)?,
            Err(outcome) => outcome,
        };
        match outcome {
            Outcome::Failed(error) => why.push(with_causes(&error)),
            Outcome::TooLarge { .. } => why.push(outcome.to_string()),
            other => return Ok(Some(other)),
        }
    }
    if why.is_empty() {
        why.push("it has none".to_owned());
    }
    log::debug!("luks: {}: {}", one.name, why.join("; "));
    Ok(work.secrets.is_empty().then(|| Outcome::NoToken { why: why.join("; ") }))
}

impl Work<'_> {
    /// One worker: takes volumes until there are none.
    fn all(&self, to: &Sender<Message>) {
        loop {
            let next = self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((number, (_, one))) = next.and_then(|n| Some((n, self.planned.get(n)?))) else { return };
            let message = match self.key_of(number, one, to) {
                Ok(key) => Message::Found(number, key),
                Err(outcome) => Message::Failed(number, outcome),
            };
            // The receiver lives until all senders are gone.
            let _ = to.send(message);
        }
    }

    /// What a token yields.
    fn key_of_token(&self, one: &Planned, token: &Token) -> std::result::Result<Key, Outcome> {
        let slots = one.header.keyslots.iter().filter(|slot| token.keyslots.contains(&slot.number));
        let needs = slots.map(bytes_of).max().unwrap_or_default();
        if needs > self.budget.limit.0 {
            return Err(Outcome::TooLarge { needs: Bytes(needs), limit: self.budget.limit });
        }
        if one.header.reencryption.is_some() {
            return Ok(Key::Token(token.number));
        }
        let derived = self.backend.derive(one.place(), &crate::Key::token(token.number));
        let (keyslot, key) = derived.map_err(|error| Outcome::Failed(error.into()))?;
        Ok(Key::Volume { keyslot, key })
    }

    /// Tries every secret on every key slot of a volume.
    fn key_of(
        &self,
        number: usize,
        one: &Planned,
        to: &Sender<Message>,
    ) -> std::result::Result<Key, Outcome> {
        if one.header.reencryption.is_some() {
            return Ok(Key::Passphrases);
        }
        let (small, large): (Vec<&Keyslot>, Vec<&Keyslot>) =
            one.keyslots().partition(|slot| bytes_of(slot) <= self.budget.limit.0);
        let first = self.lucky.load(Ordering::SeqCst);
        let count = self.secrets.len();
        if let (Some(slot), None) = (one.keyslot, one.keyslots().next()) {
            let device = one.device.clone();
            return Err(Outcome::Failed(Error::NoKeyslot { device, slot }.into()));
        }
        for which in (0..count).map(|n| (n + first) % count) {
            let Some(secret) = self.secrets.get(which) else { continue };
            for slot in &small {
                if self.stop.load(Ordering::SeqCst) {
                    return Err(Outcome::NotTried);
                }
                match self.derive(number, one, slot, secret, to)? {
                    Some(key) => {
                        self.lucky.store(which, Ordering::SeqCst);
                        return Ok(Key::Volume { keyslot: Some(slot.number), key });
                    }
                    None => continue,
                }
            }
        }
        if let Some(least) = large.iter().map(|slot| bytes_of(slot)).min() {
            return Err(Outcome::TooLarge { needs: Bytes(least), limit: self.budget.limit });
        }
        if self.on_wrong_key == OnWrongKey::Stop {
            self.stop.store(true, Ordering::SeqCst);
        }
        Err(Outcome::WrongKey)
    }

    /// Tries one secret on one key slot within the budget; once more alone if memory runs out.
    fn derive(
        &self,
        number: usize,
        one: &Planned,
        slot: &Keyslot,
        secret: &Secret,
        to: &Sender<Message>,
    ) -> std::result::Result<Option<VolumeKey>, Outcome> {
        let pass = self.gate.enter(bytes_of(slot), slot.lanes, self.deadline);
        let pass = pass.ok_or(Outcome::TimedOut)?;
        let _ = to.send(Message::Deriving(number, slot.number));
        let key = crate::Key::Slot(slot.number, secret.share());
        let derive = || self.backend.derive(one.place(), &key).map(|(_, key)| key);
        let mut result = derive();
        drop(pass);
        if matches!(result, Err(Error::NoMemory { .. })) {
            let _pass = self.gate.alone(self.deadline).ok_or(Outcome::TimedOut)?;
            result = derive();
        }
        match result {
            Ok(key) => Ok(Some(key)),
            Err(error) if error.is_wrong_passphrase() => Ok(None),
            Err(error) => Err(Outcome::Failed(error.into())),
        }
    }
}

fn bytes_of(slot: &Keyslot) -> u64 {
    slot.memory_kib.saturating_mul(1024)
}

/// Makes mappings, one at a time, in the calling thread: the kernel's keyring of a thread holds the key for device-mapper.
struct Opener<'a> {
    set: &'a UnlockSet,
    luks: &'a Luks,
    secrets: &'a [Secret],
    /// The lock of the mappings, once there is something to open.
    lock: Option<Lock>,
}

impl Opener<'_> {
    fn open(&mut self, one: &Planned, key: Key) -> Result<Outcome> {
        if self.set.purpose == Purpose::Check {
            return Ok(match key {
                Key::Volume { keyslot, .. } => Outcome::Opened { keyslot },
                Key::Passphrases => self.try_each(one, |_, _| Ok(())),
                Key::Token(token) => {
                    let derived = self.luks.backend.derive(one.place(), &crate::Key::token(token));
                    opened(derived.map(drop), None)
                }
            });
        }
        if self.lock.is_none() {
            let deadline = Deadline::after(self.luks.timeout);
            self.lock = Some(self.luks.host.lock("luks", deadline).map_err(Error::Locked)?);
            self.luks.load_dm_crypt()?;
        }
        // Somebody else may have been faster while the key was derived.
        let mappings = self.luks.backend.mappings(&self.luks.host)?;
        let spec = crate::MappingSpec::by_uuid(one.name.clone(), one.header.uuid.clone());
        let found = Found::free(one.device.clone(), one.header.clone());
        if let Err(report) = resolve::one(&spec, &mappings, &[found], Purpose::Open) {
            return Ok(report.outcome);
        }
        let (backend, name) = (&*self.luks.backend, one.name.as_str());
        let header = one.header_place.as_deref();
        let opening = Opening { name, device: &one.device, header, flags: one.flags };
        log::debug!("luks: {one}");
        Ok(match key {
            Key::Volume { key, keyslot } => opened(backend.open(&opening, &key.into()), keyslot),
            Key::Token(token) => opened(backend.open(&opening, &crate::Key::token(token)), None),
            Key::Passphrases => self.try_each(one, |backend, secret| backend.open(&opening, &secret.into())),
        })
    }

    /// Tries each secret on a volume in reencryption.
    fn try_each(&self, one: &Planned, open: impl Fn(&dyn Backend, &Secret) -> Result<()>) -> Outcome {
        let backend = &*self.luks.backend;
        for secret in self.secrets {
            let tried = backend.check(one.place(), secret).and_then(|()| open(backend, secret));
            match tried {
                Ok(()) => return Outcome::Opened { keyslot: None },
                Err(error) if error.is_wrong_passphrase() => {}
                Err(error) => return Outcome::Failed(error.into()),
            }
        }
        Outcome::WrongKey
    }
}

fn opened(answer: Result<()>, keyslot: Option<u32>) -> Outcome {
    match answer {
        Ok(()) => Outcome::Opened { keyslot },
        Err(error) => Outcome::Failed(error.into()),
    }
}
