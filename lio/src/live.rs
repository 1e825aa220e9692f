//! Who uses a target and how much: sessions from all that tells of them, counters, rates, logins that failed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use host::{Iqn, Tree};

use crate::error::{Error, Result};
use crate::name::{Lun, Tag};
use crate::spec::Fabric;
use crate::state::TargetState;
use crate::wire::session::{ConnectionState, SessionState};
use crate::wire::tcp;
use crate::{Lio, plan};

/// What has gone through a LUN, or through it for one initiator, since it was made. The kernel counts whole MiB, and never from zero again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Counters {
    /// Commands.
    pub commands: u64,
    /// MiB read.
    pub read_mib: u64,
    /// MiB written.
    pub written_mib: u64,
}

impl Counters {
    /// What came since then. A LUN that was made anew in between counts from zero.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        match self.commands < before.commands {
            true => self,
            false => Self {
                commands: self.commands - before.commands,
                read_mib: self.read_mib.saturating_sub(before.read_mib),
                written_mib: self.written_mib.saturating_sub(before.written_mib),
            },
        }
    }
}

/// How fast something goes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Rates {
    /// Commands per second.
    pub commands: f64,
    /// MiB read per second.
    pub read_mib: f64,
    /// MiB written per second.
    pub written_mib: f64,
}

impl Rates {
    #[allow(clippy::cast_precision_loss)] // Nobody needs 16 digits of a rate.
    fn of(counted: Counters, time: Duration) -> Self {
        let seconds = time.as_secs_f64().max(1e-6);
        let per = |n: u64| n as f64 / seconds;
        Self {
            commands: per(counted.commands),
            read_mib: per(counted.read_mib),
            written_mib: per(counted.written_mib),
        }
    }
}

/// Why a login failed (`last_fail_type`, `iscsi_target_stat.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum LoginFault {
    /// The target did not serve, or went away in the middle.
    Unavailable,
    /// It was sent elsewhere.
    Redirected,
    /// It has no ACL, or asked for a target that is not there.
    Forbidden,
    /// Its password, or the method, was wrong.
    WrongPassword,
    /// The two sides could not agree on parameters.
    Negotiation,
    /// Another reason.
    Other(u32),
}

impl LoginFault {
    fn of(number: u32) -> Self {
        match number {
            2 => Self::Unavailable,
            3 => Self::Redirected,
            4 => Self::Forbidden,
            5 => Self::WrongPassword,
            6 => Self::Negotiation,
            n => Self::Other(n),
        }
    }
}

impl std::fmt::Display for LoginFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "the target did not serve at that moment",
            Self::Redirected => "it was sent elsewhere",
            Self::Forbidden => "it has no ACL here",
            Self::WrongPassword => "its password or authentication method was wrong",
            Self::Negotiation => "the two sides could not agree on parameters",
            Self::Other(n) => return write!(f, "reason {n}"),
        })
    }
}

/// The last login that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LoginFailure {
    /// Who tried, where it got as far as saying so.
    pub initiator: Option<Iqn>,
    /// From where.
    pub address: Option<IpAddr>,
    /// Why it failed.
    pub fault: LoginFault,
    /// When, since the machine was started.
    pub since_boot: Duration,
}

/// Logins of a target since it was made (`fabric_statistics/iscsi_login_stats`, `iscsi_tgt_attr`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Logins {
    /// Those that succeeded.
    pub accepted: u32,
    /// Those without an ACL.
    pub forbidden: u32,
    /// Those with a wrong password.
    pub wrong_password: u32,
    /// Those that did not agree on parameters.
    pub negotiation: u32,
    /// Those that were sent elsewhere.
    pub redirected: u32,
    /// Those that failed for another reason.
    pub other: u32,
    /// The last one that failed.
    pub last_failure: Option<LoginFailure>,
}

