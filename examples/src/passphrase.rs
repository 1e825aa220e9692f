//! Where a passphrase comes from: a terminal, a credential of systemd's, or whoever answers systemd's password requests.

use std::fs::{DirBuilder, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use luks::Secret;

/// Where agents look for requests: the plymouth at boot, `systemd-tty-ask-password-agent`, a desktop.
pub const ASK_DIR: &str = "/run/systemd/ask-password";

/// Asks on the terminal, without echo.
///
/// # Errors
/// There is no terminal.
pub fn prompt(question: &str) -> Result<Secret> {
    let text =
        rpassword::prompt_password(format!("{question}: ")).context("no passphrase from the terminal")?;
    // The text's own memory moves into the secret; no copy stays behind.
    Ok(Secret::new(text.into_bytes()))
}

/// Reads a credential that systemd gave this service: `LoadCredential=`, `LoadCredentialEncrypted=`, `SetCredentialEncrypted=`.
///
/// # Errors
/// This is no service with credentials, or has none of this name.
pub fn credential(name: &str) -> Result<Secret> {
    let dir = std::env::var_os("CREDENTIALS_DIRECTORY").context(
        "CREDENTIALS_DIRECTORY is not set: systemd gives credentials to services only (LoadCredential=)",
    )?;
    if name.is_empty() || name.contains('/') {
        bail!("{name:?} is no name of a credential");
    }
    Ok(Secret::read(Path::new(&dir).join(name))?)
}

/// A request that is withdrawn when dropped.
struct Request {
    dir: PathBuf,
    file: PathBuf,
}

impl Drop for Request {
    fn drop(&mut self) {
        for gone in [std::fs::remove_file(&self.file), std::fs::remove_dir_all(&self.dir)] {
            // What is not there needs no removing, and an agent skips a request whose process is gone.
            let _ = gone;
        }
    }
}

/// Asks whoever answers password requests on this machine (`https://systemd.io/PASSWORD_AGENTS/`), and waits so long for an answer.
///
/// The socket stands in a directory that only root may enter, so that nobody else can answer.
///
/// # Errors
/// Nobody answered in time, or somebody refused to.
pub fn ask(agents: &Path, question: &str, patience: Duration) -> Result<Secret> {
    let id = std::process::id();
    let dir = agents.with_file_name(format!("sankit-ask-{id}"));
    let request = Request { dir: dir.clone(), file: agents.join(format!("ask.sankit-{id}")) };
    DirBuilder::new().mode(0o700).create(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join("socket");
    let socket = UnixDatagram::bind(&path).with_context(|| format!("cannot bind {}", path.display()))?;
    socket.set_read_timeout(Some(patience))?;
    // Agents read it when it is renamed to "ask.".
    let draft = agents.join(format!("tmp.sankit-{id}"));
    let text = format!(
        "[Ask]\nPID={id}\nSocket={}\nAcceptCached=0\nEcho=0\nNotAfter=0\nMessage={question}\nIcon=drive-harddisk\nId=sankit:{id}\n",
        path.display()
    );
    let written = File::create(&draft).and_then(|mut file| {
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())
    });
    written
        .and_then(|()| std::fs::rename(&draft, &request.file))
        .with_context(|| format!("cannot ask in {}", agents.display()))?;
    // One buffer from the kernel to the secret: a copy would stay behind.
    let mut answer = vec![0; 64 * 1024];
    let length = socket.recv(&mut answer).context("nobody answered the password request in time")?;
    answer.truncate(length);
    let is_yes = answer.first() == Some(&b'+');
    if is_yes {
        answer.remove(0);
        // An agent may send several that it has cached, one after another with NUL bytes between.
        let end = answer.iter().position(|b| *b == 0).unwrap_or(answer.len());
        answer.iter_mut().skip(end).for_each(|b| *b = 0);
        answer.truncate(end);
    }
    let secret = Secret::new(answer);
    if is_yes { Ok(secret) } else { bail!("the password request was refused") }
}
