//! What two connected ends do: agree, decide whose data is newer, sync.

use super::{Cluster, JUST_CREATED, Place, Vol};
use crate::{ConnState, DiskState, ReplState};

impl Cluster {
    /// Brings connections to what both ends and the network allow.
    pub(in crate::fake) fn settle(&mut self) {
        for place in self.places() {
            let other = self.other_end(&place).filter(|_| !self.is_cut);
            let Some(state) = self.get(&place).and_then(|res| res.net.as_ref()).map(|net| net.state) else {
                continue;
            };
            match (state, other) {
                (ConnState::Connected, None) => {
                    self.set_state(&place, ConnState::Connecting);
                    self.lost(&place);
                }
                (ConnState::Connecting, Some(other)) if self.agree(&place, &other) => {
                    self.set_state(&place, ConnState::Connected);
                    self.set_state(&other, ConnState::Connected);
                    self.handshake(&place);
                }
                (ConnState::Connecting, Some(other)) => {
                    // Different secrets or protocols: neither comes back by itself.
                    self.forget(&place);
                    self.forget(&other);
                }
                _ => {}
            }
        }
    }

    fn agree(&self, a: &Place, b: &Place) -> bool {
        let options = |place| self.get(place).and_then(|res| res.net.as_ref()).map(|net| &net.options);
        let (Some(a), Some(b)) = (options(a), options(b)) else { return false };
        a.shared_secret() == b.shared_secret()
            && ["protocol", "cram-hmac-alg", "allow-two-primaries"]
                .iter()
                .all(|name| a.get(name) == b.get(name))
    }

    fn set_state(&mut self, place: &Place, state: ConnState) {
        if let Some(net) = self.get_mut(place).and_then(|res| res.net.as_mut()) {
            net.state = state;
        }
    }

    fn forget(&mut self, place: &Place) {
        if let Some(res) = self.get_mut(place) {
            res.net = None;
        }
        self.lost(place);
    }

    /// Decides, for each volume of a connected pair, who has the newer data.
    pub(super) fn handshake(&mut self, place: &Place) {
        let Some(partner) = self.partner(place) else { return };
        let numbers: Vec<u16> =
            self.get(place).map(|res| res.volumes.keys().copied().collect()).unwrap_or_default();
        for number in numbers {
            let vol = |place| self.get(place).and_then(|res| res.volumes.get(&number)).cloned();
            let (Some(mine), Some(theirs)) = (vol(place), vol(&partner)) else { continue };
            if mine.backing.is_none() || theirs.backing.is_none() || mine.repl.is_syncing() {
                continue;
            }
            let discards = |place| {
                let net = self.get(place).and_then(|res| res.net.as_ref());
                net.is_some_and(|net| net.options.discards_my_data())
            };
            match direction(&mine, &theirs) {
                Some(0) => {}
                Some(1) => self.start_sync(place, &partner, number),
                Some(_) => self.start_sync(&partner, place, number),
                None => {
                    let (we, they) = (discards(place), discards(&partner));
                    self.call(place, &partner, number, "initial-split-brain");
                    if we == they {
                        self.call(place, &partner, number, "split-brain");
                        self.forget(place);
                        self.forget(&partner);
                        return;
                    }
                    let (source, target) = if we { (&partner, place) } else { (place, &partner) };
                    self.start_sync(source, target, number);
                }
            }
        }
    }

    fn call(&mut self, place: &Place, partner: &Place, number: u16, helper: &'static str) {
        for place in [place, partner] {
            let vol = self.get(place).and_then(|res| res.volumes.get(&number));
            let minor = vol.map_or(u32::MAX, |vol| vol.minor);
            self.calls.push((place.clone(), number, minor, helper));
        }
    }

    pub(super) fn start_sync(&mut self, source: &Place, target: &Place, number: u16) {
        for (place, repl) in [(source, ReplState::SyncSource), (target, ReplState::SyncTarget)] {
            if let Some(vol) = self.get_mut(place).and_then(|res| res.volumes.get_mut(&number)) {
                vol.repl = repl;
                vol.disk =
                    if repl == ReplState::SyncSource { DiskState::UpToDate } else { DiskState::Inconsistent };
                vol.total = vol.size;
                vol.out_of_sync = vol.size;
            }
        }
    }

    /// Moves a resync on by a part of the whole; ends it when nothing is left.
    pub(in crate::fake) fn sync(&mut self, place: &Place, one_in: u64) {
        let Some(partner) = self.partner(place) else { return };
        let numbers: Vec<u16> =
            self.get(place).map(|res| res.volumes.keys().copied().collect()).unwrap_or_default();
        for number in numbers {
            let vol = |place| self.get(place).and_then(|res| res.volumes.get(&number)).cloned();
            let (Some(mine), Some(theirs)) = (vol(place), vol(&partner)) else { continue };
            if !mine.repl.is_syncing() || matches!(mine.repl, ReplState::PausedSyncS | ReplState::PausedSyncT)
            {
                continue;
            }
            let step = (mine.total / one_in.max(1)).max(1);
            let left = mine.out_of_sync.saturating_sub(step);
            let source = if mine.repl == ReplState::SyncSource { mine } else { theirs };
            for place in [place, &partner] {
                let Some(vol) = self.get_mut(place).and_then(|res| res.volumes.get_mut(&number)) else {
                    continue;
                };
                vol.out_of_sync = left;
                if left == 0 {
                    vol.repl = ReplState::Established;
                    vol.disk = DiskState::UpToDate;
                    (vol.current, vol.bitmap) = (source.current, 0);
                }
            }
        }
    }
}

/// Which of two disks is the source: 0 neither, 1 the first, 2 the second; `None` if they are of different descent.
fn direction(mine: &Vol, theirs: &Vol) -> Option<u8> {
    let new = |vol: &Vol| vol.current == JUST_CREATED;
    let whole = |vol: &Vol| vol.disk == DiskState::UpToDate;
    match (new(mine), new(theirs)) {
        (true, true) => return Some(0),
        (true, false) => return Some(2),
        (false, true) => return Some(1),
        (false, false) => {}
    }
    if mine.current == theirs.current {
        return Some(match (whole(mine), whole(theirs)) {
            (true, false) => 1,
            (false, true) => 2,
            _ => 0,
        });
    }
    if mine.bitmap == theirs.current {
        return Some(1);
    }
    if theirs.bitmap == mine.current {
        return Some(2);
    }
    match (whole(mine), whole(theirs)) {
        (true, false) if mine.bitmap == 0 => Some(1),
        (false, true) if theirs.bitmap == 0 => Some(2),
        _ => None,
    }
}
