//! What sanlock 3.8.5 prints: `client status -D`, `client gets -h 1`, `client host_status -D` and `direct dump`.

use super::super::HostId;
use super::super::state::{HostLiveness, HostState, Lease, SanlockSpace, SanlockState, SpacePhase};

/// `sanlock client status -D`: a line for each object, its values indented below it.
pub(in super::super) fn status(text: &str) -> Option<SanlockState> {
    let mut lines = text.lines();
    let name = lines.find_map(|line| line.strip_prefix("daemon "))?.trim().to_owned();
    let mut state = SanlockState::new(name);
    let mut in_daemon = true;
    for line in lines {
        if let Some((key, value)) = line.trim_start().split_once('=').filter(|_| line.starts_with(' ')) {
            match (in_daemon, key) {
                (true, "use_watchdog") => state.watchdog = Some(value.trim() != "0"),
                (true, "version_str") => state.version = value.trim().to_owned(),
                (false, "io_timeout") => {
                    if let (Some(space), Ok(seconds)) = (state.spaces.last_mut(), value.trim().parse()) {
                        space.io_timeout = Some(std::time::Duration::from_secs(seconds));
                    }
                }
                (false, "space_dead" | "killing_pids") if value.trim() != "0" => {
                    if let Some(space) = state.spaces.last_mut() {
                        space.phase = SpacePhase::Lost;
                    }
                }
                _ => {}
            }
            continue;
        }
        in_daemon = false;
        state.spaces.extend(line.strip_prefix("s ").and_then(space));
    }
    Some(state)
}

/// `NAME:HOST_ID:PATH:OFFSET [ADD|REM]`; a colon in the path is written `\:`.
fn space(line: &str) -> Option<SanlockSpace> {
    let (place, word) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    let (name, rest) = place.split_once(':')?;
    let (id, rest) = rest.split_once(':')?;
    let (path, _) = rest.rsplit_once(':')?;
    let phase = match word.trim() {
        "" => SpacePhase::Joined,
        "ADD" => SpacePhase::Joining,
        "REM" => SpacePhase::Leaving,
        other => SpacePhase::Other(other.to_owned()),
    };
    Some(SanlockSpace::new(name.to_owned(), id.parse().ok()?, path.replace("\\:", ":"), phase))
}

/// `sanlock client gets -h 1` for one lockspace: `h 2 gen 1 timestamp 2309 FAIL`. `names` is `client host_status -D` of the same, which knows
/// the names.
pub(in super::super) fn hosts(text: &str, names: &str, lockspace: &str) -> Vec<HostState> {
    let owners = owners(names, lockspace);
    let mut found = Vec::new();
    let mut here = false;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("s ") {
            here = rest.split(':').next() == Some(lockspace);
            continue;
        }
        let words: Vec<_> = line.split_whitespace().collect();
        if let (true, ["h", id, "gen", generation, "timestamp", timestamp, word, ..]) =
            (here, words.as_slice())
            && let (Ok(id), Ok(generation), Ok(timestamp)) =
                (id.parse::<HostId>(), generation.parse(), timestamp.parse())
        {
            let name = owners.iter().find(|(owner, _)| *owner == id).map(|(_, name)| name.clone());
            found.push(HostState::new(id, name, generation, timestamp, HostLiveness::from_word(word)));
        }
    }
    found
}

/// The hosts' names in `sanlock client host_status -D`.
fn owners(text: &str, lockspace: &str) -> Vec<(HostId, String)> {
    let mut found = Vec::new();
    let (mut here, mut id) = (false, None);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("lockspace ") {
            here = name.trim() == lockspace;
        } else if !line.starts_with(' ') {
            id = line.split_whitespace().next().and_then(|word| word.parse::<HostId>().ok());
        } else if let (true, Some(id), Some(name)) = (here, id, line.trim().strip_prefix("owner_name="))
            && !name.is_empty()
        {
            found.push((id, name.to_owned()));
        }
    }
    found
}

