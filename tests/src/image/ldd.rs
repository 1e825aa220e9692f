//! The shared libraries of a program.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::tool;

/// Returns the paths of all shared libraries and the loader that a program needs, as the host finds them.
/// Empty for a static program.
pub(crate) fn closure(program: &Path) -> Result<Vec<PathBuf>> {
    // ldd fails for static programs and says so.
    let text = match tool("ldd", [program]) {
        Ok(text) => text,
        Err(e) if e.to_string().contains("not a dynamic executable") => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    parse(&text, program)
}

fn parse(text: &str, program: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.contains("=> not found") {
            bail!("{} needs a library that the host does not have: {line}", program.display());
        }
        let path = line.split_once(" => ").map_or(line, |(_, path)| path);
        let path = path.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_and_every_library_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x0000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = parse(text, Path::new("/bin/x")).unwrap();
        assert_eq!(
            found,
            [Path::new("/lib/x86_64-linux-gnu/libc.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]
        );
        assert!(parse("\tlibx.so => not found\n", Path::new("/bin/x")).is_err());
    }
}
