//! Commands on a volume that is up.

use super::{CHANGED, Cluster, NOTHING_TO_DO, OK, Place, Verdict, Vol};
use crate::{DiskState, ReplState};

impl Cluster {
    fn vol_mut(&mut self, place: &Place, volume: u16) -> Option<&mut Vol> {
        self.get_mut(place)?.volumes.get_mut(&volume)
    }

    /// A volume and its counterpart, if that is connected.
    fn both(&self, node: usize, minor: u32) -> Option<(Place, u16, Option<Place>)> {
        let (place, volume) = self.find(node, minor)?;
        let partner = self.partner(&place);
        Some((place, volume, partner))
    }

    pub(in crate::fake) fn invalidate(&mut self, node: usize, minor: u32, the_peers: bool) -> Verdict {
        let Some((place, volume, partner)) = self.both(node, minor) else { return (127, "unknown minor") };
        let Some(partner) = partner else {
            let Some(vol) = self.vol_mut(&place, volume).filter(|_| !the_peers) else { return (-15, "") };
            if vol.primary {
                return (-2, "");
            }
            vol.disk = DiskState::Inconsistent;
            return CHANGED;
        };
        let (source, target) = if the_peers { (&place, &partner) } else { (&partner, &place) };
        let vol = |place: &Place| self.get(place).and_then(|res| res.volumes.get(&volume));
        if vol(&place).is_some_and(|v| v.repl.is_syncing()) {
            return (-8, "");
        }
        if vol(source).is_none_or(|v| v.disk != DiskState::UpToDate) {
            return (-2, "");
        }
        self.start_sync(source, target, volume);
        CHANGED
    }

    /// Takes no time.
    pub(in crate::fake) fn verify(&mut self, node: usize, minor: u32) -> Verdict {
        let Some((place, volume, partner)) = self.both(node, minor) else { return (127, "unknown minor") };
        let net = self.get(&place).and_then(|res| res.net.as_ref());
        let has_alg = net.is_some_and(|net| net.options.get("verify-alg").is_some_and(|alg| !alg.is_empty()));
        let Some(partner) = partner else { return (-15, "") };
        if !has_alg {
            return (-14, "");
        }
        let differs = self.vol_mut(&place, volume).map_or(0, |vol| vol.differs);
        for place in [&place, &partner] {
            if let Some(vol) = self.vol_mut(place, volume) {
                vol.out_of_sync = differs;
            }
        }
        CHANGED
    }

    pub(in crate::fake) fn pause(&mut self, node: usize, minor: u32, pause: bool) -> Verdict {
        let Some((place, volume, partner)) = self.both(node, minor) else { return (127, "unknown minor") };
        let Some(vol) = self.vol_mut(&place, volume) else { return (127, "") };
        if vol.paused == pause {
            return (if pause { 134 } else { 135 }, "");
        }
        vol.paused = pause;
        for place in [Some(place), partner].into_iter().flatten() {
            if let Some(vol) = self.vol_mut(&place, volume) {
                vol.repl = match (vol.repl, pause) {
                    (ReplState::SyncSource, true) => ReplState::PausedSyncS,
                    (ReplState::SyncTarget, true) => ReplState::PausedSyncT,
                    (ReplState::PausedSyncS, false) => ReplState::SyncSource,
                    (ReplState::PausedSyncT, false) => ReplState::SyncTarget,
                    (other, _) => other,
                };
            }
        }
        OK
    }

    pub(in crate::fake) fn suspend(&mut self, node: usize, minor: u32, suspend: bool) -> Verdict {
        let Some((place, _)) = self.find(node, minor) else { return (127, "unknown minor") };
        let Some(res) = self.get_mut(&place) else { return (127, "") };
        if res.suspended == suspend {
            return NOTHING_TO_DO;
        }
        res.suspended = suspend;
        CHANGED
    }

    pub(in crate::fake) fn resize(&mut self, node: usize, minor: u32, size: u64) -> Verdict {
        let Some((place, volume, partner)) = self.both(node, minor) else { return (127, "unknown minor") };
        let places: Vec<Place> = [Some(place), partner].into_iter().flatten().collect();
        let is_primary = |place: &Place| self.get(place).is_some_and(super::Res::is_primary);
        if !places.iter().any(is_primary) {
            return (131, "");
        }
        let room = |place: &Place| {
            let res = self.get(place)?;
            let path = &res.volumes.get(&volume)?.backing.as_ref()?.path;
            Some(super::room(self.nodes.get(place.0)?.disks.get(path)?.size))
        };
        let room = places.iter().filter_map(room).min().unwrap_or_default();
        if size > room {
            return (111, "");
        }
        for place in &places {
            if let Some(vol) = self.vol_mut(place, volume) {
                vol.size = if size == 0 { room } else { size };
            }
        }
        OK
    }

    pub(in crate::fake) fn new_current_uuid(&mut self, node: usize, minor: u32, clear: bool) -> Verdict {
        let Some((place, volume, partner)) = self.both(node, minor) else { return (127, "unknown minor") };
        let fresh = self.new_generation();
        let places: Vec<Place> = [Some(place), partner].into_iter().flatten().collect();
        if clear && places.len() < 2 {
            return (151, "");
        }
        for place in &places {
            let Some(vol) = self.vol_mut(place, volume) else { continue };
            vol.bitmap = if clear { 0 } else { vol.current };
            vol.current = fresh;
            if clear {
                vol.disk = DiskState::UpToDate;
            }
        }
        OK
    }

    pub(in crate::fake) fn outdate(&mut self, node: usize, minor: u32) -> Verdict {
        let Some((place, volume, partner)) = self.both(node, minor) else { return (127, "unknown minor") };
        let Some(vol) = self.vol_mut(&place, volume) else { return (127, "") };
        match vol.disk {
            _ if partner.is_some() => NOTHING_TO_DO,
            DiskState::Outdated => NOTHING_TO_DO,
            DiskState::UpToDate | DiskState::Consistent => {
                vol.disk = DiskState::Outdated;
                CHANGED
            }
            _ => (-16, ""),
        }
    }
}