/// Who uses a target, and what they have moved.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Usage {
    /// The sessions, as [`Lio::sessions`] has them.
    pub sessions: Vec<SessionState>,
    /// How many there are by the kernel's own count. More than [`sessions`](Self::sessions) where an initiator has several from addresses
    /// that nobody else told of.
    pub session_count: u32,
    /// By portal group and LUN.
    pub luns: BTreeMap<(Tag, Lun), Counters>,
    /// By initiator and the LUN as it sees it; those with an ACL.
    pub initiators: BTreeMap<(Iqn, Lun), Counters>,
    /// Logins.
    pub logins: Logins,
}

/// One look of a [`Sampler`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// What was seen.
    pub usage: Usage,
    /// The time since the look before; zero at the first, which has no rates.
    pub elapsed: Duration,
    /// By portal group and LUN.
    pub luns: BTreeMap<(Tag, Lun), Rates>,
    /// By initiator and the LUN as it sees it.
    pub initiators: BTreeMap<(Iqn, Lun), Rates>,
}

/// Looks at a target again and again: what came in between, as rates. The kernel tells nobody when these numbers change.
///
/// ```no_run
/// # use std::time::Duration;
/// let lio = lio::Lio::new()?;
/// let mut sampler = lio.sampler("iqn.2026-01.com.example:r0".parse()?);
/// sampler.sample()?;
/// lio::Deadline::never().pause(Duration::from_secs(1));
/// for ((tag, lun), rates) in sampler.sample()?.luns {
///     println!("{tag} {lun}: {:.0} commands/s, {:.1} MiB/s written", rates.commands, rates.written_mib);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    lio: Lio,
    iqn: Iqn,
    before: Option<(Instant, Usage)>,
}

impl Sampler {
    /// Looks once.
    ///
    /// # Errors
    /// As [`Lio::usage`].
    pub fn sample(&mut self) -> Result<Sample> {
        let (usage, now) = (self.lio.usage(&self.iqn)?, Instant::now());
        let mut sample =
            Sample { usage, elapsed: Duration::ZERO, luns: BTreeMap::new(), initiators: BTreeMap::new() };
        if let Some((then, before)) = &self.before {
            sample.elapsed = now.duration_since(*then);
            sample.luns = rates(&before.luns, &sample.usage.luns, sample.elapsed);
            sample.initiators = rates(&before.initiators, &sample.usage.initiators, sample.elapsed);
        }
        self.before = Some((now, sample.usage.clone()));
        Ok(sample)
    }
}

fn rates<K: Ord + Clone>(
    before: &BTreeMap<K, Counters>,
    now: &BTreeMap<K, Counters>,
    time: Duration,
) -> BTreeMap<K, Rates> {
    let rate = |(key, now): (&K, &Counters)| {
        let before = before.get(key).copied().unwrap_or_default();
        (key.clone(), Rates::of(now.since(before), time))
    };
    now.iter().map(rate).collect()
}

impl Lio {
    /// Lists who is logged in, from all that tells of it: of an initiator with an ACL the kernel shows the newest session only (`info`), of
    /// those without the names (`dynamic_sessions`); the other sessions of a multipath initiator are found by their TCP connections to the
    /// portals, and have no more than an address. `targetcli sessions` shows the first kind.
    ///
    /// # Errors
    /// [`Error::NotFound`], or a file cannot be read.
    pub fn sessions(&self, iqn: &Iqn) -> Result<Vec<SessionState>> {
        let target = self.get(iqn)?.ok_or_else(|| Error::NotFound { iqn: iqn.to_string() })?;
        sessions(self.tree(), target)
    }

