//! `/etc/crypttab`: which volumes are to be open under which names.

use std::path::{Path, PathBuf};

use host::{ParseError, Secret};

use super::Tokens;
use crate::error::Result;
use crate::spec::{MappingSpec, OpenFlags, Source};

/// One line of `/etc/crypttab` that is about a LUKS volume.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CrypttabEntry {
    /// The volume, its name, how it is opened, and where its header is.
    pub spec: MappingSpec,
    /// The key file; `None` where somebody is asked ("none" or "-").
    pub key_file: Option<PathBuf>,
    /// Where the key begins in that file, in bytes ("keyfile-offset="); default 0.
    pub key_file_offset: usize,
    /// How many bytes it has ("keyfile-size="); `None`: all that follow.
    pub key_file_size: Option<usize>,
    /// Whether its tokens are tried first: a TPM, a FIDO2 device or a smart card is to open it ("tpm2-device=auto").
    pub tokens: Tokens,
    /// All options, as they stand there.
    pub options: Vec<String>,
}

/// Options that say when, how often and by whom it is opened, and not how: they are not this crate's business.
const WHEN: [&str; 21] = [
    "luks",
    "auto",
    "noauto",
    "nofail",
    "fail",
    "timeout",
    "keyfile-timeout",
    "token-timeout",
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
    "fido2-cid",
];
/// What a LUKS header says itself: systemd and Debian's scripts pass over these for LUKS.
const IN_HEADER: [&str; 6] = ["cipher", "size", "hash", "offset", "skip", "sector-size"];
/// What the token says itself, if it is systemd's.
const IN_TOKEN: [&str; 4] = ["tpm2-pcrs", "fido2-rp", "tpm2-signature", "tpm2-measure-bank"];
/// Options for flags, by their names in crypttab(5) of systemd and of Debian.
const FLAGS: [(&str, OpenFlags); 7] = [
    ("discard", OpenFlags::ALLOW_DISCARDS),
    ("read-only", OpenFlags::READ_ONLY),
    ("readonly", OpenFlags::READ_ONLY),
    ("same-cpu-crypt", OpenFlags::SAME_CPU),
    ("submit-from-crypt-cpus", OpenFlags::SUBMIT_FROM_CRYPT_CPUS),
    ("no-read-workqueue", OpenFlags::NO_READ_WORKQUEUE),
    ("no-write-workqueue", OpenFlags::NO_WRITE_WORKQUEUE),
];
/// Where the key is to come from a device, which "auto" finds.
const DEVICES: [&str; 3] = ["tpm2-device", "fido2-device", "pkcs11-uri"];
/// The types of volumes that are no LUKS.
const OTHERS: [&str; 8] =
    ["plain", "swap", "tmp", "tcrypt", "tcrypt-veracrypt", "tcrypt-hidden", "bitlk", "fvault2"];

impl CrypttabEntry {
    /// Whether it is to be opened at boot: it has no option "noauto".
    #[must_use]
    pub fn is_auto(&self) -> bool {
        !self.options.iter().any(|option| option == "noauto")
    }

    /// The options that say how the volume is to be opened and that this crate does not carry out ("keyscript=", "keyfile-erase",
    /// "tpm2-pin=yes"): opened without them, the volume would not be what the line asks for.
    #[must_use]
    pub fn unsupported(&self) -> Vec<&str> {
        let known = |option: &str| {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            WHEN.contains(&name)
                || IN_HEADER.contains(&name)
                || IN_TOKEN.contains(&name)
                || FLAGS.iter().any(|(flag, _)| *flag == option)
                || (DEVICES.contains(&name) && value == "auto")
                || ["header", "key-slot", "keyslot", "keyfile-offset", "keyfile-size"].contains(&name)
                || (name == "tpm2-pin" && ["no", "false", "0", "off"].contains(&value))
                || option.starts_with("x-")
        };
        self.options.iter().map(String::as_str).filter(|option| !known(option)).collect()
    }

    /// Reads the key of the key file, every byte of it, or that part of it which the options name; `None` if the line has no key file.
    ///
    /// # Errors
    /// The file cannot be read, or has not that many bytes.
    pub fn read_key(&self) -> Result<Option<Secret>> {
        let read = |path| crate::key::read_part(path, self.key_file_offset, self.key_file_size);
        self.key_file.as_deref().map(read).transpose()
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
/// A line has no device, its name is none that device-mapper takes, or an option has a value that it cannot have.
pub fn parse(text: &str) -> std::result::Result<Vec<CrypttabEntry>, ParseError> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| entry(line).transpose()).collect()
}

