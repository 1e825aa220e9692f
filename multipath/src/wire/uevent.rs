//! The kernel's device events (`kobject_uevent_env`, `lib/kobject_uevent.c`; `dm_build_path_uevent`, `drivers/md/dm-uevent.c`) and the
//! initiator's (`struct iscsi_uevent`, `include/scsi/iscsi_if.h`), as bytes.

/// What a device event says of device-mapper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Uevent {
    /// A path of a map failed or came back.
    Path {
        /// The map's name.
        map: String,
        /// The path's number.
        path: String,
        /// Whether it came back.
        reinstated: bool,
    },
    /// A device-mapper device ("dm-3") was made, changed or removed.
    Device(String),
}

/// Reads a datagram: `change@/devices/virtual/block/dm-3`, then `KEY=VALUE`, each with a NUL. `None` for what is no device of device-mapper, and
/// for udevd's own messages.
pub(crate) fn parse(datagram: &[u8]) -> Option<Uevent> {
    let mut parts = datagram.split(|byte| *byte == 0);
    let (_, place) = std::str::from_utf8(parts.next()?).ok()?.split_once('@')?;
    let node = place.strip_prefix("/devices/virtual/block/")?.split('/').next()?;
    if !node.starts_with("dm-") {
        return None;
    }
    let (mut map, mut path, mut action) = (None, None, None);
    for part in parts {
        match std::str::from_utf8(part).ok().and_then(|part| part.split_once('=')) {
            Some(("DM_NAME", value)) => map = Some(value),
            Some(("DM_PATH", value)) => path = Some(value),
            Some(("DM_ACTION", value)) => action = Some(value),
            _ => {}
        }
    }
    let reinstated = match action {
        Some("PATH_FAILED") => Some(false),
        Some("PATH_REINSTATED") => Some(true),
        _ => None,
    };
    match (map, path, reinstated) {
        (Some(map), Some(path), Some(reinstated)) => {
            Some(Uevent::Path { map: map.to_owned(), path: path.to_owned(), reinstated })
        }
        _ => Some(Uevent::Device(node.to_owned())),
    }
}

/// What an event of the initiator says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IscsiEvent {
    /// A connection broke.
    Error { session: u32, connection: u32, code: u32 },
    /// A session was made.
    Created { session: u32 },
    /// A session is gone.
    Destroyed { session: u32 },
}

/// The netlink header, and where the union of `struct iscsi_uevent` begins behind it.
const HEADER: usize = 16;
const BODY: usize = 40;

/// Reads the messages of a datagram; what is of no interest is passed over.
pub(crate) fn iscsi(datagram: &[u8]) -> Vec<IscsiEvent> {
    let mut found = Vec::new();
    let mut rest = datagram;
    while let Some(length) = word(rest, 0).and_then(|length| usize::try_from(length).ok()) {
        if length < HEADER {
            break;
        }
        let Some(message) = rest.get(HEADER..length) else { break };
        found.extend(one(message));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn one(message: &[u8]) -> Option<IscsiEvent> {
    let at = |n: usize| word(message, BODY + 4 * n);
    match word(message, 0)? {
        102 => Some(IscsiEvent::Error { session: at(0)?, connection: at(1)?, code: at(2)? }),
        // The host adapter's number comes first here.
        104 => Some(IscsiEvent::Destroyed { session: at(1)? }),
        106 => Some(IscsiEvent::Created { session: at(1)? }),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn events_of_paths_and_devices_are_told_from_others() {
        let text = "change@/devices/virtual/block/dm-3\0ACTION=change\0DM_TARGET=multipath\0DM_ACTION=PATH_FAILED\0DM_SEQNUM=1\0\
                    DM_PATH=8:16\0DM_NR_VALID_PATHS=1\0DM_NAME=mpatha\0DM_UUID=mpath-3600\0";
        let path = Uevent::Path { map: "mpatha".to_owned(), path: "8:16".to_owned(), reinstated: false };
        assert_eq!(parse(text.as_bytes()), Some(path));
        let text = "remove@/devices/virtual/block/dm-3\0ACTION=remove\0DEVNAME=dm-3\0";
        assert_eq!(parse(text.as_bytes()), Some(Uevent::Device("dm-3".to_owned())));
        assert_eq!(parse(b"add@/devices/pci0000:00/host2/block/sdb\0ACTION=add\0"), None);
        assert_eq!(parse(b"libudev\0\xfe\xed"), None);
    }

    #[test]
    fn events_of_the_initiator() {
        let message = |kind: u32, words: [u32; 3]| {
            let mut body = vec![0; BODY];
            body.splice(0..4, kind.to_ne_bytes());
            words.iter().for_each(|word| body.extend(word.to_ne_bytes()));
            body.extend([0; 4]);
            let mut all = u32::try_from(HEADER + body.len()).expect("small").to_ne_bytes().to_vec();
            all.extend([0; 12]);
            all.extend(body);
            all
        };
        let mut datagram = message(102, [3, 0, 1022]);
        datagram.extend(message(106, [2, 4, 0]));
        datagram.extend(message(108, [0; 3]));
        datagram.extend(message(104, [2, 4, 0]));
        let expected = [
            IscsiEvent::Error { session: 3, connection: 0, code: 1022 },
            IscsiEvent::Created { session: 4 },
            IscsiEvent::Destroyed { session: 4 },
        ];
        assert_eq!(iscsi(&datagram), expected);
        for cut in 0..datagram.len() {
            assert!(iscsi(datagram.get(..cut).unwrap_or_default()).len() <= 3);
        }
    }

    proptest! {
        #[test]
        fn no_datagram_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(iscsi(&bytes).len() <= bytes.len() / HEADER);
            let mut text = b"change@/devices/virtual/block/dm-1/".to_vec();
            text.extend(bytes);
            prop_assert!(parse(&text).is_none_or(|event| event != Uevent::Device(String::new())));
        }
    }
}
