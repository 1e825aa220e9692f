//! A set being unlocked: worker threads derive, the calling thread opens.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};

use host::{Bytes, Deadline, Lock, Secret};

use super::budget::Gate;
use super::{Budget, Event, OnWrongKey, Outcome, Planned, Purpose, Report, UnlockSet, resolve};
use crate::Luks;
use crate::apply::{Backend, Opening};
use crate::error::{Error, Result};
use crate::header::{Found, Keyslot};
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
        keyslot: u32,
        key: VolumeKey,
    },
    /// A volume in reencryption has two volume keys: the library must have the passphrase.
    Passphrases,
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
    // The longest first: one that is begun last keeps the others waiting for its end.
    let mut order: Vec<usize> = (0..planned.len()).collect();
    order.sort_by_key(|n| std::cmp::Reverse(planned.get(*n).map(|(_, one)| one.weight())));
    let work = Work {
        backend: &*luks.backend,
        secrets,
        planned: &planned,
        queue: Mutex::new(order.into()),
        gate: Gate::new(budget),
        budget,
        deadline: Deadline::after(set.timeout),
        on_wrong_key: set.on_wrong_key,
        stop: &stop,
        lucky: AtomicUsize::new(0),
    };
    let workers = planned.len().min(usize::try_from(budget.lanes).unwrap_or(1));
    let mut opener = Opener { set, luks, secrets, lock: None };
    std::thread::scope(|scope| -> Result<()> {
        let (sender, messages) = mpsc::channel();
        for _ in 0..workers {
            let (sender, work) = (sender.clone(), &work);
            scope.spawn(move || work.all(&sender));
        }
        drop(sender);
        let mut failed = Ok(());
        for message in messages {
            let (number, outcome) = match message {
                Message::Deriving(number, keyslot) => {
                    if let Some((_, one)) = planned.get(number) {
                        tell(&Event::Deriving { name: &one.name, keyslot });
                    }
                    continue;
                }
                Message::Failed(number, outcome) => (number, outcome),
                Message::Found(number, key) => {
                    match planned.get(number).map(|(_, one)| opener.open(one, key)) {
                        Some(Ok(outcome)) => (number, outcome),
                        // No lock or no module: nothing can be opened, and the workers are told to end.
                        Some(Err(error)) => {
                            stop.store(true, Ordering::SeqCst);
                            failed = Err(error);
                            continue;
                        }
                        None => continue,
                    }
                }
            };
            let Some((place, one)) = planned.get(number) else { continue };
            let report = Report { name: one.name.clone(), device: Some(one.device.clone()), outcome };
            finished += 1;
            tell(&Event::Finished { report: &report, finished, total });
            if let Some(slot) = reports.get_mut(*place) {
                *slot = Some(report);
            }
        }
        failed
    })?;
    Ok(reports.into_iter().flatten().collect())
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
        for which in (0..count).map(|n| (n + first) % count) {
            let Some(secret) = self.secrets.get(which) else { continue };
            for slot in &small {
                if self.stop.load(Ordering::SeqCst) {
                    return Err(Outcome::NotTried);
                }
                match self.derive(number, one, slot, secret, to)? {
                    Some(key) => {
                        self.lucky.store(which, Ordering::SeqCst);
                        return Ok(Key::Volume { keyslot: slot.number, key });
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
        let mut result = self.backend.derive(&one.device, slot, secret);
        drop(pass);
        if matches!(result, Err(Error::NoMemory { .. })) {
            let _pass = self.gate.alone(self.deadline).ok_or(Outcome::TimedOut)?;
            result = self.backend.derive(&one.device, slot, secret);
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
        let keyslot = match &key {
            Key::Volume { keyslot, .. } => Some(*keyslot),
            Key::Passphrases => None,
        };
        if self.set.purpose == Purpose::Check {
            return Ok(match (key, self.secrets) {
                (Key::Volume { .. }, _) => Outcome::Opened { keyslot },
                (Key::Passphrases, secrets) => self.try_each(one, secrets, |_, _| Ok(())),
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
        let opening = Opening { name, device: &one.device, header: None, flags: one.flags };
        log::debug!("luks: open {} as {name}", one.device.display());
        Ok(match key {
            Key::Volume { key, .. } => match backend.open(&opening, &key.into()) {
                Ok(()) => Outcome::Opened { keyslot },
                Err(error) => Outcome::Failed(error.into()),
            },
            Key::Passphrases => {
                self.try_each(one, self.secrets, |backend, secret| backend.open(&opening, &secret.into()))
            }
        })
    }

    /// Tries each secret on a volume in reencryption.
    fn try_each(
        &self,
        one: &Planned,
        secrets: &[Secret],
        open: impl Fn(&dyn Backend, &Secret) -> Result<()>,
    ) -> Outcome {
        let backend = &*self.luks.backend;
        for secret in secrets {
            let tried = backend.check(&one.device, secret).and_then(|()| open(backend, secret));
            match tried {
                Ok(()) => return Outcome::Opened { keyslot: None },
                Err(error) if error.is_wrong_passphrase() => {}
                Err(error) => return Outcome::Failed(error.into()),
            }
        }
        Outcome::WrongKey
    }
}
