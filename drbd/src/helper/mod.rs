//! The program that the kernel calls when something happens: which one, what it is told, what it answers.

mod call;

pub use call::{Answer, Call, Fenced, Handler};

use std::path::{Path, PathBuf};

use crate::{Drbd, Error, FACILITY, Result};

/// The parameter of the module, 79 bytes and a NUL (`drbd_usermode_helper`, `drivers/block/drbd/drbd_main.c`).
const PARAMETER: &str = "/sys/module/drbd/parameters/usermode_helper";
const LONGEST: usize = 79;

impl Drbd {
    /// Reads which program the kernel calls before and after resyncs, to fence a peer, and so on. Default: `/sbin/drbdadm`.
    ///
    /// # Errors
    /// The parameter cannot be read.
    pub fn helper(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(self.host.tree().read(PARAMETER)?.trim_end()))
    }

    /// Sets the program that the kernel calls, for all resources; says whether it was another one. Writes
    /// `/sys/module/drbd/parameters/usermode_helper`.
    ///
    /// **Do this when drbd-utils is installed and there is no drbd.conf that describes the resources.** drbdadm, the default, then ends with
    /// code 1 on every call, and the kernel drops the connection when `before-resync-source` or `before-resync-target` ends with
    /// an error: no resync ever runs (`drbd_start_resync`, `drbd_worker.c`). A program that does not exist
    /// counts as none, which is right unless `fencing` is used: then it must answer `fence-peer` ([`Handler::FencePeer`]).
    ///
    /// The kernel starts it by this path, with no words but its own ([`Call`]): a program with subcommands needs a link by whose name it
    /// knows that it is called as helper.
    ///
    /// # Errors
    /// [`Error::Parse`] if the path is relative or longer than 79 bytes; [`Error::Tree`] if it cannot be written.
    #[doc(alias = "usermode_helper")]
    pub fn set_helper(&self, program: &Path) -> Result<bool> {
        let text = program
            .to_str()
            .filter(|text| program.is_absolute() && text.len() <= LONGEST && !text.contains('\n'));
        let bad = || {
            crate::ParseError::new(
                "helper",
                program.display().to_string(),
                "an absolute path of at most 79 bytes",
            )
        };
        let text = text.ok_or_else(bad).map_err(Error::from)?;
        if self.helper()? == program {
            return Ok(false);
        }
        self.host.tree().write(PARAMETER, text)?;
        log::debug!("{FACILITY}: helper is {text}");
        Ok(true)
    }
}
