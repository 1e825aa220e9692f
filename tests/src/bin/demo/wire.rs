//! The judge of the wire: reads the captures of the storage networks and looks whether a move was ever more than a silence to the initiator.
//!
//! What it may see: nothing for a while, and then, on a connection that the other node had, one reset from the node that serves now; that
//! answers a retransmission and makes the initiator log in at once. What it may never see: a login attempt refused (by a reset, or by an iSCSI
//! login response that is no success), a reset on a connection from the node that made it, or one from a node that has not announced the
//! address as its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pcap_parser::LegacyPcapSlice;

const ISCSI: u16 = 3260;
type Mac = [u8; 6];

/// What was seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Logins that succeeded.
    pub(crate) logins: usize,
    /// Connections of a node that no longer serves, answered with a reset by the one that does.
    pub(crate) stale: usize,
    /// What the initiator should never have seen.
    pub(crate) complaints: Vec<String>,
}

/// The portal and the initiator's end.
type Ends = ((IpAddr, u16), (IpAddr, u16));

/// A connection.
#[derive(Debug, Default)]
struct Connection {
    /// The node that accepted it.
    accepted_by: Option<Mac>,
    /// The initiator's last packet wants to open it.
    opening: bool,
    /// The initiator has given it up itself: what still comes for it tells it nothing.
    given_up: bool,
    /// All of the login has been seen.
    logged_in: bool,
}

/// The judge of one network.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    /// Who announced each address last.
    owners: BTreeMap<Ipv4Addr, Mac>,
    connections: BTreeMap<Ends, Connection>,
    verdict: Verdict,
}

/// Judges the captures of several networks.
pub(crate) fn judge(files: &[PathBuf]) -> Result<Verdict> {
    let mut all = Verdict::default();
    for file in files {
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let capture = LegacyPcapSlice::from_slice(&bytes)
            .map_err(|e| anyhow!("{} is no capture: {e}", file.display()))?;
        let mut wire = Wire::default();
        for block in capture {
            // The last frame may have been cut off by the end.
            let Ok(pcap_parser::PcapBlockOwned::Legacy(block)) = block else { continue };
            wire.see(f64::from(block.ts_sec) + f64::from(block.ts_usec) / 1e6, block.data);
        }
        all.logins += wire.verdict.logins;
        all.stale += wire.verdict.stale;
        all.complaints.extend(wire.verdict.complaints);
    }
    Ok(all)
}

impl Wire {
    /// Takes a frame in.
    fn see(&mut self, at: f64, frame: &[u8]) {
        let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return };
        let Some(source) = frame.get(6..12).and_then(|mac| Mac::try_from(mac).ok()) else { return };
        let addresses: (IpAddr, IpAddr) = match &packet.net {
            Some(NetSlice::Arp(arp)) => {
                return self.arp(source, arp.sender_protocol_addr());
            }
            Some(NetSlice::Ipv4(ip)) => {
                (ip.header().source_addr().into(), ip.header().destination_addr().into())
            }
            Some(NetSlice::Ipv6(ip)) => {
                (ip.header().source_addr().into(), ip.header().destination_addr().into())
            }
            None => return,
        };
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { return };
        let from = (addresses.0, tcp.source_port());
        let to = (addresses.1, tcp.destination_port());
        if to.1 == ISCSI {
            let connection = self.connections.entry((to, from)).or_default();
            if tcp.syn() {
                // A port that is used again is another connection.
                *connection = Connection { opening: true, ..Connection::default() };
            } else {
                connection.opening = false;
                connection.given_up |= tcp.fin() || tcp.rst();
            }
        } else if from.1 == ISCSI {
            let connection = self.connections.entry((from, to)).or_default();
            if tcp.syn() {
                connection.accepted_by = Some(source);
            } else if tcp.rst() && connection.given_up {
                self.verdict.stale += 1;
            } else if tcp.rst() {
                let owner = match from.0 {
                    IpAddr::V4(address) => self.owners.get(&address).copied(),
                    IpAddr::V6(_) => Some(source),
                };
                let wrong = if connection.opening {
                    Some("a login attempt was refused with a reset")
                } else if owner != Some(source) {
                    Some("a node that has not announced the address sent a reset")
                } else if connection.accepted_by == Some(source) {
                    Some("a node reset a connection of its own")
                } else {
                    None
                };
                match wrong {
                    Some(wrong) => self.complain(at, &format!("{wrong}: {} to {}:{}", from.0, to.0, to.1)),
                    None => self.verdict.stale += 1,
                }
            } else if !connection.logged_in
                && let Some(status) = login_status(tcp.payload())
            {
                match status {
                    (0, _, false) => {}
                    (0, _, true) => {
                        connection.logged_in = true;
                        self.verdict.logins += 1;
                    }
                    (class, detail, _) => {
                        self.complain(
                            at,
                            &format!("{} refused a login with status {class:02x}{detail:02x}", from.0),
                        );
                    }
                }
            }
        }
    }

    /// Any ARP packet says that its sender's address is its own: an announcement, an answer, and a question too.
    fn arp(&mut self, source: Mac, sender: &[u8]) {
        if let Ok(address) = <[u8; 4]>::try_from(sender) {
            self.owners.insert(address.into(), source);
        }
    }

    fn complain(&mut self, at: f64, text: &str) {
        self.verdict.complaints.push(format!("wire at {at:.3}: {text}"));
    }
}

