//! What an attach has done, and how it is taken back when a later step fails.

use std::net::SocketAddr;
use std::time::Duration;

use host::exec::Program;
use host::{Deadline, Iqn, Wwid};

use super::told;
use crate::Initiator;
use crate::error::{Error, Result};
use crate::records::Changed;
use crate::state::SessionState;

/// What this call has made so far; nothing that was there before is in it.
#[derive(Debug)]
pub(super) struct Undo {
    target: Iqn,
    sessions_before: Vec<u32>,
    disks_before: Vec<String>,
    disks: Vec<String>,
    /// Portals at which we tried to log in.
    pub(super) tried: Vec<SocketAddr>,
    /// Records that were written.
    pub(super) records: Vec<Changed>,
    /// A disk that was put on multipathd's list.
    pub(super) remembered: Option<Wwid>,
    /// A map that was not there.
    pub(super) map: Option<Wwid>,
}

impl Undo {
    pub(super) fn new(target: &Iqn, sessions: &[SessionState]) -> Self {
        Self {
            target: target.clone(),
            sessions_before: sessions.iter().map(|s| s.id).collect(),
            disks_before: sessions.iter().flat_map(|s| &s.disks).map(|d| d.device.clone()).collect(),
            disks: Vec::new(),
            tried: Vec::new(),
            records: Vec::new(),
            remembered: None,
            map: None,
        }
    }

    /// A disk of the target that is there now.
    pub(super) fn saw(&mut self, device: &str) {
        let known = |list: &[String]| list.iter().any(|d| d == device);
        if !known(&self.disks_before) && !known(&self.disks) {
            self.disks.push(device.to_owned());
        }
    }
}

impl Initiator {
    /// Takes back what was done. The cause comes back; or an error that names what is left, with the cause in it.
    pub(super) fn take_back(&self, undo: Undo, cause: Error) -> Error {
        log::debug!("multipath: {}; taking back {undo:?}", told(&cause));
        let deadline = Deadline::after(Duration::from_secs(30));
        let mut left = Vec::new();
        let mut note = |what: &str, result: Result<()>| {
            if let Err(error) = result {
                left.push(format!("{what} ({})", told(&error)));
            }
        };
        if let Some(wwid) = &undo.map {
            note(&format!("the map of {wwid}"), self.remove_new_map(wwid, deadline));
        }
        for disk in &undo.disks {
            note(disk, self.poke(&format!("/sys/block/{disk}/device/delete"), "1"));
        }
        match self.sessions() {
            Ok(now) => {
                let ours = |s: &&SessionState| {
                    s.target == undo.target
                        && !undo.sessions_before.contains(&s.id)
                        && s.portal.is_some_and(|portal| undo.tried.contains(&portal))
                };
                let ours: Vec<_> = now.iter().filter(ours).collect();
                for (session, result) in self.logout_all(&ours, deadline) {
                    note(&format!("session {session}"), result);
                }
            }
            Err(error) => note("sessions", Err(error)),
        }
        note("node records", self.records().restore(undo.records, deadline));
        if let Some(wwid) = &undo.remembered {
            note(&format!("{wwid} on multipathd's list"), self.forget(wwid, deadline));
        }
        if left.is_empty() {
            return cause;
        }
        Error::NotUndone { left: left.join(", "), source: Box::new(cause) }
    }

    /// Logs out of sessions, all at once; each with its outcome.
    pub(super) fn logout_all(
        &self,
        sessions: &[&SessionState],
        deadline: Deadline,
    ) -> Vec<(u32, Result<()>)> {
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                sessions.iter().map(|s| (s.id, scope.spawn(|| self.logout(s, deadline)))).collect();
            threads
                .into_iter()
                .map(|(id, thread)| {
                    let panicked = |_| {
                        Err(Error::Invalid {
                            object: format!("session {id}"),
                            reason: "it panicked".to_owned(),
                        })
                    };
                    (id, thread.join().unwrap_or_else(panicked))
                })
                .collect()
        })
    }

    fn logout(&self, session: &SessionState, deadline: Deadline) -> Result<()> {
        let id = session.id.to_string();
        match self.host.exec().run_ok(Program::ISCSIADM, &["-m", "session", "-r", &id, "-u"], deadline) {
            Ok(_) => Ok(()),
            // 2, 21: there is no such session any more.
            Err(error) if matches!(error.code(), Some(2 | 21)) => Ok(()),
            Err(source) => Err(Error::Logout { target: session.target.clone(), session: session.id, source }),
        }
    }
}
