//! What `lvmlockctl --info` prints (`daemons/lvmlockd/lvmlockctl.c` of lvm2 2.03.16, `format_info_*`):
//!
//! ```text
//! VG vms lock_type=sanlock 8PMoYp-...
//! LS sanlock lvm_vms
//! LK GL un ver 2
//! LK VG ex ver 5 pid 123 (lvcreate)
//! LK LV ex 2GpZB9-...
//! LW LV ex 2GpZB9-...
//! ```
//!
//! `LK GL|VG un` says that the lock is known and nobody of this host has it; `LW` is a wait for one.

use super::super::state::{LockHeld, LockKind, LockMode, LockspaceState};

/// The lockspaces of this host.
pub(in super::super) fn info(text: &str) -> Vec<LockspaceState> {
    let mut spaces: Vec<LockspaceState> = Vec::new();
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["VG", name, kind, uuid, ..] => {
                let kind = kind.strip_prefix("lock_type=").unwrap_or(kind);
                spaces.push(LockspaceState::new((*name).to_owned(), kind, (*uuid).to_owned()));
            }
            ["LS", _, name, ..] => {
                if let Some(space) = spaces.last_mut() {
                    (*name).clone_into(&mut space.lockspace);
                }
            }
            ["LK", kind, mode, rest @ ..] => {
                let uuid = rest.first().filter(|_| *kind == "LV").map(|word| (*word).to_owned());
                let lock = LockHeld::new(LockKind::from_word(kind), LockMode::from_word(mode), uuid);
                if let Some(space) = spaces.last_mut().filter(|_| lock.mode != LockMode::Unlocked) {
                    space.locks.push(lock);
                }
            }
            _ => {}
        }
    }
    spaces
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "\
VG vms lock_type=sanlock 8PMoYp-zJ4b-0001
LS sanlock lvm_vms
LK GL un ver 2
LK VG ex ver 5 pid 123 (lvcreate)
LK LV ex 2GpZB9-Lf3k
LK LV sh 9Aaaaa-Lf3k
LK LV un 7Bbbbb-Lf3k
LW LV ex 2GpZB9-Lf3k
VG other lock_type=dlm 1111
LS dlm lvm_other
";

    #[test]
    fn held_locks_are_listed_by_group() {
        let spaces = info(INFO);
        assert_eq!(spaces.len(), 2);
        let vms = &spaces[0];
        assert_eq!((vms.vg.as_str(), vms.lockspace.as_str(), vms.locks.len()), ("vms", "lvm_vms", 3));
        assert_eq!(vms.lv_mode("2GpZB9-Lf3k"), Some(&LockMode::Exclusive));
        assert_eq!(vms.lv_mode("9Aaaaa-Lf3k"), Some(&LockMode::Shared));
        assert_eq!(vms.lv_mode("7Bbbbb-Lf3k"), None);
        assert_eq!(spaces[1].kind.as_str(), "dlm");
    }

    #[test]
    fn nothing_is_no_lockspace() {
        assert!(info("").is_empty());
    }
}
