//! Who uses a device: looked for only after the kernel refused.

use std::path::Path;

use host::Host;

/// Who holds a device, as far as the kernel tells: devices on top of it, mounts, swap, processes that have it open. One text for an error.
pub(crate) fn of(host: &Host, device: &Path) -> String {
    let tree = host.tree();
    let device = resolve(host, device);
    let base = device.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut found = Vec::new();
    for entry in tree.list_opt(format!("/sys/class/block/{base}/holders")).unwrap_or_default() {
        let name = tree.read_opt(format!("/sys/class/block/{}/dm/name", entry.name)).ok().flatten();
        found.push(name.map_or(entry.name, |name| format!("/dev/mapper/{}", name.trim())));
    }
    let number = tree.read_opt(format!("/sys/class/block/{base}/dev")).ok().flatten().unwrap_or_default();
    let mounts = tree.read_opt("/proc/self/mountinfo").ok().flatten().unwrap_or_default();
    found.extend(mounted(&mounts, number.trim()).map(|place| format!("the mount {place}")));
    let swaps = tree.read_opt("/proc/swaps").ok().flatten().unwrap_or_default();
    let swap = |line: &str| {
        line.split_whitespace().next().is_some_and(|path| resolve(host, Path::new(path)) == device)
    };
    found.extend(swaps.lines().skip(1).any(swap).then(|| "swap".to_owned()));
    found.extend(processes(host, &device));
    if found.is_empty() {
        "another mapping, mount or process (see lsblk and lsof)".to_owned()
    } else {
        found.join(", ")
    }
}

/// `/dev/mapper/x` and `/dev/disk/by-id/x` lead to `/dev/dm-0`.
fn resolve(host: &Host, device: &Path) -> std::path::PathBuf {
    let mut place = device.to_path_buf();
    for _ in 0..8 {
        match host.tree().read_link(&place) {
            Ok(next) => place = next,
            Err(_) => break,
        }
    }
    place
}

/// Where a device number is mounted (`/proc/PID/mountinfo`: the third field is the number, the fifth the place).
fn mounted<'a>(mountinfo: &'a str, number: &'a str) -> impl Iterator<Item = &'a str> {
    mountinfo.lines().filter_map(move |line| {
        let mut fields = line.split(' ');
        let here = fields.nth(2)? == number && !number.is_empty();
        fields.nth(1).filter(|_| here)
    })
}

/// Processes that have it open, by program and number. Those of others are seen by root only.
fn processes(host: &Host, device: &Path) -> Vec<String> {
    let tree = host.tree();
    let mut found = Vec::new();
    for entry in tree.list_opt("/proc").unwrap_or_default() {
        if !entry.name.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let base = format!("/proc/{}", entry.name);
        // A process may end while it is looked at: then it holds nothing.
        let open = tree.list_opt(format!("{base}/fd")).unwrap_or_default();
        if open.iter().any(|fd| tree.read_link(format!("{base}/fd/{}", fd.name)).is_ok_and(|to| to == device))
        {
            let name = tree.read_opt(format!("{base}/comm")).ok().flatten().unwrap_or_default();
            found.push(format!("{} (process {})", name.trim(), entry.name));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_number() {
        let text = "26 1 253:5 / /srv/data rw,relatime shared:1 - ext4 /dev/mapper/x rw\n27 1 253:6 / /b rw - xfs /dev/y rw\n";
        assert_eq!(mounted(text, "253:5").collect::<Vec<_>>(), ["/srv/data"]);
        assert_eq!(mounted(text, "").count(), 0);
        assert_eq!(mounted("broken\n", "253:5").count(), 0);
    }

    #[test]
    fn a_process_that_has_a_file_open_is_named() -> Result<(), Box<dyn std::error::Error>> {
        let file = tempfile::NamedTempFile::new()?;
        let text = of(&Host::live(), file.path());
        assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
        Ok(())
    }
}
