//! The kernel's iSCSI sessions, from sysfs: no daemon, no fork, no text of iscsiadm's.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use host::{Iqn, Tree, Wwid};

use crate::error::{Error, Result};
use crate::state::{DiskState, SessionPhase, SessionState};
use crate::topology::ConnectionPhase;

const SESSIONS: &str = "/sys/class/iscsi_session";
const CONNECTIONS: &str = "/sys/class/iscsi_connection";
const HOSTS: &str = "/sys/class/iscsi_host";

/// One connection of a session.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct ConnectionState {
    /// Its number within the session.
    pub id: u32,
    /// Where it stands; `None` on kernels before 5.7.
    pub phase: Option<ConnectionPhase>,
    /// The address it leads to now; another than the portal's after a redirect.
    pub address: Option<SocketAddr>,
    /// The portal it was logged in to.
    pub portal: Option<SocketAddr>,
    /// Our port.
    pub local_port: Option<u16>,
    /// An idle connection is pinged this often (`noop_out_interval`); zero for never.
    pub ping_interval: Option<Duration>,
    /// A ping must be answered in this time (`noop_out_timeout`).
    pub ping_timeout: Option<Duration>,
    /// Whether headers carry a CRC32C.
    pub header_digest: Option<bool>,
    /// Whether data carry a CRC32C.
    pub data_digest: Option<bool>,
    /// The most data in a PDU to us, in bytes.
    pub max_recv: Option<u32>,
    /// The most data in a PDU to the target, in bytes.
    pub max_xmit: Option<u32>,
}

/// What target and initiator agreed on at the login (RFC 7143, chapter 13). `None` where the kernel does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Negotiated {
    /// Whether the target must ask for the first data of a write.
    pub initial_r2t: Option<bool>,
    /// Whether a write's first data come with its command.
    pub immediate_data: Option<bool>,
    /// The most data that are sent unasked, in bytes.
    pub first_burst: Option<u32>,
    /// The most data that are asked for at once, in bytes.
    pub max_burst: Option<u32>,
    /// How many requests for data may be open for one command.
    pub max_outstanding_r2t: Option<u32>,
    /// The level of error recovery; LIO and open-iscsi do 0.
    pub recovery_level: Option<u32>,
}

/// How long the kernel waits for the answers of a session. `None` where it does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct SessionTimeouts {
    /// For a command to be taken back (`abort_tmo`).
    pub abort: Option<Duration>,
    /// For a disk to be reset (`lu_reset_tmo`).
    pub disk_reset: Option<Duration>,
    /// For a target to be reset (`tgt_reset_tmo`).
    pub target_reset: Option<Duration>,
}

/// A value of a file; `None` if it is not there, says nothing, or its session is being torn down.
fn value(tree: &Tree, path: String) -> Result<Option<String>> {
    match tree.read_opt(path) {
        Ok(text) => Ok(text.map(|t| t.trim().to_owned()).filter(|t| {
            // What the kernel prints for a null pointer, and open-iscsi for no value.
            !matches!(t.as_str(), "" | "(null)" | "<NULL>")
        })),
        Err(error)
            if matches!(error.errno(), Some(libc::ENOTCONN | libc::EINVAL | libc::ENODEV | libc::ENOSYS)) =>
        {
            Ok(None)
        }
        Err(error) => Err(Error::Tree(error)),
    }
}

/// Reads values of one directory.
struct Dir<'a> {
    tree: &'a Tree,
    base: String,
}

impl Dir<'_> {
    fn text(&self, file: &str) -> Result<Option<String>> {
        value(self.tree, format!("{}/{file}", self.base))
    }

    fn number<T: std::str::FromStr>(&self, file: &str) -> Result<Option<T>> {
        Ok(self.text(file)?.and_then(|text| text.parse().ok()))
    }

    fn flag(&self, file: &str) -> Result<Option<bool>> {
        Ok(self.number::<u32>(file)?.map(|number| number != 0))
    }

    fn seconds(&self, file: &str) -> Result<Option<Duration>> {
        Ok(self.number(file)?.map(Duration::from_secs))
    }
}

/// All sessions, sorted by number.
pub(crate) fn list(tree: &Tree) -> Result<Vec<SessionState>> {
    let mut found = Vec::new();
    for entry in tree.list_opt(SESSIONS).map_err(Error::Tree)? {
        let Some(id) = entry.name.strip_prefix("session").and_then(|n| n.parse().ok()) else { continue };
        found.extend(read(tree, id)?);
    }
    found.sort_by_key(|session| session.id);
    Ok(found)
}

