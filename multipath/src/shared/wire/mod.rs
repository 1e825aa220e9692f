//! What lvm, lvmlockctl and sanlock print.

pub(super) mod lvm;
pub(super) mod lvmlockd;
pub(super) mod sanlock;
