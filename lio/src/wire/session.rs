//! The `info` file of an ACL: `lio_target_nacl_info_show`, `iscsi_target_configfs.c`.

use host::Iqn;

/// A connection of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ConnectionState {
    /// The connection's number within the session.
    pub cid: u16,
    /// The kernel's word, without its prefix: `LOGGED_IN`, `IN_LOGOUT`, ...
    pub state: String,
    /// Where the initiator is; without the port on 6.1.
    pub address: String,
    /// Which portal it came to, where the TCP connections of the machine leave one choice.
    pub portal: Option<std::net::SocketAddr>,
}

/// A session of an initiator.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SessionState {
    /// Who is logged in.
    pub initiator: Iqn,
    /// What it calls itself; often its host name.
    pub alias: Option<String>,
    /// LIO's number for the session; `None` for a session without an ACL, of which the kernel shows the name only, and for one that only its
    /// TCP connection tells of.
    pub id: Option<u32>,
    /// The initiator's part of the session identifier, 6 bytes.
    pub isid: Option<String>,
    /// The target's part.
    pub tsih: Option<u16>,
    /// The kernel's word, without its prefix: `LOGGED_IN`, `FAILED`, ...
    pub state: Option<String>,
    /// Its connections.
    pub connections: Vec<ConnectionState>,
    /// Whether it has no ACL.
    pub dynamic: bool,
}

impl SessionState {
    pub(crate) fn dynamic(initiator: Iqn) -> Self {
        Self {
            initiator,
            alias: None,
            id: None,
            isid: None,
            tsih: None,
            state: None,
            connections: Vec::new(),
            dynamic: true,
        }
    }
}

/// Reads the text; `None` if nobody is logged in.
#[must_use]
pub fn parse(text: &str) -> Option<SessionState> {
    let after = |key: &str| text.split_once(key).map(|(_, rest)| rest);
    let word = |key: &str| after(key)?.split_whitespace().next();
    let line = |key: &str| Some(after(key)?.lines().next()?.trim()).filter(|s| !s.is_empty());
    let bare = |state: &str, prefix: &str| state.strip_prefix(prefix).unwrap_or(state).to_owned();
    let mut connections = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(at) = lines.next() {
        let Some((_, rest)) = at.split_once("CID: ") else { continue };
        let mut words = rest.split_whitespace();
        let cid = words.next().and_then(|cid| cid.parse().ok()).unwrap_or_default();
        let state = rest.split_once("Connection State: ").map_or("", |(_, state)| state.trim());
        let address = lines.peek().and_then(|next| next.trim().strip_prefix("Address "));
        let address = address.and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
        connections.push(ConnectionState {
            cid,
            state: bare(state, "TARG_CONN_STATE_"),
            address: address.to_owned(),
            portal: None,
        });
    }
    Some(SessionState {
        initiator: Iqn::from_kernel(word("InitiatorName: ")?),
        alias: line("InitiatorAlias: ").map(str::to_owned),
        id: word("LIO Session ID: ").and_then(|id| id.parse().ok()),
        // "%6ph" puts blanks between the bytes.
        isid: after("ISID: 0x")
            .and_then(|rest| rest.split_once("TSIH"))
            .map(|(isid, _)| isid.replace(' ', "")),
        tsih: word("TSIH: ").and_then(|tsih| tsih.parse().ok()),
        state: line("Session State: ").map(|state| bare(state, "TARG_SESS_STATE_")),
        connections,
        dynamic: false,
    })
}

/// Reads `dynamic_sessions`: one name a line, a NUL byte after each line break (`target_fabric...`, `target_core_transport.c`).
#[must_use]
pub fn parse_dynamic(text: &str) -> Vec<Iqn> {
    let names = text.split(['\n', '\0']).map(str::trim).filter(|name| !name.is_empty());
    names.map(Iqn::from_kernel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_with_its_connection() {
        let text = "InitiatorName: iqn.2026-01.lab:b\nInitiatorAlias: hostb\n\
            LIO Session ID: 3   ISID: 0x00 02 3d 03 00 00  TSIH: 7  SessionType: Normal\n\
            Session State: TARG_SESS_STATE_LOGGED_IN\n\
            ---------------------[iSCSI Session Values]-----------------------\n\
            \x20 CmdSN/WR  :  CmdSN/WC  :  ExpCmdSN  :  MaxCmdSN  :     ITT    :     TTT\n\
            ----------------------[iSCSI Connections]-------------------------\n\
            CID: 0  Connection State: TARG_CONN_STATE_LOGGED_IN\n   Address 10.0.0.5 TCP  StatSN: 0x11\n";
        let session = parse(text).expect("logged in");
        assert_eq!(session.initiator.as_str(), "iqn.2026-01.lab:b");
        assert_eq!((session.id, session.tsih, session.alias.as_deref()), (Some(3), Some(7), Some("hostb")));
        assert_eq!(session.isid.as_deref(), Some("00023d030000"));
        assert_eq!(session.state.as_deref(), Some("LOGGED_IN"));
        let [connection] = &session.connections[..] else { panic!("{session:?}") };
        assert_eq!((connection.address.as_str(), connection.state.as_str()), ("10.0.0.5", "LOGGED_IN"));
    }

    #[test]
    fn nobody_is_nobody() {
        assert_eq!(parse("No active iSCSI Session for Initiator Endpoint: iqn.2026-01.lab:b\n"), None);
        assert_eq!(parse_dynamic("iqn.a\n\0iqn.a\n\0").len(), 2);
    }
}