fn entry(line: &str) -> std::result::Result<Option<CrypttabEntry>, ParseError> {
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
    let named = |option: &String| option.split('=').next().unwrap_or_default().to_owned();
    if options.iter().any(|option| OTHERS.contains(&named(option).as_str())) {
        return Ok(None);
    }
    let mut spec = MappingSpec::new(name.parse()?, source(device)?);
    let (mut key_file_offset, mut key_file_size, mut tokens) = (0, None, Tokens::PassOver);
    for option in &options {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let number = |what| {
            let bad = || ParseError::new("option of crypttab", option.as_str(), what);
            value.parse::<u32>().map_err(|_| bad())
        };
        let size = |what| Ok(usize::try_from(number(what)?).unwrap_or(usize::MAX));
        match name {
            "header" if value.starts_with('/') && !value.contains(':') => spec = spec.with_header(value),
            "header" => {
                let reason = "the header is named by its absolute path, and not on another file system";
                return Err(ParseError::new("option of crypttab", option.as_str(), reason));
            }
            "key-slot" | "keyslot" => spec = spec.with_keyslot(number("the number of a key slot")?),
            "keyfile-offset" => key_file_offset = size("a number of bytes")?,
            "keyfile-size" => key_file_size = Some(size("a number of bytes")?).filter(|size| *size > 0),
            name if DEVICES.contains(&name) => tokens = Tokens::Try,
            _ => {
                let flags = FLAGS.iter().filter(|(flag, _)| flag == option).map(|(_, flags)| *flags);
                spec = spec.with_flags(flags.collect());
            }
        }
    }
    spec.check()?;
    Ok(Some(CrypttabEntry { spec, key_file, key_file_offset, key_file_size, tokens, options }))
}

/// Reads where a volume is: `UUID=`, `LABEL=` (a LUKS2 label), `PARTUUID=`, `PARTLABEL=`, a link of udev's, or a path.
pub(super) fn source(text: &str) -> std::result::Result<Source, ParseError> {
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
        hdr /dev/sdc1 none luks,header=/boot/hdr.img,no-read-workqueue,readonly,keyfile-offset=4,keyfile-size=8,keyslot=3\n\
        tpm PARTUUID=0a1c - tpm2-device=auto,tpm2-pcrs=7,size=512\n\
        odd /dev/sdd none keyscript=/bin/x,tpm2-device=/dev/tpmrm1,tpm2-pin=yes,keyfile-erase,nofail\n\
        tmp /dev/sda4 /dev/urandom tmp=ext4,cipher=aes-xts-plain64\n\
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
            "tpm /dev/disk/by-partuuid/0a1c",
            "odd /dev/sdd",
        ];
        assert_eq!(seen, expected);
        assert!(entries[0].spec.flags.contains(OpenFlags::ALLOW_DISCARDS));
        assert!(entries[0].is_auto() && !entries[2].is_auto());
        assert_eq!(entries[3].key_file.as_deref(), Some(Path::new("/etc/keys/part.key")));
        let hdr = &entries[4];
        assert_eq!(hdr.spec.header.as_deref(), Some(Path::new("/boot/hdr.img")));
        assert_eq!(hdr.spec.flags, OpenFlags::NO_READ_WORKQUEUE | OpenFlags::READ_ONLY);
        assert_eq!((hdr.key_file_offset, hdr.key_file_size, hdr.spec.keyslot), (4, Some(8), Some(3)));
        assert!(entries[..5].iter().all(|entry| entry.tokens == Tokens::PassOver));
        assert_eq!(entries[5].tokens, Tokens::Try);
        assert!(entries[..6].iter().all(|entry| entry.unsupported().is_empty()), "{entries:?}");
        let odd = ["keyscript=/bin/x", "tpm2-device=/dev/tpmrm1", "tpm2-pin=yes", "keyfile-erase"];
        assert_eq!(entries[6].unsupported(), odd);
    }

    #[test]
    fn lines_that_cannot_be_meant_are_refused() {
        for bad in ["name", "a/b UUID=1bd1f798-d105-4150-841b-f2751f419efc", "x UUID=1bd1", "x sda1"]
            .into_iter()
            .chain(["x /dev/sda - header=hdr", "x /dev/sda - header=/hdr:UUID=1", "x /dev/sda - key-slot=a"])
            // No header on the device, so it has no UUID of LUKS.
            .chain([
                "x UUID=1bd1f798-d105-4150-841b-f2751f419efc - header=/hdr",
                "x /dev/sda - keyfile-size=-1",
            ])
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