/// One session; `None` if it went away while it was read.
fn read(tree: &Tree, id: u32) -> Result<Option<SessionState>> {
    let dir = Dir { tree, base: format!("{SESSIONS}/session{id}") };
    let (Some(target), Some(phase)) = (dir.text("targetname")?, dir.text("state")?) else { return Ok(None) };
    let connections = connections(tree, id)?;
    let host = host(tree, &dir.base)?;
    let adapter = host.map(|host| Dir { tree, base: format!("{HOSTS}/host{host}") });
    let of_adapter = |file: &str| adapter.as_ref().map_or(Ok(None), |adapter| adapter.text(file));
    Ok(Some(SessionState {
        id,
        target: Iqn::from_kernel(target),
        portal: connections.first().and_then(|c| c.portal),
        phase: SessionPhase::from_word(&phase),
        recovery: dir.number("recovery_tmo")?,
        disks: disks(tree, &format!("{}/device", dir.base))?,
        tag: dir.number("tpgt")?,
        host,
        target_id: dir.number("target_id")?.unwrap_or(0),
        iface: dir.text("ifacename")?,
        interface: of_adapter("netdev")?.filter(|name| name != "default"),
        local: of_adapter("ipaddress")?.and_then(|address| address.parse().ok()),
        initiator: dir.text("initiatorname")?,
        chap_user: dir.text("username")?,
        target_chap_user: dir.text("username_in")?,
        negotiated: Negotiated {
            initial_r2t: dir.flag("initial_r2t")?,
            immediate_data: dir.flag("immediate_data")?,
            first_burst: dir.number("first_burst_len")?,
            max_burst: dir.number("max_burst_len")?,
            max_outstanding_r2t: dir.number("max_outstanding_r2t")?,
            recovery_level: dir.number("erl")?,
        },
        timeouts: SessionTimeouts {
            abort: dir.seconds("abort_tmo")?,
            disk_reset: dir.seconds("lu_reset_tmo")?,
            target_reset: dir.seconds("tgt_reset_tmo")?,
        },
        connections,
    }))
}

/// The number in `.../hostN/sessionM/iscsi_session/sessionM`, to which the session's entry leads.
fn host(tree: &Tree, base: &str) -> Result<Option<u32>> {
    let link = match tree.read_link(base) {
        Ok(link) => link,
        // A directory, in a tree that was captured without links; or a session that goes away.
        Err(error) if error.is_not_found() || error.errno() == Some(libc::EINVAL) => return Ok(None),
        Err(error) => return Err(Error::Tree(error)),
    };
    let number = |part: &std::ffi::OsStr| part.to_str()?.strip_prefix("host")?.parse().ok();
    Ok(link.iter().find_map(number))
}

fn connections(tree: &Tree, session: u32) -> Result<Vec<ConnectionState>> {
    let mut found = Vec::new();
    // One connection a session is all that open-iscsi makes; the kernel numbers them from 0.
    for id in 0.. {
        let dir = Dir { tree, base: format!("{CONNECTIONS}/connection{session}:{id}") };
        if !tree.exists(&dir.base).map_err(Error::Tree)? {
            break;
        }
        let place = |address: &str, port: &str| -> Result<Option<SocketAddr>> {
            let ip = dir.text(address)?.and_then(|a| a.parse::<IpAddr>().ok());
            Ok(ip.zip(dir.number(port)?).map(|(ip, port)| SocketAddr::new(ip, port)))
        };
        found.push(ConnectionState {
            id,
            phase: dir.text("state")?.map(|word| ConnectionPhase::from_word(&word)),
            address: place("address", "port")?,
            portal: place("persistent_address", "persistent_port")?,
            local_port: dir.number("local_port")?,
            ping_interval: dir.seconds("recv_tmo")?,
            ping_timeout: dir.seconds("ping_tmo")?,
            header_digest: dir.flag("header_digest")?,
            data_digest: dir.flag("data_digest")?,
            max_recv: dir.number("max_recv_dlength")?,
            max_xmit: dir.number("max_xmit_dlength")?,
        });
    }
    Ok(found)
}

/// The disks below `.../device/targetH:C:T/H:C:T:L/block/sdX`.
fn disks(tree: &Tree, device: &str) -> Result<Vec<DiskState>> {
    let mut found = Vec::new();
    for target in tree.dirs(device).map_err(Error::Tree)? {
        if !target.starts_with("target") {
            continue;
        }
        for unit in tree.dirs(format!("{device}/{target}")).map_err(Error::Tree)? {
            let Some(lun) = unit.rsplit(':').next().and_then(|l| l.parse().ok()) else { continue };
            let dir = Dir { tree, base: format!("{device}/{target}/{unit}") };
            for disk in tree.dirs(format!("{}/block", dir.base)).map_err(Error::Tree)? {
                let wwid = match tree.read_opt(format!("{}/wwid", dir.base)) {
                    Ok(text) => text.and_then(|t| Wwid::from_sysfs(&t).ok()),
                    Err(error) if matches!(error.errno(), Some(libc::EINVAL | libc::ENXIO | libc::EIO)) => {
                        None
                    }
                    Err(error) => return Err(Error::Tree(error)),
                };
                let sectors = dir.number::<u64>(&format!("block/{disk}/size"))?.unwrap_or(0);
                found.push(DiskState {
                    device: disk,
                    lun,
                    wwid,
                    address: unit.clone(),
                    state: dir.text("state")?.unwrap_or_default(),
                    size: sectors.saturating_mul(512),
                    vendor: dir.text("vendor")?.unwrap_or_default(),
                    model: dir.text("model")?.unwrap_or_default(),
                });
            }
        }
    }
    Ok(found)
}
