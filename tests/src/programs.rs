//! Programs of this workspace for guests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Builds programs of this workspace as `make build` does, which takes no time if that was done: each list is what follows
/// `cargo build --profile lab`, such as `["-p", "sankit-examples", "--bin", "san-node"]`.
/// Returns the directory they are in (examples are in its `examples`).
///
/// # Errors
/// Cargo does not start, or a program is not built; cargo has said why on stderr.
pub fn programs(lists: &[&[&str]]) -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let target = workspace.join(target);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    for words in lists {
        let built = Command::new(&cargo)
            .args(["build", "--quiet", "--profile", "lab"])
            .args(*words)
            .current_dir(&workspace)
            .env("CARGO_TARGET_DIR", &target)
            .status()
            .context("cargo does not start")?;
        ensure!(built.success(), "{} was not built", words.join(" "));
    }
    Ok(target.join("lab"))
}
