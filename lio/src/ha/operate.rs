//! The change from one node to the other.

use std::sync::mpsc;

use host::exec::Module;
use host::{Deadline, Iqn};

use super::gate::{Gate, Position};
use super::{GROUP, HaMode, HaPair, Side, flips};
use crate::error::{Error, Result};
use crate::plan::{self, Step};
use crate::spec::{AluaState, TargetSpec};
use crate::state::TARGET;
use crate::{Lio, apply};

/// What a node does for a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum HaState {
    /// It serves.
    Active,
    /// It is ready to, and initiators know that it does not.
    Standby,
    /// Commands wait in it; the disks are closed.
    Held,
    /// Something broke off: neither of the others. Takeover or standby lead out of it.
    Between,
    /// It has nothing of the pair.
    Absent,
}

impl Lio {
    /// Makes a node be ready for a pair: in the ALUA mode with the devices in front of the disks, the target, and the access state *standby*
    /// if all that is new; what serves goes on serving. In the floating mode there is nothing to be ready with, and nothing is done. Devices
    /// get the size of their disks. Says whether anything had to be changed.
    ///
    /// The disks need not be usable: a DRBD resource that is Secondary will do.
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure); [`Error::Mapper`] where device-mapper refuses.
    pub fn ensure_ha(&self, pair: &HaPair, side: Side) -> Result<bool> {
        let mut spec = pair.render(side)?;
        if pair.nodes.is_none() {
            return Ok(false);
        }
        if !self.tree().exists("/dev/mapper/control").map_err(Error::unreadable)? {
            crate::load(&self.host, Module::DM_MOD)?;
        }
        let dm = self.host.dm();
        let mut changed = false;
        for gate in self.gates(pair)? {
            match gate.look(dm)? {
                Position::Missing => gate.close_up(dm, self.tree())?,
                Position::Open if !gate.fits(dm)? => gate.grow(dm)?,
                Position::Closed if !gate.fits(dm)? => gate.close_up(dm, self.tree())?,
                _ => continue,
            }
            changed = true;
        }
        let there = self.get(&spec.iqn)?;
        let group = there.as_ref().and_then(|target| target.group(spec.tag));
        // Before anybody can log in: what leads nowhere must not say that it works.
        for (lun, disk) in &mut spec.luns {
            let known =
                group.is_some_and(|group| group.luns.get(lun).is_some_and(|lun| lun.backstore.is_some()));
            if let Some(group) = disk.alua.get_mut(&GROUP.parse()?).filter(|_| !known) {
                *group = group.clone().with_state(AluaState::Standby);
            }
        }
        Ok(self.ensure(&spec)? || changed)
    }

    /// Says what a node does for a pair. Reads only.
    ///
    /// # Errors
    /// A file cannot be read; [`Error::Mapper`].
    pub fn ha_state(&self, pair: &HaPair, side: Side) -> Result<HaState> {
        let spec = pair.render(side)?;
        let Some(target) = self.get(&spec.iqn)? else { return Ok(HaState::Absent) };
        if pair.nodes.is_none() {
            return Ok(if target.is_enabled() { HaState::Active } else { HaState::Between });
        }
        let files = self.state_files(&spec)?;
        let states =
            files.iter().map(|file| self.tree().read(file)).collect::<std::result::Result<Vec<_>, _>>();
        let optimized =
            states.map_err(Error::unreadable)?.iter().map(|state| state.trim() == "0").collect::<Vec<_>>();
        let dm = self.host.dm();
        let positions = self.gates(pair)?.iter().map(|gate| gate.look(dm)).collect::<Result<Vec<_>>>()?;
        let all = |is: Position| positions.iter().all(|position| *position == is);
        Ok(match () {
            () if all(Position::Open) && optimized.iter().all(|is| *is) => HaState::Active,
            () if all(Position::Closed) && optimized.iter().all(|is| !is) => HaState::Standby,
            () if all(Position::Held { open: false }) => HaState::Held,
            () => HaState::Between,
        })
    }

    /// Makes a node serve. Its disks must be usable: DRBD Primary here. Says whether it did not serve before.
    ///
    /// In the ALUA mode that is an exchange of two tables for each disk and a write of the access state; in the floating mode the whole target
    /// is made, and enabled last ([`ensure`](Self::ensure)). Commands that wait here because of a [`hold`](Self::hold) are answered with an
    /// error first, which initiators repeat: meanwhile they may have done on the other node what came after them.
    ///
    /// # Errors
    /// [`Error::NotFound`] without [`ensure_ha`](Self::ensure_ha), [`Error::Mapper`] where a disk cannot be opened: nothing serves then.
    /// [`Error::Late`] if the kernel does not answer in time.
    #[doc(alias = "alua_access_state")]
    pub fn takeover(&self, pair: &HaPair, side: Side, deadline: Deadline) -> Result<bool> {
        self.takeover_with(pair, side, deadline, || Ok::<_, Error>(()))
    }

    /// As [`takeover`](Self::takeover), with what makes the disks usable (DRBD's promotion) in between: initiators are told before that this
    /// node works, and their commands wait here until it does. The other node can so refuse its own at the moment it sees the promotion.
    ///
    /// Begin when the other node is known to be Secondary or dead. If `promote` fails, what waits is answered with an error and the node is on
    /// standby again.
    ///
    /// # Errors
    /// As [`takeover`](Self::takeover), and that of `promote`.
    pub fn takeover_with<E: From<Error>>(
        &self,
        pair: &HaPair,
        side: Side,
        deadline: Deadline,
        promote: impl FnOnce() -> std::result::Result<(), E>,
    ) -> std::result::Result<bool, E> {
        let spec = pair.render(side)?;
        if pair.nodes.is_none() {
            promote()?;
            let lio = self.clone();
            return Ok(within(deadline, "make the target", move || lio.ensure(&spec))?);
        }
        let _locks = self.lock()?;
        let files = self.state_files(&spec)?;
        let gates = self.gates(pair)?;
        let armed = self.arm(&gates)?;
        let told = self.set_states(&files, AluaState::Optimized)?;
        let opened = promote().and_then(|()| {
            let lio = self.clone();
            let gates = gates.clone();
            Ok(within(deadline, "open the disks", move || lio.open(&gates))?)
        });
        if opened.is_err() {
            // Not what was open before: a call too much harms nobody who serves.
            let back = self.set_states(&files, AluaState::Standby).and_then(|_| {
                gates
                    .iter()
                    .zip(&armed)
                    .filter(|(_, armed)| **armed)
                    .try_for_each(|(gate, _)| gate.go_on(self.host.dm()))
            });
            if let Err(stuck) = back {
                log::debug!("cannot go back to standby: {stuck}");
            }
        }
        Ok(opened? || told)
    }

    /// Stops a node from serving without telling initiators: their commands wait, those under way end, the disks are closed, so that DRBD can
    /// become Secondary here and Primary there. Says whether the node served. In the floating mode nothing can wait, and nothing is done.
    ///
    /// [`standby`](Self::standby) answers what waits with an error, [`takeover`](Self::takeover) too before it goes on. A process that dies in
    /// between leaves commands waiting: do not be longer about it than the initiators' time-out (30 s on Linux).
    ///
    /// # Errors
    /// [`Error::Late`] if the disk does not end what is under way (DRBD without quorum, a dead disk); it is held as soon as it does.
    pub fn hold(&self, pair: &HaPair, side: Side, deadline: Deadline) -> Result<bool> {
        pair.render(side)?;
        if pair.nodes.is_none() {
            return Ok(false);
        }
        let _locks = self.lock()?;
        self.close(self.gates(pair)?, deadline)
    }

    /// Stops a node from serving; says whether it served. In the ALUA mode: the access state first, then commands under way end, the disks are
    /// closed, and what came in between is answered with an error. In the floating mode the target is [removed](Self::remove_before).
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    pub fn standby(&self, pair: &HaPair, side: Side, deadline: Deadline) -> Result<bool> {
        let spec = pair.render(side)?;
        if pair.nodes.is_none() {
            return self.remove_before(&spec.iqn, deadline);
        }
        let _locks = self.lock()?;
        let told = self.set_states(&self.state_files(&spec)?, AluaState::Standby)?;
        let gates = self.gates(pair)?;
        let closed = self.close(gates.clone(), deadline)?;
        gates.iter().try_for_each(|gate| gate.go_on(self.host.dm()))?;
        Ok(told || closed)
    }

    /// As [`standby`](Self::standby), as a part of a move: commands wait ([`hold`](Self::hold)) while `hand_over` makes the disks the other
    /// node's (DRBD's demotion, and the wait for the other's promotion). Only then initiators are told that this node does not work, and
    /// what waited is answered with an error, so that they find the other one ready. In the floating mode the target is removed first.
    ///
    /// Also if `hand_over` fails the node is on standby afterwards.
    ///
    /// # Errors
    /// As [`hold`](Self::hold), and that of `hand_over`.
    pub fn standby_with<E: From<Error>>(
        &self,
        pair: &HaPair,
        side: Side,
        deadline: Deadline,
        hand_over: impl FnOnce() -> std::result::Result<(), E>,
    ) -> std::result::Result<bool, E> {
        let held = match pair.mode() {
            HaMode::Floating => self.standby(pair, side, deadline)?,
            HaMode::Alua => self.hold(pair, side, deadline)?,
        };
        let handed = hand_over();
        let stood = pair.nodes.is_some() && self.standby(pair, side, deadline)?;
        handed.map(|()| held || stood)
    }

    /// Removes all that a node has of a pair: the target, and in the ALUA mode the devices in front of the disks. Says whether there was any.
    /// Commands that wait because of a [`hold`](Self::hold) are answered with an error.
    ///
    /// # Errors
    /// As [`remove_before`](Self::remove_before), [`Error::Mapper`].
    pub fn remove_ha(&self, pair: &HaPair, side: Side, deadline: Deadline) -> Result<bool> {
        let spec = pair.render(side)?;
        if pair.nodes.is_none() {
            return self.remove_before(&spec.iqn, deadline);
        }
        let dm = self.host.dm();
        let gates = pair.target.luns.values().map(Gate::named).collect::<Result<Vec<_>>>()?;
        for gate in &gates {
            // What waits in it would be waited for.
            if let Position::Held { .. } = gate.look(dm)? {
                gate.go_on(dm)?;
            }
        }
        let mut there = self.remove_before(&spec.iqn, deadline)?;
        for gate in &gates {
            there |= gate.remove(dm, self.tree())?;
        }
        Ok(there)
    }

    /// As [`remove`](Self::remove), and gives up at the deadline: LIO waits for commands under way, and with a disk that does not answer (DRBD
    /// without quorum, a dead path) for ever, where no signal reaches it.
    ///
    /// What was begun goes on in a thread of its own, which keeps the lock, and ends when the disk answers or is made to fail: resume it, let
    /// DRBD give up (`drbdsetup resume-io`), or exchange its device-mapper table for `error`. No directory is removed before all unlinks have
    /// come back, so that other targets can be configured meanwhile by other tools. A process with such a thread cannot end before that, and
    /// who reads the attributes of this portal group waits too (`tpg_access_lock`, `iscsi_target_configfs.c`).
    ///
    /// # Errors
    /// [`Error::Late`] says at which step it waits; else as [`remove`](Self::remove).
    pub fn remove_before(&self, iqn: &Iqn, deadline: Deadline) -> Result<bool> {
        let dir = plan::target_path(self.fabric, iqn);
        let lio = self.clone();
        let iqn = iqn.clone();
        let removed = within(deadline, "remove the target", move || lio.remove(&iqn));
        match removed {
            Err(Error::Late { .. }) => Err(Error::Late { doing: self.waiting(&dir) }),
            other => other,
        }
    }

    /// Where a removal waits: `enable=0` does for the sessions' commands, an unlink for the LUN's (`transport_clear_lun_ref`).
    fn waiting(&self, dir: &str) -> String {
        let enabled = |group: &String| {
            let text = self.tree().read_opt(format!("{dir}/{group}/enable")).ok().flatten();
            text.is_some_and(|text| text.trim() == "1")
        };
        let groups = self.tree().dirs(dir).unwrap_or_default();
        let what = match groups.iter().find(|group| enabled(group)) {
            Some(group) => format!("{group} is being disabled, and its sessions have commands under way"),
            None => "it serves nobody any more, and a LUN has commands under way".to_owned(),
        };
        format!("remove {dir}: {what}; make its disk answer or fail, and it goes on")
    }

    fn gates(&self, pair: &HaPair) -> Result<Vec<Gate>> {
        pair.target.luns.values().map(|disk| Gate::of(self.tree(), disk)).collect()
    }

    /// The files to write an access state to.
    fn state_files(&self, spec: &TargetSpec) -> Result<Vec<String>> {
        let group = format!("{}/tpgt_{}", plan::target_path(spec.fabric, &spec.iqn), spec.tag);
        let dir = |lun| {
            let name = spec.link_names.get(lun).map_or("backstore", |name| name.as_str());
            match self.tree().read_link(format!("{group}/lun/lun_{lun}/{name}")) {
                Ok(to) => {
                    let mut parts = to.iter().rev().map(|part| part.to_string_lossy().into_owned());
                    let (name, adapter) =
                        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                    Ok(format!("{TARGET}/core/{adapter}/{name}"))
                }
                Err(error) if error.is_not_found() => Err(Error::NotFound { iqn: spec.iqn.to_string() }),
                Err(error) => Err(Error::unreadable(error)),
            }
        };
        let disks = spec.luns.iter().map(|(lun, disk)| Ok((disk, dir(lun)?))).collect::<Result<Vec<_>>>()?;
        Ok(flips(disks))
    }

    /// Writes the state where it is another; says whether it was.
    fn set_states(&self, files: &[String], state: AluaState) -> Result<bool> {
        let (mut changed, value) = (false, state.number().to_string());
        for file in files {
            if self.tree().read(file).map_err(Error::unreadable)?.trim() != value {
                apply::run(self.tree(), &Step::write(file, &value, None))?;
                changed = true;
            }
        }
        Ok(changed)
    }

    /// Lets commands wait in what is closed, for what is about to be opened; says which were closed. What has waited before is answered with an
    /// error: nobody knows for how long.
    fn arm(&self, gates: &[Gate]) -> Result<Vec<bool>> {
        let dm = self.host.dm();
        let one = |gate: &Gate| {
            let position = gate.look(dm)?;
            match position {
                Position::Open => return Ok(false),
                // The disk was never closed, nobody else had it: what waits goes to it.
                Position::Held { open: true } => return gate.go_on(dm).map(|()| false),
                Position::Held { open: false } => gate.go_on(dm)?,
                Position::Closed => {}
                Position::Missing => return Err(gate.missing()),
            }
            gate.arm(dm).map(|()| true)
        };
        gates.iter().map(one).collect()
    }

    /// Opens all or none; says whether one was not open.
    fn open(&self, gates: &[Gate]) -> Result<bool> {
        let dm = self.host.dm();
        let mut opened = Vec::new();
        for gate in gates {
            if gate.look(dm)? == Position::Open {
                continue;
            }
            if let Err(error) = gate.open(dm) {
                for gate in opened {
                    if let Err(stuck) = Gate::hold(gate, dm) {
                        log::debug!("cannot close again: {stuck}");
                    }
                }
                return Err(error);
            }
            opened.push(gate);
        }
        Ok(!opened.is_empty())
    }

    /// Closes all, commands waiting; says whether one was not closed.
    fn close(&self, gates: Vec<Gate>, deadline: Deadline) -> Result<bool> {
        let dm = self.host.dm().clone();
        within(deadline, "end the commands under way; the disk does not answer", move || {
            let mut changed = false;
            for gate in &gates {
                if matches!(gate.look(&dm)?, Position::Open | Position::Held { open: true }) {
                    gate.hold(&dm)?;
                    changed = true;
                }
            }
            Ok(changed)
        })
    }
}

/// Does something in a thread of its own, and gives up waiting for it at the deadline.
fn within<T: Send + 'static>(
    deadline: Deadline,
    doing: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (tell, told) = mpsc::channel();
    let started = std::thread::Builder::new().name("lio".to_owned()).spawn(move || drop(tell.send(work())));
    if let Err(source) = started {
        return Err(Error::Mapper {
            doing: doing.to_owned(),
            fix: "no thread can be started".to_owned(),
            source,
        });
    }
    match told.recv_timeout(deadline.left()) {
        Ok(done) => done,
        Err(_) => Err(Error::Late { doing: doing.to_owned() }),
    }
}
