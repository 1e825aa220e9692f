//! SendTargets discovery: three round trips over TCP, without root, daemon or kernel module. `iscsiadm -m discovery -t st`.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use host::{Deadline, Iqn};

use crate::chap;
use crate::error::{Error, Result};
use crate::spec::Chap;
use crate::state::Discovered;
use crate::wire::iscsi::{self, Pdu};

/// Asks a portal which targets it has.
pub(crate) fn discover(
    portal: SocketAddr,
    initiator: &Iqn,
    chap: Option<&Chap>,
    deadline: Deadline,
) -> Result<Vec<Discovered>> {
    let mut session = Session::connect(portal, deadline)?;
    session.login(initiator, chap)?;
    let found = session.send_targets()?;
    // The answer is in hand; a portal that hangs up instead of saying goodbye is none the worse.
    if let Err(error) = session.logout() {
        log::debug!("multipath: {error}");
    }
    Ok(found)
}

struct Session {
    portal: SocketAddr,
    stream: TcpStream,
    deadline: Deadline,
    cmd_sn: u32,
    exp_stat_sn: u32,
    task: u32,
}

impl Session {
    fn connect(portal: SocketAddr, deadline: Deadline) -> Result<Self> {
        let failed = |source| Error::Portal { portal, source };
        let left = deadline.left().max(Duration::from_millis(1));
        let stream = TcpStream::connect_timeout(&portal, left).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Self { portal, stream, deadline, cmd_sn: 1, exp_stat_sn: 0, task: 1 })
    }

    fn broken(&self, reason: impl Into<String>) -> Error {
        Error::Protocol { portal: self.portal, reason: reason.into() }
    }

    /// Sends a PDU and reads the next one.
    fn exchange(&mut self, mut pdu: Pdu) -> Result<Pdu> {
        pdu.set(16, &self.task.to_be_bytes());
        pdu.set(24, &self.cmd_sn.to_be_bytes());
        pdu.set(28, &self.exp_stat_sn.to_be_bytes());
        let portal = self.portal;
        let failed = move |source: io::Error| {
            let source = match source.kind() {
                // What a socket's own time-out is called differs from what it means.
                io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
                _ => source,
            };
            Error::Portal { portal, source }
        };
        let left = Some(self.deadline.left().max(Duration::from_millis(1)));
        self.stream
            .set_write_timeout(left)
            .and_then(|()| self.stream.set_read_timeout(left))
            .map_err(failed)?;
        self.stream.write_all(&pdu.encode()).map_err(failed)?;
        let mut header = [0; iscsi::HEADER];
        self.stream.read_exact(&mut header).map_err(failed)?;
        let (extra, length) = Pdu::rest(&header).map_err(|reason| self.broken(reason))?;
        let mut data = vec![0; extra + length.next_multiple_of(4)];
        self.stream.read_exact(&mut data).map_err(failed)?;
        data.drain(..extra);
        data.truncate(length);
        let answer = Pdu { header, data };
        self.exp_stat_sn = answer.u32(24).wrapping_add(1);
        Ok(answer)
    }

    fn login(&mut self, initiator: &Iqn, chap: Option<&Chap>) -> Result<()> {
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
        // Stages: security 0, operational 1, full feature 3. Bit 7: ready to move on.
        let method = if chap.is_some() { "CHAP,None" } else { "None" };
        let opening =
            [("InitiatorName", initiator.as_str()), ("SessionType", "Discovery"), ("AuthMethod", method)];
        let answer = self.step(0x80 | 1, iscsi::text(&opening))?;
        let mut keys = iscsi::pairs(&answer.data);
        if keys.get("AuthMethod").is_some_and(|m| m == "CHAP") {
            let chap = chap.ok_or_else(|| self.broken("it wants CHAP, which was not offered"))?;
            keys = self.prove(chap)?;
        }
        log::debug!("multipath: {} agreed to {keys:?}", self.portal);
        let mut answer = self.step(0x80 | 1 << 2 | 3, iscsi::text(OPERATIONAL))?;
        // Some targets take more than one round to agree; there is nothing left for us to say.
        for _ in 0..8 {
            if answer.byte(1) & 0x80 != 0 && answer.byte(1) & 3 == 3 {
                return Ok(());
            }
            answer = self.step(0x80 | 1 << 2 | 3, Vec::new())?;
        }
        Err(self.broken("the login does not end"))
    }

    /// One login PDU; a status other than success is an error.
    fn step(&mut self, flags: u8, data: Vec<u8>) -> Result<Pdu> {
        let mut pdu = Pdu::new(iscsi::LOGIN, flags);
        // ISID: a random-type identifier (RFC 7143, 11.12.5), distinct by process.
        pdu.set(8, &[0x80]);
        pdu.set(9, &std::process::id().to_be_bytes());
        pdu.data = data;
        let answer = self.exchange(pdu)?;
        if answer.opcode() != iscsi::LOGIN_RESPONSE {
            return Err(self.broken(format!("it answered a login with opcode {:#x}", answer.opcode())));
        }
        match (answer.byte(36), answer.byte(37)) {
            (0, _) => Ok(answer),
            (class, detail) => {
                let reason = iscsi::status_text(class, detail);
                Err(Error::Login { portal: self.portal, reason, status: (class, detail) })
            }
        }
    }

    fn prove(&mut self, chap: &Chap) -> Result<BTreeMap<String, String>> {
        let answer = self.step(0, iscsi::text(&[("CHAP_A", chap::OFFER)]))?;
        let keys = iscsi::pairs(&answer.data);
        let get = |key: &str| keys.get(key).map(String::as_str).unwrap_or_default();
        let id: u8 =
            get("CHAP_I").parse().map_err(|_| self.broken("its CHAP challenge has no identifier"))?;
        let challenge =
            chap::binary(get("CHAP_C")).ok_or_else(|| self.broken("its CHAP challenge cannot be read"))?;
        let response = chap::response(get("CHAP_A"), id, &chap.secret, &challenge)
            .ok_or_else(|| self.broken("it chose a CHAP algorithm that was not offered"))?;
        let proof = [("CHAP_N", chap.user.as_str()), ("CHAP_R", &chap::hex(&response))];
        let answer = self.step(0x80 | 1, iscsi::text(&proof))?;
        Ok(iscsi::pairs(&answer.data))
    }

    fn send_targets(&mut self) -> Result<Vec<Discovered>> {
        let mut data = Vec::new();
        let mut question = iscsi::text(&[("SendTargets", "All")]);
        let mut transfer_tag = u32::MAX;
        self.task += 1;
        loop {
            let mut pdu = Pdu::new(iscsi::TEXT, 0x80);
            pdu.set(20, &transfer_tag.to_be_bytes());
            pdu.data = std::mem::take(&mut question);
            let answer = self.exchange(pdu)?;
            self.cmd_sn = self.cmd_sn.wrapping_add(1);
            if answer.opcode() != iscsi::TEXT_RESPONSE {
                return Err(
                    self.broken(format!("it answered SendTargets with opcode {:#x}", answer.opcode()))
                );
            }
            // A name may be cut anywhere between two PDUs: join first, read after.
            data.extend(&answer.data);
            if data.len() > 64 << 20 {
                return Err(self.broken("more than 64 MiB of targets"));
            }
            transfer_tag = answer.u32(20);
            if answer.byte(1) & 0x80 != 0 {
                return Ok(iscsi::targets(&data));
            }
        }
    }

    fn logout(&mut self) -> Result<()> {
        self.task += 1;
        self.exchange(Pdu::new(iscsi::LOGOUT, 0x80)).map(drop)
    }
}