    /// Reads who uses an iSCSI target, what has gone through its LUNs, and which logins failed and why.
    ///
    /// # Errors
    /// [`Error::NotFound`], or a file cannot be read.
    pub fn usage(&self, iqn: &Iqn) -> Result<Usage> {
        let target = self.get(iqn)?.ok_or_else(|| Error::NotFound { iqn: iqn.to_string() })?;
        let dir = plan::target_path(Fabric::Iscsi, iqn);
        let (mut luns, mut initiators) = (BTreeMap::new(), BTreeMap::new());
        for group in &target.groups {
            let path = format!("{dir}/{}", group.dir);
            for lun in group.luns.keys() {
                let from = format!("{path}/lun/lun_{lun}/statistics/scsi_tgt_port");
                luns.extend(counters(self.tree(), &from, "in_cmds")?.map(|found| ((group.tag, *lun), found)));
            }
            for (name, acl) in &group.acls {
                for lun in acl.luns.keys() {
                    let from = format!("{path}/acls/{name}/lun_{lun}/statistics/scsi_auth_intr");
                    let found = counters(self.tree(), &from, "num_cmds")?;
                    initiators.extend(found.map(|found| ((name.clone(), *lun), found)));
                }
            }
        }
        let logins = logins(self.tree(), &format!("{dir}/fabric_statistics"))?;
        let session_count = target.session_count.unwrap_or(0);
        Ok(Usage { sessions: sessions(self.tree(), target)?, session_count, luns, initiators, logins })
    }

    /// Begins to look at a target again and again.
    #[must_use]
    pub fn sampler(&self, iqn: Iqn) -> Sampler {
        Sampler { lio: self.clone(), iqn, before: None }
    }
}

/// The counters of a LUN; `None` for one without a backstore (ENODEV), or one that goes away at this moment.
fn counters(tree: &Tree, dir: &str, commands: &str) -> Result<Option<Counters>> {
    let mut values = [0_u64; 3];
    for (value, file) in values.iter_mut().zip([commands, "read_mbytes", "write_mbytes"]) {
        *value = match tree.read_opt(format!("{dir}/{file}")) {
            Ok(Some(text)) => text.trim().parse().unwrap_or(0),
            Ok(None) => return Ok(None),
            Err(error) if error.errno() == Some(libc::ENODEV) => return Ok(None),
            Err(error) => return Err(Error::unreadable(error)),
        };
    }
    let [commands, read_mib, written_mib] = values;
    Ok(Some(Counters { commands, read_mib, written_mib }))
}

fn logins(tree: &Tree, dir: &str) -> Result<Logins> {
    let text = |file: &str| {
        tree.read_opt(format!("{dir}/{file}")).map(Option::unwrap_or_default).map_err(Error::unreadable)
    };
    let number = |file: &str| Ok::<u32, Error>(text(file)?.trim().parse().unwrap_or(0));
    let stats = |file: &str| number(&format!("iscsi_login_stats/{file}"));
    let mut logins = Logins {
        accepted: stats("accepts")?,
        forbidden: stats("authorize_fails")?,
        wrong_password: stats("authenticate_fails")?,
        negotiation: stats("negotiate_fails")?,
        redirected: stats("redirects")?,
        other: stats("other_fails")?,
        last_failure: None,
    };
    let fault = number("iscsi_tgt_attr/last_fail_type")?;
    if fault != 0 && number("iscsi_tgt_attr/login_fails")? > 0 {
        let name = text("iscsi_tgt_attr/fail_intr_name")?.trim().to_owned();
        let address = text("iscsi_tgt_attr/fail_intr_addr")?;
        let centiseconds = number("iscsi_tgt_attr/last_fail_time")?;
        logins.last_failure = Some(LoginFailure {
            // "NONE" is what the kernel prints for a name that was never said.
            initiator: Some(name)
                .filter(|name| name.contains('.'))
                .map(|name| Iqn::from_kernel(name.as_str())),
            address: address.trim().trim_matches(['[', ']']).parse().ok(),
            fault: LoginFault::of(fault),
            since_boot: Duration::from_millis(u64::from(centiseconds) * 10),
        });
    }
    Ok(logins)
}

