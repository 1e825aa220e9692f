//! Persistent reservations: read where the kernel keeps them, and carried to the node that serves next.

use crate::Lio;
use crate::error::{Error, Result};
use crate::name::UnitSerial;
use crate::state::TARGET;
use crate::wire::aptpl::{self, Registration};

impl Lio {
    /// Reads the persistent reservations of a disk from where the kernel keeps them for its next start (`<dbroot>/pr/aptpl_SERIAL`); empty if
    /// there are none. The last orderly stop is in it: that a LUN goes does not change the file.
    ///
    /// The kernel writes what initiators ask it to keep (APTPL); with the attribute `force_pr_aptpl` 1 it keeps all. To carry them to the other
    /// node of a floating pair give them to the disk there: [`BackstoreSpec::with_reservations`](crate::BackstoreSpec::with_reservations).
    ///
    /// # Errors
    /// The file cannot be read, or is not the kernel's.
    #[doc(alias = "sg_persist")]
    pub fn reservations(&self, serial: &UnitSerial) -> Result<Vec<Registration>> {
        let dir = self.tree().read(format!("{TARGET}/dbroot")).map_err(Error::unreadable)?;
        let file = format!("{}/pr/aptpl_{serial}", dir.trim());
        let text = self.tree().read_opt(file).map_err(Error::unreadable)?;
        Ok(aptpl::parse(&text.unwrap_or_default())?)
    }
}
