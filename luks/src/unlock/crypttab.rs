//! `/etc/crypttab`: which volumes are to be open under which names.

use std::path::{Path, PathBuf};

use host::ParseError;

use crate::spec::{Discards, MappingSpec, Source};

/// One line of `/etc/crypttab` that is about a LUKS volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CrypttabEntry {
    /// The volume and its name.
    pub spec: MappingSpec,
    /// The key file; `None` where somebody is asked ("none" or "-").
    pub key_file: Option<PathBuf>,
    /// All options, as they stand there.
    pub options: Vec<String>,
}

/// Options that say when, how often and by whom it is opened, and not how: they are not this crate's business.
const WHEN: [&str; 18] = [
    "luks",
    "auto",
    "noauto",
    "nofail",
    "fail",
    "timeout",
    "tries",
    "verify",
    "_netdev",
    "noearly",
    "initramfs",
    "loud",
    "quiet",
    "check",
    "checkargs",
    "headless",
    "password-echo",
    "password-cache",
];
/// The types of volumes that are no LUKS.
const OTHERS: [&str; 8] =
    ["plain", "swap", "tmp", "tcrypt", "tcrypt-veracrypt", "tcrypt-hidden", "bitlk", "fvault2"];

impl CrypttabEntry {
    /// Whether it is to be opened at boot: it has no option "noauto".
    #[must_use]
    pub fn is_auto(&self) -> bool {
        !self.options.iter().any(|option| option == "noauto")
    }

    /// The options that say how the volume is to be opened and that this crate does not carry out: opened without them, the volume would not
    /// be what the line asks for.
    #[must_use]
    pub fn unsupported(&self) -> Vec<&str> {
        let name = |option: &str| option.split('=').next().unwrap_or_default().to_owned();
        let known = |option: &str| {
            WHEN.contains(&name(option).as_str()) || option == "discard" || option.starts_with("x-")
        };
        self.options.iter().map(String::as_str).filter(|option| !known(option)).collect()
    }
}

/// Reads the text of a `crypttab`: name, device, key file, options. Lines about volumes that are not LUKS are left out.
///
/// ```
/// let text = "VM_STORAGE_1 UUID=1bd1f798-d105-4150-841b-f2751f419efc none luks,discard\nswap /dev/sda3 /dev/urandom swap\n";
/// let entries = luks::unlock::parse_crypttab(text)?;
/// assert_eq!(entries.len(), 1);
/// assert_eq!(entries[0].spec.name.as_str(), "VM_STORAGE_1");
/// # Ok::<(), luks::unlock::ParseError>(())
/// ```
///
/// # Errors
/// A line has no device, or its name is none that device-mapper takes.
pub fn parse(text: &str) -> Result<Vec<CrypttabEntry>, ParseError> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| entry(line).transpose()).collect()
}

fn entry(line: &str) -> Result<Option<CrypttabEntry>, ParseError> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(device)) = (words.next(), words.next()) else {
        return Err(ParseError::new(
            "line of crypttab",
            line,
            "the form is: name device [key-file [options]]",
        ));
    };
    let key_file = words.next().filter(|word| !["none", "-"].contains(word)).map(PathBuf::from);
    let options: Vec<String> = words.next().unwrap_or_default().split(',').map(str::to_owned).collect();
    let options: Vec<String> = options.into_iter().filter(|option| !option.is_empty()).collect();
    if options.iter().any(|option| OTHERS.contains(&option.as_str())) {
        return Ok(None);
    }
    let discards = match options.iter().any(|option| option == "discard") {
        true => Discards::Allowed,
        false => Discards::Blocked,
    };
    let spec = MappingSpec::new(name.parse()?, source(device)?).with_discards(discards);
    Ok(Some(CrypttabEntry { spec, key_file, options }))
}

/// Reads where a volume is: `UUID=`, `LABEL=` (a LUKS2 label), `PARTUUID=`, `PARTLABEL=`, a link of udev's, or a path.
pub(super) fn source(text: &str) -> Result<Source, ParseError> {
    let (kind, value) = text.split_once('=').unwrap_or_default();
    let value = value.trim_matches('"');
    Ok(match kind {
        "UUID" => Source::Uuid(value.parse()?),
        "LABEL" => Source::Label(value.to_owned()),
        "PARTUUID" => Source::Path(Path::new("/dev/disk/by-partuuid").join(value)),
        "PARTLABEL" => Source::Path(Path::new("/dev/disk/by-partlabel").join(value)),
        _ => match text.strip_prefix("/dev/disk/by-uuid/").map(str::parse) {
            Some(Ok(uuid)) => Source::Uuid(uuid),
            _ if text.starts_with('/') => Source::Path(PathBuf::from(text)),
            _ => return Err(ParseError::new("device", text, "write UUID=..., LABEL=... or a path")),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After crypttab(5) of Debian 12.
    const TEXT: &str = "# <name> <device> <key> <options>\n\
        VM_STORAGE_1\tUUID=1bd1f798-d105-4150-841b-f2751f419efc none luks,discard\n\n\
        data  LABEL=\"SAN data\"\n\
        by_link /dev/disk/by-uuid/d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc456 - luks,noauto,x-systemd.device-timeout=0\n\
        part PARTUUID=0a1b /etc/keys/part.key luks,tries=3\n\
        hdr /dev/sdc1 none luks,header=/boot/hdr.img,no-read-workqueue\n\
        swap /dev/sda3 /dev/urandom swap,cipher=aes-xts-plain64,size=256\n";

    #[test]
    fn lines_are_read_as_crypttab_means_them() {
        // A label with a blank is two words there, as in crypttab itself.
        let text = TEXT.replace("SAN data", "SAN_data");
        let entries = parse(&text).expect("good");
        let seen: Vec<_> = entries.iter().map(|e| format!("{} {}", e.spec.name, e.spec.source)).collect();
        let expected = [
            "VM_STORAGE_1 UUID=1bd1f798-d105-4150-841b-f2751f419efc",
            "data LABEL=SAN_data",
            "by_link UUID=d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc456",
            "part /dev/disk/by-partuuid/0a1b",
            "hdr /dev/sdc1",
        ];
        assert_eq!(seen, expected);
        assert!(entries[0].spec.flags.contains(crate::OpenFlags::ALLOW_DISCARDS));
        assert!(entries[0].is_auto() && !entries[2].is_auto());
        assert_eq!(entries[3].key_file.as_deref(), Some(Path::new("/etc/keys/part.key")));
        assert_eq!(entries[4].unsupported(), ["header=/boot/hdr.img", "no-read-workqueue"]);
        assert!(entries[..4].iter().all(|entry| entry.unsupported().is_empty()));
    }

    #[test]
    fn lines_that_cannot_be_meant_are_refused() {
        for bad in ["name", "a/b UUID=1bd1f798-d105-4150-841b-f2751f419efc", "x UUID=1bd1", "x sda1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
