//! The lock of open-iscsi's database.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use host::{Deadline, Host, LockError};

use crate::error::{Error, Result};

/// open-iscsi's own lock: a hard link that only one process can make (`idbm_lock`, `usr/idbm.c`).
#[derive(Debug)]
pub(super) struct DbLock(Option<PathBuf>);

impl DbLock {
    /// Waits for it as open-iscsi does, a try every 10 ms, for 30 s at most.
    pub(super) fn take(host: &Host, deadline: Deadline) -> Result<Self> {
        // Beside our own directory below /run, so that tests have a lock of their own, and captured trees none.
        let Some(dir) = host.run_dir().and_then(Path::parent).map(|run| run.join("lock/iscsi")) else {
            return Ok(Self(None));
        };
        let (file, link) = (dir.join("lock"), dir.join("lock.write"));
        let failed =
            |source: io::Error| Error::Locked(LockError::Io { path: link.display().to_string(), source });
        fs::DirBuilder::new().recursive(true).mode(0o770).create(&dir).map_err(failed)?;
        let options = &mut fs::OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o666)
            .open(&file)
            .map_err(failed)?;
        let deadline = deadline.or_after(Duration::from_secs(30));
        loop {
            match fs::hard_link(&file, &link) {
                Ok(()) => return Ok(Self(Some(link))),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
            if !deadline.pause(Duration::from_millis(10)) {
                let holder = "iscsiadm or iscsid; if none runs, one was killed: remove the file".to_owned();
                return Err(Error::Locked(LockError::Held { path: link.display().to_string(), holder }));
            }
        }
    }
}

impl Drop for DbLock {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.as_ref().map(fs::remove_file) {
            log::debug!("multipath: cannot give back open-iscsi's lock: {error}");
        }
    }
}
