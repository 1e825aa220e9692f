//! SendTargets discovery and the probe of a portal: three round trips over TCP, without root, daemon or kernel module.
//! `iscsiadm -m discovery -t st`.

#[cfg(feature = "fake")]
pub(crate) mod fake;
mod login;
mod stream;

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use host::{Deadline, Iqn};

use crate::error::{Error, Result};
use crate::spec::{ChapDigest, PortalSpec};
use crate::state::Discovered;
use crate::wire::iscsi::{self, Pdu};

pub(crate) use login::{Outcome, Session, Wanted};
#[cfg(feature = "fake")]
pub(crate) use stream::Canned;
pub(crate) use stream::Stream;

/// How often a portal may send us on before we stop to believe it.
const MAX_REDIRECTS: usize = 4;
/// The most that a portal's list of targets may hold: some 40,000 targets, or 120,000 portals.
pub(crate) const MAX_LIST: usize = 4 << 20;
/// The most parts of a list, so that a portal that sends empty ones comes to an end.
const MAX_PARTS: usize = 4096;

/// What a login's status class and detail say (RFC 7143, 11.13.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct LoginStatus {
    /// 0 success, 1 redirection, 2 the initiator's fault, 3 the target's fault.
    pub class: u8,
    /// What exactly.
    pub detail: u8,
}

impl LoginStatus {
    pub(crate) const fn new(class: u8, detail: u8) -> Self {
        Self { class, detail }
    }

    /// Whether the login succeeded.
    #[must_use]
    pub fn is_success(self) -> bool {
        self.class == 0
    }

    /// Whether the same login may succeed later: what is the target's fault passes, what is ours does not.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        self.class == 3
    }

    /// What it means, and what to do.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match (self.class, self.detail) {
            (0, _) => "logged in",
            (1, 1) => "the target moved for a while; it told its address",
            (1, 2) => "the target moved for good; use the address it told",
            (1, _) => "it sends us to another address",
            (2, 1) => "wrong CHAP user or secret; compare both with the target's ACL",
            (2, 2) => "this initiator may not use the target; add its name to the target's ACLs",
            (2, 3) => "no such target here; ask the portal for its targets",
            (2, 4) => "the target has been removed and told no new address",
            (2, 5) => "it speaks none of our protocol versions",
            (2, 6) => "the session has too many connections; log out of one",
            (2, 7) => "a parameter is missing, mostly the proof: the target wants CHAP",
            (2, 8) => "the connection cannot join its session; the target takes one connection a session",
            (2, 9) => "this kind of session is not served here; is discovery allowed at this portal?",
            (2, 10) => "the session that was to be joined is not there",
            (2, 11) => "the login was not what the target expected at that point",
            (2, _) => "the initiator is at fault",
            // LIO says so of a target that it does not have, too (iscsi_target_nego.c, iscsi_target_locate_portal).
            (3, 1) => "the target is not there, not enabled, or not ready yet; try again",
            (3, 2) => "the target is out of memory or connections, try again",
            (3, _) => "the target is in trouble, try again",
            _ => "unknown status",
        }
    }
}

impl fmt::Display for LoginStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (status {:#04x}/{:#04x})", self.meaning(), self.class, self.detail)
    }
}

/// How the two sides of a login proved who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Authentication {
    /// Not at all.
    None,
    /// The initiator did.
    Chap(ChapDigest),
    /// Both did.
    Mutual(ChapDigest),
}

/// A portal that sent us on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Redirect {
    /// Who sent us on.
    pub from: SocketAddr,
    /// Where to.
    pub to: SocketAddr,
    /// For how long: detail 1 for a while, 2 for good.
    pub status: LoginStatus,
}

/// What a portal answered to a login.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// The portal that answered in the end.
    pub portal: SocketAddr,
    /// Portals that sent us on before, in order.
    pub redirects: Vec<Redirect>,
    /// What it answered.
    pub status: LoginStatus,
    /// Until the TCP connection stood.
    pub connected: Duration,
    /// Until the login was answered, from the start of the connection to the last portal.
    pub answered: Duration,
    /// How both sides proved who they are; `None` unless the login succeeded.
    pub authentication: Option<Authentication>,
    /// The portal group (`TargetPortalGroupTag`), if it was told.
    pub tag: Option<u16>,
    /// The target's alias, if it has one.
    pub alias: Option<String>,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, ms) = (self.status, self.answered.as_secs_f64() * 1000.0);
        write!(f, "{}: {status}, in {ms:.1} ms", self.portal)?;
        self.redirects.iter().try_for_each(|hop| write!(f, ", sent on by {}", hop.from))
    }
}

