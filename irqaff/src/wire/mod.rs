//! Texts of the kernel and names of drivers, without I/O.

pub mod interrupts;
pub mod role;
