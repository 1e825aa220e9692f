//! `san-node` as DRBD's helper: the program that the kernel calls before and after resyncs, at a split brain, to fence a peer.
//!
//! It answers at once, asks nobody (the kernel may hold the lock of all netlink commands while it waits), and writes one line to the kernel's
//! log for each call. Exit codes:
//!
//! | handler | code | what the kernel makes of it |
//! | --- | --- | --- |
//! | `before-resync-target`, `before-resync-source` | 0 | the resync begins; any veto would drop the connection |
//! | `fence-peer` | 1 | the peer is not fenced: I/O goes on standing still, or the promotion is refused. Nothing here knows that a peer is dead |
//! | `split-brain`, `after-resync-target`, `out-of-sync` and all others | 0 | ignored |
//! | no handler at all | 64 | |

use drbd::helper::{Call, Handler};
use host::Host;

/// The name by which it is called.
pub const NAME: &str = "drbd-helper";
/// `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;

/// Answers a call: the words behind the program's name; returns the exit code.
#[must_use]
pub fn answer(host: &Host, words: &[String], environment: impl Fn(&str) -> Option<String>) -> u8 {
    let (code, level, said) = match Call::read(words, environment) {
        Ok(call) => {
            let level = match call.handler {
                // To be looked at: err.
                Handler::SplitBrain
                | Handler::FencePeer
                | Handler::LocalIoError
                | Handler::OutOfSync
                | Handler::PriLost
                | Handler::PriLostAfterSb
                | Handler::PriOnInconDegr => 3,
                // info.
                _ => 6,
            };
            let hint = match call.handler {
                Handler::SplitBrain => {
                    "; nothing is synced until a person chooses whose changes are thrown away"
                }
                Handler::FencePeer => "; not fenced, there is nothing here that could",
                _ => "",
            };
            let code = call.neutral().code();
            (code, level, format!("{call}: answered {code}{hint}"))
        }
        Err(error) => (USAGE, 4, error.to_string()),
    };
    // It is called with no descriptors open; the kernel's log is where the other half of the story stands.
    // Where even that fails nobody can be told; the answer counts.
    let _ = host.tree().write("/dev/kmsg", format!("<{level}>sankit {NAME}: {said}\n"));
    code
}

/// Whether the program was called by its name as helper.
#[must_use]
pub fn is_called(program: Option<&str>) -> bool {
    program.and_then(|path| path.rsplit('/').next()) == Some(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::fake::Memory;

    fn called(words: &[&str]) -> (u8, String) {
        let memory = Memory::new();
        memory.edit(|nodes| nodes.put("/dev/kmsg", ""));
        let host = Host::fake().with_tree(memory.tree());
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let code = answer(&host, &words, |name| (name == "DRBD_PEER_ADDRESS").then(|| "10.0.0.2".to_owned()));
        (code, host.tree().read("/dev/kmsg").unwrap_or_default())
    }

    #[test]
    fn a_resync_is_never_vetoed_and_no_peer_is_said_to_be_fenced() {
        for (words, code, said) in [
            (
                &["before-resync-target", "minor-0"][..],
                0,
                "<6>sankit drbd-helper: before-resync-target of minor 0, peer 10.0.0.2: answered 0",
            ),
            (&["before-resync-source", "minor-0"], 0, "answered 0"),
            (
                &["fence-peer", "r0"],
                1,
                "<3>sankit drbd-helper: fence-peer of r0, peer 10.0.0.2: answered 1; not fenced",
            ),
            (&["split-brain", "minor-1"], 0, "a person chooses"),
            (&["something-new", "minor-1"], 0, "something-new"),
            (&[], 64, "expected"),
        ] {
            let (is, log) = called(words);
            assert_eq!(is, code, "{words:?}");
            assert!(log.contains(said), "{log}");
        }
    }

    #[test]
    fn it_knows_itself_by_its_name() {
        assert!(is_called(Some("/run/sankit/drbd-helper")) && is_called(Some("drbd-helper")));
        assert!(!is_called(Some("/usr/local/bin/san-node")) && !is_called(None));
    }
}