fn sessions(tree: &Tree, target: TargetState) -> Result<Vec<SessionState>> {
    let (mut sessions, mut portals, mut dynamic) = (Vec::new(), Vec::new(), Vec::new());
    for group in target.groups {
        portals.extend(group.portal_addresses());
        sessions.extend(group.acls.into_values().filter_map(|acl| acl.session));
        dynamic.extend(group.dynamic_sessions.into_iter().map(SessionState::dynamic));
    }
    let count = usize::try_from(target.session_count.unwrap_or(0)).unwrap_or(usize::MAX);
    let mut connections = Vec::new();
    if !sessions.is_empty() {
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            let text = tree.read_opt(table).map_err(Error::unreadable)?.unwrap_or_default();
            connections.extend(
                tcp::established(&text)
                    .filter(|(local, _)| portals.iter().any(|portal| serves(portal, local))),
            );
        }
    }
    join(&mut sessions, &mut connections);
    // Discovery sessions and other targets of the same portal have connections too: no more than the kernel counts are this target's.
    let room = count.saturating_sub(sessions.len() + dynamic.len());
    let known: Vec<(Iqn, IpAddr)> = sessions
        .iter()
        .flat_map(|s| {
            s.connections.iter().filter_map(|c| Some((s.initiator.clone(), c.address.parse().ok()?)))
        })
        .collect();
    let of =
        |address: IpAddr| known.iter().find(|(_, other)| *other == address).map(|(name, _)| name.clone());
    // An initiator with one session by name and others from other addresses: whose they are is certain only if it is alone.
    let alone = match sessions.as_slice() {
        [only] if dynamic.is_empty() => Some(only.initiator.clone()),
        _ => None,
    };
    let more: Vec<_> = connections
        .into_iter()
        .filter_map(|(local, remote)| Some((of(remote.ip()).or_else(|| alone.clone())?, local, remote)))
        .take(room)
        .map(|(initiator, local, remote)| {
            let connection = ConnectionState {
                cid: 0,
                state: "LOGGED_IN".to_owned(),
                address: remote.ip().to_string(),
                portal: Some(local),
            };
            SessionState { connections: vec![connection], dynamic: false, ..SessionState::dynamic(initiator) }
        })
        .collect();
    sessions.extend(more);
    sessions.extend(dynamic);
    Ok(sessions)
}

/// Says of the connections that are shown which portal they are to, where it can be only one, and leaves the others.
fn join(sessions: &mut [SessionState], connections: &mut Vec<(SocketAddr, SocketAddr)>) {
    for connection in sessions.iter_mut().flat_map(|session| &mut session.connections) {
        let Ok(address) = connection.address.parse::<IpAddr>() else { continue };
        let mut from = connections.iter().enumerate().filter(|(_, (_, remote))| remote.ip() == address);
        if let Some((index, (local, _))) = from.next() {
            connection.portal = from.next().is_none().then_some(*local);
            connections.remove(index);
        }
    }
}

/// Whether a connection's end is a portal's: one on all addresses has any.
fn serves(portal: &SocketAddr, local: &SocketAddr) -> bool {
    portal.port() == local.port() && (portal.ip() == local.ip() || portal.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_what_was_counted_in_between() {
        let at = |commands, read_mib| Counters { commands, read_mib, written_mib: 0 };
        let rates = Rates::of(at(300, 20).since(at(100, 10)), Duration::from_secs(2));
        assert_eq!((rates.commands, rates.read_mib), (100.0, 5.0));
        // Made anew in between: it counts from zero.
        assert_eq!(at(30, 2).since(at(100, 10)), at(30, 2));
    }

    #[test]
    fn a_portal_on_all_addresses_has_any_connection_to_its_port() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(serves(&address("0.0.0.0:3260"), &address("10.0.0.1:3260")));
        assert!(!serves(&address("0.0.0.0:3260"), &address("10.0.0.1:3261")));
        assert!(!serves(&address("10.0.0.2:3260"), &address("10.0.0.1:3260")));
    }
}