/// `sanlock direct dump PATH[:OFFSET[:SIZE]]`: the leases as they are on the disk.
///
/// ```text
///   offset      lockspace                resource  timestamp  own  gen lver
/// 00000512      lvm_vms                 uuid2.hv2 0000002377 0002 0001
/// 01048576      lvm_vms  <UUID of a volume or VGLK> 0000002351 0001 0001 1
///                                                           0002 0001 SH
/// ```
///
/// A lease without the last number is a host's; a lease that is held shared names its hosts on the lines below it.
pub(in super::super) fn dump(text: &str) -> Vec<Lease> {
    let mut leases: Vec<Lease> = Vec::new();
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            [owner, _, "SH"] => {
                if let (Some(lease), Ok(owner)) = (leases.last_mut(), owner.parse()) {
                    lease.shared_by.push(owner);
                }
            }
            [offset, lockspace, resource, timestamp, owner, generation, rest @ ..] => {
                if let (Ok(offset), Ok(timestamp), Ok(generation)) =
                    (offset.parse(), timestamp.parse(), generation.parse())
                {
                    let (lockspace, resource) = ((*lockspace).to_owned(), (*resource).to_owned());
                    let mut lease = Lease::new(offset, lockspace, resource, timestamp);
                    // 0 is nobody, and no number of a host.
                    lease.owner = owner.parse().ok();
                    lease.generation = generation;
                    lease.is_host = rest.is_empty();
                    leases.push(lease);
                }
            }
            _ => {}
        }
    }
    leases
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = include_str!("../../../tests/fixtures/shared/sanlock-status-debug.txt");
    const GETS: &str = include_str!("../../../tests/fixtures/shared/sanlock-gets.txt");
    const HOSTS: &str = include_str!("../../../tests/fixtures/shared/sanlock-hosts.txt");
    const DUMP: &str = include_str!("../../../tests/fixtures/shared/sanlock-dump.txt");

    fn id(id: u16) -> HostId {
        HostId::new(id).expect("a number")
    }

    #[test]
    fn the_daemon_says_whether_it_uses_a_watchdog() {
        let state = status(STATUS).expect("a daemon");
        assert_eq!((state.name.as_str(), state.version.as_str()), ("uuid1.hv1", "3.8.5"));
        assert_eq!(state.watchdog, Some(false));
        assert_eq!(state.spaces.len(), 1);
        let space = &state.spaces[0];
        assert_eq!(
            (space.name.as_str(), space.host_id, space.path.to_str()),
            ("lvm_vg1", id(1), Some("/tmp/c/ls"))
        );
        assert_eq!(
            (&space.phase, space.io_timeout),
            (&SpacePhase::Joined, Some(std::time::Duration::from_secs(1)))
        );
    }

    #[test]
    fn a_lockspace_may_be_joining_and_its_path_hold_a_colon() {
        let state = status("daemon x\ns lvm_a:7:/dev/mapper/a\\:b-lvmlock:0 ADD\ns lvm_b:8:/x:0 REM\n")
            .expect("a daemon");
        assert_eq!((state.watchdog, state.spaces.len()), (None, 2));
        assert_eq!(
            (&state.spaces[0].phase, state.spaces[0].path.to_str()),
            (&SpacePhase::Joining, Some("/dev/mapper/a:b-lvmlock"))
        );
        assert_eq!(state.spaces[1].phase, SpacePhase::Leaving);
        assert!(status("connect error\n").is_none());
    }

    #[test]
    fn hosts_have_names_and_are_alive_or_not() {
        let hosts_of = |gets: &str| hosts(gets, HOSTS, "lvm_vg1");
        let found = hosts_of(GETS);
        let seen: Vec<_> = found.iter().map(|h| (h.id.get(), h.name.as_deref(), &h.liveness)).collect();
        let live = &HostLiveness::Live;
        assert_eq!(seen, [(1, Some("uuid1.hv1"), live), (2, Some("uuid2.hv2"), live)]);
        assert_eq!(hosts_of(&GETS.replace("LIVE", "FAIL"))[1].liveness, HostLiveness::Failing);
        assert_eq!(
            hosts_of(&GETS.replace("LIVE", "NEWS"))[1].liveness,
            HostLiveness::Other("NEWS".to_owned())
        );
        assert!(hosts(GETS, HOSTS, "lvm_other").is_empty());
    }

    #[test]
    fn leases_name_their_holders() {
        let leases = dump(DUMP);
        assert_eq!(leases.len(), 4);
        let names: Vec<_> =
            leases.iter().filter(|l| l.is_host).map(|l| (l.owner, l.resource.as_str())).collect();
        assert_eq!(names, [(Some(id(1)), "uuid1.hv1"), (Some(id(2)), "uuid2.hv2")]);
        assert_eq!(leases[2].holders(), [id(1)]);
        assert_eq!(leases[3].holders(), [id(1), id(2)]);
        assert!(!leases[2].is_shared() && leases[3].is_shared());
    }

    #[test]
    fn a_released_lease_has_no_holder() {
        let line = "01048576  lvm_vg1  resA 0000000000 0001 0003 9\n";
        assert!(dump(line)[0].holders().is_empty());
    }
}
