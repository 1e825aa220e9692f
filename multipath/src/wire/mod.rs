//! Bytes and text: multipathd's answers, iSCSI PDUs, open-iscsi's records. Pure: no I/O.

pub(crate) mod conf;
pub(crate) mod iscsi;
pub(crate) mod maps;
pub(crate) mod record;
pub(crate) mod reply;
pub mod table;
pub(crate) mod uevent;
