//! One session in user space: login with its negotiation and CHAP, one exchange after the other, logout.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use host::{Deadline, Iqn};

use super::stream::Stream;
use super::{Authentication, LoginStatus, cut};
use crate::chap::{self, Challenge};
use crate::error::{Error, Result};
use crate::spec::{Chap, PortalSpec};
use crate::wire::iscsi::{self, Pdu};

/// The most that a target may say in one step of a login, over several PDUs.
const MAX_LOGIN_TEXT: usize = 65_536;
/// The most rounds of a login, and parts of one answer of it.
const MAX_ROUNDS: usize = 16;
/// What a target may send of its own accord before it answers.
const MAX_UNASKED: usize = 32;

type Keys = BTreeMap<String, String>;

/// Who logs in, and to what: without a target, for discovery.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) initiator: &'a Iqn,
    pub(crate) target: Option<&'a Iqn>,
}

/// How a login ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Logged in.
    In { keys: Keys, authentication: Authentication },
    /// The target is elsewhere.
    Elsewhere { status: LoginStatus, to: String },
    /// It was refused.
    Refused(LoginStatus),
}

/// What one step of a login was answered: the target's words, or the end.
enum Step {
    Next { keys: Keys, flags: u8 },
    End(Outcome),
}

/// A session with a portal.
#[derive(Debug)]
pub(crate) struct Session {
    portal: SocketAddr,
    stream: Box<dyn Stream>,
    deadline: Deadline,
    isid: [u8; 6],
    cmd_sn: u32,
    exp_stat_sn: u32,
    task: u32,
    /// Larger once the target was told what it may send.
    most: usize,
}

/// Operational keys of both kinds of session.
const OPERATIONAL: &[(&str, &str)] = &[
    ("HeaderDigest", "None"),
    ("DataDigest", "None"),
    ("DefaultTime2Wait", "0"),
    ("DefaultTime2Retain", "0"),
    ("IFMarker", "No"),
    ("OFMarker", "No"),
    ("ErrorRecoveryLevel", "0"),
    ("MaxRecvDataSegmentLength", "262144"),
];
/// What a session that carries I/O says besides.
const NORMAL: &[(&str, &str)] = &[
    ("InitialR2T", "Yes"),
    ("ImmediateData", "No"),
    ("MaxConnections", "1"),
    ("MaxOutstandingR2T", "1"),
    ("MaxBurstLength", "262144"),
    ("FirstBurstLength", "65536"),
    ("DataPDUInOrder", "Yes"),
    ("DataSequenceInOrder", "Yes"),
];

// Stages: security 0, operational 1, full feature 3. Bit 7: ready to move on to the stage in bits 0 and 1.
const SECURITY: u8 = 0;
const SECURITY_TO_OPERATIONAL: u8 = 0x80 | 1;
const OPERATIONAL_TO_FULL: u8 = 0x80 | 1 << 2 | 3;
/// The other side has more to say in this step.
const CONTINUES: u8 = 0x40;

