//! An iSCSI portal on a thread of this process: logins with CHAP, lists of targets, redirects, and every way to misbehave that we could think
//! of. It serves no disks.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use host::{Deadline, Iqn};

use crate::chap::{self, Challenge};
use crate::discovery::Canned;
use crate::error::{Error, Result};
use crate::spec::{Chap, ChapDigest, PortalSpec};
use crate::state::Discovered;
use crate::wire::iscsi::{self, Pdu};

/// What a portal does that it should not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Takes the connection and says nothing.
    Silent,
    /// Sends its first answer byte by byte, one every 20 ms.
    Slow,
    /// Hangs up at the first PDU.
    HangUp,
    /// Announces 16 MiB in one PDU.
    HugePdu,
    /// Answers with another opcode.
    WrongOpcode,
    /// Proposes keys of its own and does not let in who leaves them unanswered, as LIO does: no misbehaviour, but often forgotten.
    Proposes,
    /// Answers another task.
    WrongTask,
    /// Rejects what it was sent.
    Reject,
    /// Never ends a login.
    EndlessLogin,
    /// Has always more to say in a login.
    EndlessText,
    /// Sends one part of a list after the other without end.
    EndlessList,
    /// Sends empty parts of a list without end.
    EmptyParts,
    /// Says that a list goes on, and not how to ask for the rest.
    NoTransferTag,
    /// Sends pings without end instead of an answer.
    Pings,
    /// Pings once and wants an answer before it goes on.
    OnePing,
    /// Chooses a CHAP digest that was not offered.
    UnknownDigest,
    /// Sends a challenge that is no number.
    BadChallenge,
    /// Sends the initiator's own answer back as its proof.
    Reflects,
    /// Proves nothing, though it was asked to.
    NoProof,
    /// Lets in whoever wants to prove himself, without any proof on either side.
    SkipsChap,
}

#[derive(Debug, Default)]
struct Inner {
    targets: Vec<(String, Vec<String>)>,
    chap: Option<Chap>,
    mutual: Option<Chap>,
    digests: Vec<ChapDigest>,
    part: usize,
    redirect: Option<(u8, String)>,
    status: Option<(u8, u8)>,
    fault: Option<Fault>,
    logins: usize,
    heard: Vec<String>,
}

/// A portal; clones are the same. It ends with its last owner.
#[derive(Debug, Clone)]
pub struct FakeTarget {
    inner: Arc<Mutex<Inner>>,
    address: SocketAddr,
    _end: Arc<End>,
}

#[derive(Debug)]
struct End {
    over: Arc<AtomicBool>,
    address: SocketAddr,
}

impl Drop for End {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts; if it is gone already there is nobody to wake.
        TcpStream::connect(self.address).map(drop).unwrap_or_default();
    }
}