/// Where to, when a portal sends us on: an error if it is in a circle, by name, or once too often.
fn follow(chain: &[Redirect], from: SocketAddr, status: LoginStatus, text: &str) -> Result<Redirect> {
    let broken = |reason: String| Err(Error::Protocol { portal: from, reason });
    let to = match iscsi::address(text) {
        Some((iscsi::Place::Address(to), _)) => to,
        Some((iscsi::Place::Name(name, port), _)) => {
            return broken(format!("it sends us to {name}:{port} by name; look it up and ask there"));
        }
        None => return broken(format!("it sends us on to {:?}, which is no address", cut(text))),
    };
    let circle = to == from || chain.iter().any(|hop| hop.from == to);
    if circle {
        return broken(format!("it sends us to {to}, which sent us here: a circle"));
    }
    if chain.len() >= MAX_REDIRECTS {
        return broken(format!("it is the {}th portal that sends us on; we stop here", chain.len() + 1));
    }
    log::debug!("multipath: {from} sends us on to {to}");
    Ok(Redirect { from, to, status })
}

/// What goes into an error of a text that somebody else wrote.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Asks a portal which targets it has; follows it where it sends us.
pub(crate) fn discover(spec: &PortalSpec, initiator: &Iqn, deadline: Deadline) -> Result<Vec<Discovered>> {
    spec.check()?;
    let mut chain = Vec::new();
    let mut portal = spec.portal;
    loop {
        let stream = stream::connect(spec, portal, deadline)?;
        match list(stream, portal, spec, initiator, deadline)? {
            Ok(found) => return Ok(found),
            Err((status, to)) => {
                let hop = follow(&chain, portal, status, &to)?;
                portal = hop.to;
                chain.push(hop);
            }
        }
    }
}

/// One discovery session on a connection; the inner error is where the portal sends us.
pub(crate) fn list(
    stream: impl Stream + 'static,
    portal: SocketAddr,
    spec: &PortalSpec,
    initiator: &Iqn,
    deadline: Deadline,
) -> Result<std::result::Result<Vec<Discovered>, (LoginStatus, String)>> {
    let mut session = Session::over(stream, portal, deadline)?;
    match session.login(&Wanted { initiator, target: None }, spec)? {
        Outcome::In { .. } => {}
        Outcome::Elsewhere { status, to } => return Ok(Err((status, to))),
        Outcome::Refused(status) => return Err(session.refused(status, spec)),
    }
    let found = send_targets(&mut session)?;
    // The answer is in hand; a portal that hangs up instead of saying goodbye is none the worse.
    if let Err(error) = session.logout() {
        log::debug!("multipath: {error}");
    }
    Ok(Ok(found))
}

fn send_targets(session: &mut Session) -> Result<Vec<Discovered>> {
    let mut data = Vec::new();
    let mut question = iscsi::text(&[("SendTargets", "All")]);
    let mut transfer_tag = iscsi::NO_TAG;
    session.next_task();
    for _ in 0..MAX_PARTS {
        let mut pdu = Pdu::new(iscsi::TEXT, 0x80);
        pdu.set(20, &transfer_tag.to_be_bytes());
        pdu.data = std::mem::take(&mut question);
        let answer = session.exchange(pdu, iscsi::TEXT_RESPONSE)?;
        session.next_command();
        // A name may be cut anywhere between two PDUs: join first, read after.
        if data.len() + answer.data.len() > MAX_LIST {
            return Err(session.broken("more than 4 MiB of targets"));
        }
        data.extend(&answer.data);
        transfer_tag = answer.u32(20);
        if answer.byte(1) & 0x80 != 0 {
            return Ok(iscsi::targets(&data, Some(session.portal())));
        }
        if transfer_tag == iscsi::NO_TAG {
            return Err(session.broken("its list goes on, and it does not say how to ask for the rest"));
        }
    }
    Err(session.broken("its list of targets does not end"))
}

/// Logs in to a target in user space and out again, and tells what the portal answered.
pub(crate) fn probe(spec: &PortalSpec, initiator: &Iqn, target: &Iqn, deadline: Deadline) -> Result<Probe> {
    spec.check()?;
    let mut redirects = Vec::new();
    let mut portal = spec.portal;
    loop {
        let started = Instant::now();
        let stream = stream::connect(spec, portal, deadline)?;
        let connected = started.elapsed();
        let mut session = Session::over(stream, portal, deadline)?;
        let outcome = session.login(&Wanted { initiator, target: Some(target) }, spec)?;
        let answered = started.elapsed();
        let mut probe = Probe {
            portal,
            redirects: Vec::new(),
            status: LoginStatus::new(0, 0),
            connected,
            answered,
            authentication: None,
            tag: None,
            alias: None,
        };
        match outcome {
            Outcome::In { keys, authentication } => {
                probe.authentication = Some(authentication);
                probe.tag = keys.get("TargetPortalGroupTag").and_then(|tag| tag.parse().ok());
                probe.alias = keys.get("TargetAlias").map(|alias| cut(alias));
                if let Err(error) = session.logout() {
                    log::debug!("multipath: {error}");
                }
            }
            Outcome::Refused(status) => probe.status = status,
            Outcome::Elsewhere { status, to } => {
                let hop = follow(&redirects, portal, status, &to)?;
                portal = hop.to;
                redirects.push(hop);
                continue;
            }
        }
        probe.redirects = redirects;
        return Ok(probe);
    }
}