/// Status class, status detail, and whether it is the last, of an iSCSI login response (RFC 7143, 11.13).
fn login_status(payload: &[u8]) -> Option<(u8, u8, bool)> {
    // Opcode 0x23; the transit bit with the full feature phase (3) as the next stage ends the login.
    (payload.first()? & 0x3f == 0x23).then_some(())?;
    Some((*payload.get(36)?, *payload.get(37)?, payload.get(1)? & 0x83 == 0x83))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    const N1: Mac = [2, 0, 0, 0, 0, 1];
    const N2: Mac = [2, 0, 0, 0, 0, 2];
    const HV: Mac = [2, 0, 0, 0, 0, 9];
    const PORTAL: [u8; 4] = [10, 1, 24, 10];
    const INITIATOR: [u8; 4] = [10, 1, 24, 1];

    fn announcement(mac: Mac) -> Vec<u8> {
        let arp = etherparse::ArpPacket::new(
            etherparse::ArpHardwareId::ETHERNET,
            etherparse::EtherType::IPV4,
            etherparse::ArpOperation::REQUEST,
            &mac,
            &PORTAL,
            &[0; 6],
            &PORTAL,
        );
        let builder = PacketBuilder::ethernet2(mac, [0xff; 6]).arp(arp.unwrap());
        let mut frame = Vec::new();
        builder.write(&mut frame).unwrap();
        frame
    }

    /// A packet of the portal's, as this node sends it.
    fn portal(mac: Mac, flag: &str, payload: &[u8]) -> Vec<u8> {
        tcp((mac, HV), (PORTAL, INITIATOR), (ISCSI, 40_000), flag, payload)
    }

    fn initiator(flag: &str) -> Vec<u8> {
        tcp((HV, N1), (INITIATOR, PORTAL), (40_000, ISCSI), flag, &[])
    }

    fn tcp(
        macs: (Mac, Mac),
        ips: ([u8; 4], [u8; 4]),
        ports: (u16, u16),
        flag: &str,
        payload: &[u8],
    ) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(macs.0, macs.1)
            .single_vlan(etherparse::VlanId::try_new(24).unwrap())
            .ipv4(ips.0, ips.1, 64)
            .tcp(ports.0, ports.1, 1, 1000);
        let builder = match flag {
            "syn" => builder.syn(),
            "rst" => builder.rst(),
            "fin" => builder.fin(),
            _ => builder.ack(1),
        };
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).unwrap();
        frame
    }

    fn login(class: u8, flags: u8) -> Vec<u8> {
        let mut pdu = vec![0; 48];
        pdu[0] = 0x23;
        pdu[1] = flags;
        pdu[36] = class;
        pdu
    }

    fn verdict(frames: &[Vec<u8>]) -> Verdict {
        let mut wire = Wire::default();
        frames.iter().for_each(|frame| wire.see(1.0, frame));
        wire.verdict
    }

    /// A connection of n1's, logged in.
    fn served() -> Vec<Vec<u8>> {
        vec![
            announcement(N1),
            initiator("syn"),
            portal(N1, "syn", &[]),
            initiator("ack"),
            portal(N1, "ack", &login(0, 0x81)),
            portal(N1, "ack", &login(0, 0x87)),
        ]
    }

    fn with(more: Vec<Vec<u8>>) -> Verdict {
        verdict(&[served(), more].concat())
    }

    #[test]
    fn a_login_and_a_reset_of_the_other_nodes_connection_are_in_order() {
        assert_eq!(with(vec![]), Verdict { logins: 1, ..Verdict::default() });
        let moved = with(vec![announcement(N2), initiator("ack"), portal(N2, "rst", &[])]);
        assert_eq!(moved, Verdict { logins: 1, stale: 1, ..Verdict::default() });
        // A node that has the address back still resets what it had when the initiator has long ended it.
        let late = with(vec![initiator("fin"), portal(N1, "rst", &[])]);
        assert_eq!(late, Verdict { logins: 1, stale: 1, ..Verdict::default() });
    }

    #[test]
    fn what_an_initiator_must_not_see_is_found() {
        for (frames, word) in [
            (vec![initiator("syn"), portal(N1, "rst", &[])], "login attempt was refused"),
            (vec![portal(N1, "rst", &[])], "of its own"),
            (vec![initiator("ack"), portal(N2, "rst", &[])], "not announced"),
        ] {
            let complaints = with(frames).complaints;
            assert!(complaints.len() == 1 && complaints[0].contains(word), "{complaints:?}");
        }
    }

    #[test]
    fn a_login_response_that_is_no_success_is_found() {
        let refused = verdict(&[initiator("syn"), portal(N1, "syn", &[]), portal(N1, "ack", &login(3, 0))]);
        assert_eq!(refused.complaints, ["wire at 1.000: 10.1.24.10 refused a login with status 0300"]);
        assert_eq!(refused.logins, 0);
    }
}
