//! One lock a facility: two processes that apply at once wait for each other, or fail with who holds it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use crate::{Deadline, LockError};

/// A lock that is held until this value is dropped. Made by [`Host::lock`](crate::Host::lock).
#[derive(Debug)]
#[must_use = "the lock is released when this value is dropped"]
pub struct Lock(#[allow(dead_code)] Option<File>);

impl Lock {
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Takes an advisory lock (`flock(2)`) on a file, which is made if missing, together with its directory. Other programs' lock
    /// files (targetcli's, rtslib's) can be named too.
    ///
    /// # Errors
    /// [`LockError::Held`] when the deadline passes first; [`LockError::Io`] when the file cannot be made.
    pub fn take(path: &Path, deadline: Deadline) -> Result<Self, LockError> {
        let shown = path.display().to_string();
        let failed = |source| LockError::Io { path: shown.clone(), source };
        let open =
            || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let mut file = match (open(), path.parent()) {
            // The first one since the boot.
            (Err(error), Some(dir)) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o755).create(dir).and_then(|()| open())
            }
            (file, _) => file,
        }
        .map_err(failed)?;
        // flock has no deadline of its own, and a signal to break it would be the whole process's.
        while !crate::sys::try_lock(file.as_fd()).map_err(failed)? {
            if !deadline.pause(Duration::from_millis(20)) {
                return Err(LockError::Held { path: shown, holder: holder(&mut file) });
            }
        }
        // Who holds it, for the error of the next one; a failure to say so is no failure to lock.
        let told = format!("{} {}", std::process::id(), command_line());
        let told = file.write_all_at(told.as_bytes(), 0).and_then(|()| file.set_len(told.len() as u64));
        if let Err(error) = told {
            log::debug!("cannot write who holds {shown}: {error}");
        }
        Ok(Self(Some(file)))
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.rewind().and_then(|()| file.read_to_string(&mut text)) {
        Ok(_) if !text.trim().is_empty() => format!("process {}", text.trim()),
        _ => "another process".to_owned(),
    }
}

/// The program's name: enough to find it, and nothing of its arguments, which may hold what a log must not.
fn command_line() -> String {
    std::env::args_os().next().map_or_else(String::new, |arg| arg.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_holds_it() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("deep/lio.lock");
        let first = Lock::take(&path, Deadline::after(Duration::ZERO))?;
        let error = Lock::take(&path, Deadline::after(Duration::from_millis(30))).expect_err("held");
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        drop(Lock::take(&path, Deadline::after(Duration::ZERO))?);
        Ok(())
    }
}