impl FakeTarget {
    /// A portal without targets on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// There is no free port.
    pub fn new() -> io::Result<Self> {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// A portal at an address of this machine; port 0 takes a free one.
    ///
    /// # Errors
    /// The address is not ours or in use.
    pub fn at(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let inner = Inner { digests: ChapDigest::ALL.to_vec(), part: 8192, ..Inner::default() };
        let inner = Arc::new(Mutex::new(inner));
        let over = Arc::new(AtomicBool::new(false));
        let (served, ended) = (Arc::clone(&inner), Arc::clone(&over));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { return };
                let mut portal = Portal { inner: Arc::clone(&served), stream };
                // Whoever hangs up in the middle is done with us.
                std::thread::spawn(move || portal.serve().unwrap_or_default());
            }
        });
        Ok(Self { inner, address, _end: Arc::new(End { over, address }) })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The portal, as [`discover_by`](crate::discover_by) and [`probe`](crate::probe) take it.
    #[must_use]
    pub fn spec(&self) -> PortalSpec {
        PortalSpec::new(self.address)
    }

    /// Adds a target with its addresses as the wire has them: `10.0.0.1:3260,1`, `[fd00::1]:3260,2`, `name:3260,1`.
    #[must_use]
    pub fn with_target(self, name: &str, addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        self.lock().targets.push((name.to_owned(), addresses));
        self
    }

    /// Wants CHAP with this user and secret.
    #[must_use]
    pub fn with_chap(self, chap: Chap) -> Self {
        self.lock().chap = Some(chap);
        self
    }

    /// Proves itself with this user and secret where the initiator asks it to.
    #[must_use]
    pub fn with_own_chap(self, chap: Chap) -> Self {
        self.lock().mutual = Some(chap);
        self
    }

    /// Knows these digests only; default all.
    #[must_use]
    pub fn with_digests(self, digests: &[ChapDigest]) -> Self {
        self.lock().digests = digests.to_vec();
        self
    }

    /// Cuts its lists into parts of so many bytes; default 8192.
    #[must_use]
    pub fn with_parts_of(self, bytes: usize) -> Self {
        self.lock().part = bytes.max(1);
        self
    }

    /// Sends every login to another address: detail 1 for a while, 2 for good.
    #[must_use]
    pub fn with_redirect(self, detail: u8, to: &str) -> Self {
        self.lock().redirect = Some((detail, to.to_owned()));
        self
    }

    /// Answers every login with this status class and detail.
    #[must_use]
    pub fn with_status(self, class: u8, detail: u8) -> Self {
        self.lock().status = Some((class, detail));
        self
    }

    /// Misbehaves.
    #[must_use]
    pub fn with_fault(self, fault: Fault) -> Self {
        self.lock().fault = Some(fault);
        self
    }

    /// How many logins came to their end.
    #[must_use]
    pub fn logins(&self) -> usize {
        self.lock().logins
    }

    /// The text it was sent, one PDU an entry, NULs as spaces.
    #[must_use]
    pub fn heard(&self) -> Vec<String> {
        self.lock().heard.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Discovery from a portal whose answers are written down already, byte for byte; for fuzzing.
///
/// # Errors
/// As [`discover_by`](crate::discover_by); a redirect is [`Error::Protocol`].
pub fn discover_from(answers: &[u8], spec: &PortalSpec, initiator: &Iqn) -> Result<Vec<Discovered>> {
    spec.check()?;
    let stream = Canned(Cursor::new(answers.to_vec()));
    let deadline = Deadline::after(Duration::from_secs(10));
    super::list(stream, spec.portal, spec, initiator, deadline)?.map_err(|(_, to)| Error::Protocol {
        portal: spec.portal,
        reason: format!("it sends us to {:?}", super::cut(&to)),
    })
}

/// One connection.
struct Portal {
    inner: Arc<Mutex<Inner>>,
    stream: TcpStream,
}

impl Portal {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> Option<Fault> {
        self.lock().fault
    }

    fn receive(&mut self) -> io::Result<Pdu> {
        let mut header = [0; iscsi::HEADER];
        self.stream.read_exact(&mut header)?;
        let (extra, length) = Pdu::rest(&header, iscsi::MAX_DATA).map_err(io::Error::other)?;
        let mut data = vec![0; extra + length.next_multiple_of(4)];
        self.stream.read_exact(&mut data)?;
        data.drain(..extra);
        data.truncate(length);
        let heard = String::from_utf8_lossy(&data).replace('\0', " ");
        self.lock().heard.push(heard);
        Ok(Pdu { header, data })
    }

    fn answer(&mut self, to: &Pdu, opcode: u8, flags: u8, data: Vec<u8>) -> io::Result<()> {
        let mut pdu = Pdu::new(opcode, flags);
        pdu.set(8, to.header.get(8..14).unwrap_or_default());
        pdu.set(16, to.header.get(16..20).unwrap_or_default());
        pdu.set(20, &iscsi::NO_TAG.to_be_bytes());
        pdu.set(24, &to.u32(28).to_be_bytes());
        pdu.data = data;
        self.send(pdu)
    }

    fn send(&mut self, mut pdu: Pdu) -> io::Result<()> {
        match self.fault() {
            Some(Fault::WrongOpcode) => pdu.set(0, &[0x25]),
            Some(Fault::WrongTask) => pdu.set(16, &[0xde, 0xad, 0xbe, 0xef]),
            Some(Fault::Reject) => pdu.set(0, &[iscsi::REJECT, 0x80, 0x04]),
            _ => {}
        }
        let mut bytes = pdu.encode();
        if self.fault() == Some(Fault::HugePdu) {
            bytes.iter_mut().skip(5).take(3).for_each(|byte| *byte = 0xff);
        }
        if self.fault() == Some(Fault::Slow) {
            let pause = |_: &u8| Deadline::never().pause(Duration::from_millis(20));
            return bytes.iter().try_for_each(|byte| {
                let _ = pause(byte);
                self.stream.write_all(&[*byte])
            });
        }
        self.stream.write_all(&bytes)
    }

    fn serve(&mut self) -> io::Result<()> {
        self.stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        self.stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        let mut question = self.receive()?;
        match self.fault() {
            Some(Fault::HangUp) => return Ok(()),
            // Until the other side hangs up.
            Some(Fault::Silent) => return self.receive().map(drop),
            Some(Fault::Pings) => loop {
                self.ping(&question)?;
            },
            Some(Fault::OnePing) => {
                self.ping(&question)?;
                self.receive()?;
            }
            _ => {}
        }
        let (status, redirect) = {
            let inner = self.lock();
            (inner.status, inner.redirect.clone())
        };
        let (class, data) = match (status, redirect) {
            (Some(status), _) => (Some(status), Vec::new()),
            (_, Some((detail, to))) => (Some((1, detail)), iscsi::text(&[("TargetAddress", &to)])),
            _ => (None, Vec::new()),
        };
        if let Some((class, detail)) = class {
            return self.refuse(&question, class, detail, data);
        }
        if !self.security(&mut question)? {
            return Ok(());
        }
        loop {
            match self.fault() {
                Some(Fault::EndlessLogin) => {
                    self.answer(&question, iscsi::LOGIN_RESPONSE, 1 << 2, vec![])?;
                }
                Some(Fault::EndlessText) => {
                    self.answer(&question, iscsi::LOGIN_RESPONSE, 0x40 | 1 << 2, vec![b'x'; 8000])?;
                }
                _ => break,
            }
            question = self.receive()?;
        }
        if self.fault() == Some(Fault::Proposes) {
            let asks = iscsi::text(&[
                ("MaxBurstLength", "131072"),
                ("IFMarkInt", "8,16"),
                ("X-lab", "1"),
                ("TargetAlias", "p"),
            ]);
            self.answer(&question, iscsi::LOGIN_RESPONSE, 1 << 2, asks)?;
            question = self.receive()?;
            let keys = iscsi::pairs(&question.data);
            let is_answered = [("IFMarkInt", "8"), ("X-lab", "NotUnderstood")]
                .iter()
                .all(|(key, value)| keys.get(*key).is_some_and(|said| said == value));
            if !is_answered || keys.contains_key("TargetAlias") {
                return self.refuse(&question, 2, 0, vec![]);
            }
        }
        let words = [("TargetPortalGroupTag", "1"), ("TargetAlias", "fake"), ("HeaderDigest", "None")];
        self.answer(&question, iscsi::LOGIN_RESPONSE, 0x80 | 1 << 2 | 3, iscsi::text(&words))?;
        self.lock().logins += 1;
        loop {
            let question = self.receive()?;
            match question.opcode() {
                iscsi::TEXT => self.list(&question)?,
                _ => return self.answer(&question, iscsi::LOGOUT_RESPONSE, 0x80, vec![]),
            }
        }
    }

    fn ping(&mut self, question: &Pdu) -> io::Result<()> {
        let mut ping = Pdu::new(iscsi::NOP_IN, 0x80);
        ping.set(16, &iscsi::NO_TAG.to_be_bytes());
        ping.set(20, &[0, 0, 0, 9]);
        ping.set(24, &question.u32(28).to_be_bytes());
        self.stream.write_all(&ping.encode())
    }

    fn refuse(&mut self, question: &Pdu, class: u8, detail: u8, data: Vec<u8>) -> io::Result<()> {
        let mut pdu = Pdu::new(iscsi::LOGIN_RESPONSE, 0);
        pdu.set(16, question.header.get(16..20).unwrap_or_default());
        pdu.set(36, &[class, detail]);
        pdu.data = data;
        self.send(pdu)
    }

    /// The first stage; leaves the first question of the second one in `question`. `false` if the initiator was refused.
    fn security(&mut self, question: &mut Pdu) -> io::Result<bool> {
        let keys = iscsi::pairs(&question.data);
        let fault = self.fault();
        let (wanted, own, digests) = {
            let inner = self.lock();
            (
                inner.chap.as_ref().map(Chap::share),
                inner.mutual.as_ref().map(Chap::share),
                inner.digests.clone(),
            )
        };
        let Some(wanted) = wanted.filter(|_| fault != Some(Fault::SkipsChap)) else {
            self.answer(question, iscsi::LOGIN_RESPONSE, 0x81, iscsi::text(&[("AuthMethod", "None")]))?;
            *question = self.receive()?;
            return Ok(true);
        };
        if !keys.get("AuthMethod").is_some_and(|methods| methods.contains("CHAP")) {
            return self.refuse(question, 2, 1, vec![]).map(|()| false);
        }
        self.answer(question, iscsi::LOGIN_RESPONSE, 0, iscsi::text(&[("AuthMethod", "CHAP")]))?;
        let offer = self.receive()?;
        let keys = iscsi::pairs(&offer.data);
        let offered = keys.get("CHAP_A").map(String::as_str).unwrap_or_default();
        let Some(digest) = offered.split(',').find_map(|number| chap::chosen(number, &digests)) else {
            return self.refuse(&offer, 2, 1, vec![]).map(|()| false);
        };
        let challenge = Challenge::new()?;
        let (id, bytes) = (challenge.id.to_string(), chap::hex(&challenge.bytes));
        let number = if fault == Some(Fault::UnknownDigest) { "99" } else { digest.number() };
        let bytes = if fault == Some(Fault::BadChallenge) { "0xno" } else { &bytes };
        let words = iscsi::text(&[("CHAP_A", number), ("CHAP_I", &id), ("CHAP_C", bytes)]);
        self.answer(&offer, iscsi::LOGIN_RESPONSE, 0, words)?;
        let proof = self.receive()?;
        let keys = iscsi::pairs(&proof.data);
        let response = keys.get("CHAP_R").and_then(|text| chap::binary(text)).unwrap_or_default();
        let is_right =
            keys.get("CHAP_N") == Some(&wanted.user) && challenge.is_met(&response, digest, &wanted);
        if !is_right {
            return self.refuse(&proof, 2, 1, vec![]).map(|()| false);
        }
        let words = self.own_proof(&keys, own, digest, &response);
        self.answer(&proof, iscsi::LOGIN_RESPONSE, 0x81, words)?;
        *question = self.receive()?;
        Ok(true)
    }

    fn own_proof(
        &self,
        keys: &BTreeMap<String, String>,
        own: Option<Chap>,
        digest: ChapDigest,
        heard: &[u8],
    ) -> Vec<u8> {
        let asked = keys.get("CHAP_C").and_then(|text| chap::binary(text));
        let id = keys.get("CHAP_I").and_then(|text| text.parse().ok());
        match (own, asked, id) {
            (Some(own), Some(asked), Some(id)) if self.fault() != Some(Fault::NoProof) => {
                let right = digest.response(id, &own.secret, &asked);
                let said = if self.fault() == Some(Fault::Reflects) { heard } else { &right };
                iscsi::text(&[("CHAP_N", &own.user), ("CHAP_R", &chap::hex(said))])
            }
            _ => Vec::new(),
        }
    }

    fn list(&mut self, first: &Pdu) -> io::Result<()> {
        let (targets, part) = {
            let inner = self.lock();
            (inner.targets.clone(), inner.part)
        };
        let mut data = Vec::new();
        for (name, addresses) in &targets {
            data.extend(iscsi::text(&[("TargetName", name)]));
            addresses.iter().for_each(|address| data.extend(iscsi::text(&[("TargetAddress", address)])));
        }
        let mut parts: Vec<Vec<u8>> = data.chunks(part).map(<[u8]>::to_vec).collect();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        let mut question = first.clone();
        let mut parts = parts.into_iter().peekable();
        loop {
            let (data, is_last) = match self.fault() {
                Some(Fault::EndlessList) => (iscsi::text(&[("TargetName", &"x".repeat(200_000))]), false),
                Some(Fault::EmptyParts) => (Vec::new(), false),
                _ => (parts.next().unwrap_or_default(), parts.peek().is_none()),
            };
            let mut pdu = Pdu::new(iscsi::TEXT_RESPONSE, if is_last { 0x80 } else { 0x40 });
            let tag = if is_last || self.fault() == Some(Fault::NoTransferTag) { iscsi::NO_TAG } else { 1 };
            pdu.set(16, question.header.get(16..20).unwrap_or_default());
            pdu.set(20, &tag.to_be_bytes());
            pdu.set(24, &question.u32(28).to_be_bytes());
            pdu.data = data;
            self.send(pdu)?;
            if is_last {
                return Ok(());
            }
            question = self.receive()?;
        }
    }
}