fn is_hang_up(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// What we say to keys that the target proposes of its own accord, as LIO does: we take what it wants, for nothing depends on it here.
fn answers(said: &Keys, offered: &[&str]) -> Vec<(String, String)> {
    // Told, not asked (RFC 7143, chapter 13: declarative keys), and answers to what we said.
    const DECLARED: [&str; 6] = [
        "TargetAlias",
        "InitiatorAlias",
        "TargetAddress",
        "TargetPortalGroupTag",
        "MaxRecvDataSegmentLength",
        "AuthMethod",
    ];
    const ANSWERS: [&str; 3] = ["Reject", "NotUnderstood", "Irrelevant"];
    let asked = said.iter().filter(|(key, value)| {
        let is_told = DECLARED.contains(&key.as_str()) || key.starts_with("CHAP_");
        !is_told && !offered.contains(&key.as_str()) && !ANSWERS.contains(&value.as_str())
    });
    asked
        .map(|(key, value)| match key.starts_with("X-") || key.starts_with("X#") {
            true => (key.clone(), "NotUnderstood".to_owned()),
            // Of a list of choices the first; of a number or a yes or no, itself.
            false => (key.clone(), value.split(',').next().unwrap_or_default().to_owned()),
        })
        .collect()
}

impl Session {
    pub(crate) fn over(
        stream: impl Stream + 'static,
        portal: SocketAddr,
        deadline: Deadline,
    ) -> Result<Self> {
        // A random-type identifier (RFC 7143, 11.12.5): never that of a session which carries I/O, for the target would end that one.
        let mut isid = [0; 6];
        chap::random(&mut isid).map_err(|source| Error::Portal { portal, source })?;
        let [first, ..] = &mut isid;
        *first = 0x80;
        let stream = Box::new(stream);
        Ok(Self {
            portal,
            stream,
            deadline,
            isid,
            cmd_sn: 1,
            exp_stat_sn: 0,
            task: 1,
            most: iscsi::MAX_LOGIN_DATA,
        })
    }

    pub(crate) fn portal(&self) -> SocketAddr {
        self.portal
    }

    pub(crate) fn broken(&self, reason: impl Into<String>) -> Error {
        Error::Protocol { portal: self.portal, reason: reason.into() }
    }

    /// The error of a refused login; the one status that means two things is told by what was offered.
    pub(crate) fn refused(&self, status: LoginStatus, spec: &PortalSpec) -> Error {
        let reason = match (status.class, status.detail, &spec.chap) {
            (2, 1, None) => format!("it wants CHAP; give a user and a secret ({status})"),
            _ => status.to_string(),
        };
        Error::Login { portal: self.portal, reason, status: (status.class, status.detail) }
    }

    pub(crate) fn next_task(&mut self) {
        self.task = self.task.wrapping_add(1);
    }

    pub(crate) fn next_command(&mut self) {
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
    }

    fn send(&mut self, pdu: &Pdu) -> Result<()> {
        let portal = self.portal;
        self.stream.send(&pdu.encode(), self.deadline).map_err(|source| Error::Portal { portal, source })
    }

    fn receive(&mut self) -> Result<Pdu> {
        let portal = self.portal;
        let failed = |source| Error::Portal { portal, source };
        let mut header = [0; iscsi::HEADER];
        self.stream.receive(&mut header, self.deadline).map_err(failed)?;
        let (extra, length) = Pdu::rest(&header, self.most).map_err(|reason| self.broken(reason))?;
        let mut data = vec![0; extra + length.next_multiple_of(4)];
        self.stream.receive(&mut data, self.deadline).map_err(failed)?;
        data.drain(..extra);
        data.truncate(length);
        Ok(Pdu { header, data })
    }

    /// Sends a PDU and reads its answer. What the target says of its own accord in between is heard.
    pub(crate) fn exchange(&mut self, mut pdu: Pdu, expected: u8) -> Result<Pdu> {
        pdu.set(16, &self.task.to_be_bytes());
        pdu.set(24, &self.cmd_sn.to_be_bytes());
        pdu.set(28, &self.exp_stat_sn.to_be_bytes());
        self.send(&pdu)?;
        for _ in 0..MAX_UNASKED {
            let answer = self.receive()?;
            match answer.opcode() {
                iscsi::NOP_IN if answer.u32(16) == iscsi::NO_TAG => self.pong(&answer)?,
                // It wants us to leave or tells of something: we leave in a moment anyway.
                iscsi::ASYNC => self.exp_stat_sn = answer.u32(24).wrapping_add(1),
                iscsi::REJECT => {
                    let reason = format!("it rejected our PDU (reason {:#04x})", answer.byte(2));
                    return Err(self.broken(reason));
                }
                opcode if opcode != expected => {
                    return Err(
                        self.broken(format!("it answered with opcode {opcode:#04x}, not {expected:#04x}"))
                    );
                }
                _ if answer.u32(16) != self.task => {
                    return Err(self.broken(format!(
                        "it answered task {:#x}, which is not ours ({:#x})",
                        answer.u32(16),
                        self.task
                    )));
                }
                _ => {
                    self.exp_stat_sn = answer.u32(24).wrapping_add(1);
                    return Ok(answer);
                }
            }
        }
        Err(self.broken("it talks without answering"))
    }

    /// Answers a ping of the target's.
    fn pong(&mut self, ping: &Pdu) -> Result<()> {
        if ping.u32(20) == iscsi::NO_TAG {
            return Ok(());
        }
        let mut pdu = Pdu::new(iscsi::NOP_OUT | 0x40, 0x80);
        pdu.set(8, ping.header.get(8..16).unwrap_or_default());
        pdu.set(16, &iscsi::NO_TAG.to_be_bytes());
        pdu.set(20, &ping.u32(20).to_be_bytes());
        pdu.set(24, &self.cmd_sn.to_be_bytes());
        pdu.set(28, &self.exp_stat_sn.to_be_bytes());
        self.send(&pdu)
    }

    /// Logs in: security, then operational parameters, then the full-feature phase.
    pub(crate) fn login(&mut self, wanted: &Wanted<'_>, spec: &PortalSpec) -> Result<Outcome> {
        let method = match (&spec.chap, &spec.target_chap) {
            (None, _) => "None",
            (Some(_), None) => "CHAP,None",
            // Who wants the other side to prove itself cannot let it choose not to.
            (Some(_), Some(_)) => "CHAP",
        };
        let mut opening = vec![("InitiatorName", wanted.initiator.as_str()), ("AuthMethod", method)];
        match wanted.target {
            None => opening.push(("SessionType", "Discovery")),
            Some(target) => opening.extend([("SessionType", "Normal"), ("TargetName", target.as_str())]),
        }
        let (mut keys, flags) = match self.step(SECURITY_TO_OPERATIONAL, &opening) {
            Ok(Step::Next { keys, flags }) => (keys, flags),
            Ok(Step::End(outcome)) => return Ok(outcome),
            // LIO does not answer who offers no CHAP where it wants it (iscsi_target_parameters.c: "contains no valid values").
            Err(Error::Portal { source, .. }) if spec.chap.is_none() && is_hang_up(&source) => {
                return Err(self
                    .broken("it hung up on a login without CHAP; it wants CHAP, give a user and a secret"));
            }
            Err(error) => return Err(error),
        };
        let authentication = match (keys.get("AuthMethod").map(String::as_str), &spec.chap) {
            (Some("CHAP"), Some(chap)) => match self.prove(chap, spec)? {
                Ok((more, authentication)) => {
                    keys.extend(more);
                    authentication
                }
                Err(outcome) => return Ok(outcome),
            },
            (Some("CHAP"), None) => return Err(self.broken("it wants CHAP, which was not offered")),
            (None | Some("None"), _) if spec.target_chap.is_none() => {
                if flags & 0x80 == 0 {
                    return Err(self.broken("it wants to go on with security, and says not how"));
                }
                Authentication::None
            }
            (None | Some("None"), _) => {
                return Err(self.broken("it does not prove itself, as it was told to"));
            }
            (Some(other), _) => {
                return Err(self.broken(format!("it chose {:?}, which was not offered", cut(other))));
            }
        };
        let mut offered: Vec<&str> = OPERATIONAL.iter().map(|(key, _)| *key).collect();
        let mut words: Vec<(String, String)> =
            OPERATIONAL.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        if wanted.target.is_some() {
            offered.extend(NORMAL.iter().map(|(key, _)| *key));
            words.extend(NORMAL.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        }
        for _ in 0..MAX_ROUNDS {
            let pairs: Vec<_> = words.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            match self.step(OPERATIONAL_TO_FULL, &pairs)? {
                Step::End(outcome) => return Ok(outcome),
                Step::Next { keys: more, flags } => {
                    words = answers(&more, &offered);
                    keys.extend(more);
                    if flags & 0x80 != 0 && flags & 3 == 3 {
                        keys.retain(|key, _| !key.starts_with("CHAP_"));
                        log::debug!("multipath: {} agreed to {keys:?}", self.portal);
                        self.most = iscsi::MAX_DATA;
                        return Ok(Outcome::In { keys, authentication });
                    }
                }
            }
        }
        Err(self.broken("the login does not end"))
    }

    /// One step of the login. An answer over several PDUs is joined.
    fn step(&mut self, flags: u8, words: &[(&str, &str)]) -> Result<Step> {
        let mut data = iscsi::text(words);
        let mut heard = Vec::new();
        for _ in 0..MAX_ROUNDS {
            let mut pdu = Pdu::new(iscsi::LOGIN, flags);
            pdu.set(8, &self.isid.clone());
            pdu.data = std::mem::take(&mut data);
            let answer = self.exchange(pdu, iscsi::LOGIN_RESPONSE)?;
            let status = LoginStatus::new(answer.byte(36), answer.byte(37));
            heard.extend(&answer.data);
            if heard.len() > MAX_LOGIN_TEXT {
                return Err(self.broken("more than 64 KiB of login text"));
            }
            match status.class {
                0 if answer.byte(1) & CONTINUES != 0 => {}
                0 => return Ok(Step::Next { keys: iscsi::pairs(&heard), flags: answer.byte(1) }),
                1 => {
                    return match iscsi::pairs(&heard).remove("TargetAddress") {
                        Some(to) => Ok(Step::End(Outcome::Elsewhere { status, to })),
                        None => Err(self.broken("it sends us to another address and does not say which")),
                    };
                }
                _ => return Ok(Step::End(Outcome::Refused(status))),
            }
        }
        Err(self.broken("its answer to the login does not end"))
    }

    /// Proves who we are, and has the target prove who it is where that is wanted. The inner error is how the login ended instead.
    fn prove(
        &mut self,
        ours: &Chap,
        spec: &PortalSpec,
    ) -> Result<std::result::Result<(Keys, Authentication), Outcome>> {
        let keys = match self.step(SECURITY, &[("CHAP_A", &chap::offer(&spec.digests))])? {
            Step::Next { keys, .. } => keys,
            Step::End(outcome) => return Ok(Err(outcome)),
        };
        let get = |key: &str| keys.get(key).map(String::as_str).unwrap_or_default();
        let digest = chap::chosen(get("CHAP_A"), &spec.digests)
            .ok_or_else(|| self.broken("it chose a CHAP digest that was not offered"))?;
        let id: u8 =
            get("CHAP_I").trim().parse().map_err(|_| self.broken("its CHAP challenge has no identifier"))?;
        let asked =
            chap::binary(get("CHAP_C")).ok_or_else(|| self.broken("its CHAP challenge cannot be read"))?;
        let response = chap::hex(&digest.response(id, &ours.secret, &asked));
        let mut proof = vec![("CHAP_N", ours.user.as_str()), ("CHAP_R", &response)];
        let portal = self.portal;
        let challenge = match &spec.target_chap {
            None => None,
            Some(_) => Some(Challenge::new().map_err(|source| Error::Portal { portal, source })?),
        };
        let question = challenge.as_ref().map(|c| (c.id.to_string(), chap::hex(&c.bytes)));
        if let Some((id, bytes)) = &question {
            proof.extend([("CHAP_I", id.as_str()), ("CHAP_C", bytes)]);
        }
        let keys = match self.step(SECURITY_TO_OPERATIONAL, &proof)? {
            Step::Next { keys, .. } => keys,
            Step::End(outcome) => return Ok(Err(outcome)),
        };
        let (Some(challenge), Some(theirs)) = (challenge, &spec.target_chap) else {
            return Ok(Ok((keys, Authentication::Chap(digest))));
        };
        let answer = keys.get("CHAP_R").and_then(|text| chap::binary(text));
        let is_named = keys.get("CHAP_N") == Some(&theirs.user);
        match answer {
            Some(answer) if is_named && challenge.is_met(&answer, digest, theirs) => {
                Ok(Ok((keys, Authentication::Mutual(digest))))
            }
            Some(_) if !is_named => Err(self.broken("it proves itself under another name than was wanted")),
            Some(_) => {
                Err(self.broken("it does not know the secret of mutual CHAP; is this another's target?"))
            }
            None => Err(self.broken("it does not prove itself, as it was told to")),
        }
    }

    pub(crate) fn logout(&mut self) -> Result<()> {
        self.next_task();
        self.exchange(Pdu::new(iscsi::LOGOUT, 0x80), iscsi::LOGOUT_RESPONSE).map(drop)
    }
}
