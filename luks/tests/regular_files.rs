//! Everything up to the mapping works on regular files: format, check, backup, and the header reader against the library's own files.
#![allow(clippy::expect_used, clippy::panic, clippy::disallowed_methods, clippy::disallowed_types)] // It is a test.

use std::path::Path;
use std::process::Command;

use luks::{Error, FormatSpec, Header, Kdf, Overwrite, Secret, Version};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn image(dir: &Path, name: &str) -> std::io::Result<std::path::PathBuf> {
    let path = dir.join(name);
    std::fs::File::create(&path)?.set_len(32 << 20)?;
    Ok(path)
}

const QUICK: Kdf = Kdf::Pbkdf2Fixed { iterations: 1000 };

#[test]
fn both_versions_are_made_read_and_backed_up() -> Outcome {
    let dir = tempfile::tempdir()?;
    let key = Secret::from("written on the inside of the skull");
    let uuid: luks::Uuid = "1bd1f798-d105-4150-841b-f2751f419efc".parse()?;
    for (spec, version) in [
        (FormatSpec::luks2().with_label("VM_STORAGE_1").with_sector_size(512), Version::Luks2),
        (FormatSpec::luks1().with_cipher("aes-cbc-essiv:sha256", 256), Version::Luks1),
    ] {
        let device = image(dir.path(), &format!("{version:?}"))?;
        let cipher = spec.cipher.clone();
        let header =
            Header::format(&device, &spec.with_kdf(QUICK).with_uuid(uuid.clone()), &key, Overwrite::Never)?;
        assert_eq!((header.version, &header.uuid, header.cipher.as_str()), (version, &uuid, cipher.as_str()));
        assert_eq!((header.keyslots.len(), header.sector_size, header.needs_repair), (1, 512, false));
        assert_eq!(header.keyslots[0].kdf, "pbkdf2");
        Header::check(&device, &key)?;
        let error = Header::check(&device, &Secret::from("wrong")).expect_err("wrong");
        assert!(error.is_wrong_passphrase(), "{error}");
        // A second format is refused and changes nothing.
        let before = std::fs::read(&device)?;
        let error = Header::format(&device, &FormatSpec::luks2().with_kdf(QUICK), &key, Overwrite::Never);
        assert!(matches!(error, Err(Error::HoldsData { .. })));
        assert_eq!(std::fs::read(&device)?, before);
        let copy = dir.path().join(format!("{version:?}.header"));
        let backup = Header::backup(&device, &copy)?;
        assert_eq!((backup.uuid, backup.keyslots), (uuid.clone(), 1));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&copy)?.permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(Header::backup(&device, &copy), Err(Error::FileExists { .. })));
        // The copy opens with the same passphrase: what the warning in the documentation is about.
        Header::check(&copy, &key)?;
        peer_agrees(&device, &header)?;
    }
    Ok(())
}

/// `cryptsetup` reads what we made, where it is installed.
fn peer_agrees(device: &Path, header: &Header) -> Outcome {
    let Ok(output) = Command::new("cryptsetup").arg("luksUUID").arg(device).output() else { return Ok(()) };
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), header.uuid.as_str());
    Ok(())
}

#[test]
fn damage_is_told_from_absence() -> Outcome {
    let dir = tempfile::tempdir()?;
    let device = image(dir.path(), "disk")?;
    assert!(matches!(Header::read(&device), Err(Error::NotLuks { .. })));
    Header::format(&device, &FormatSpec::luks2().with_kdf(QUICK), &Secret::from("x"), Overwrite::Never)?;
    let good = std::fs::read(&device)?;
    let spoiled = |places: &[usize]| {
        let mut bytes = good.clone();
        places.iter().for_each(|at| bytes[*at] ^= 0xff);
        std::fs::write(&device, bytes)
    };
    // One copy: readable, and said. The first at 0, the second at 16 KiB; byte 5000 is in the JSON.
    for places in [&[5000][..], &[0], &[0x4000 + 5000], &[0x4000]] {
        spoiled(places)?;
        let header = Header::read(&device)?;
        assert!(header.needs_repair, "{places:?}");
    }
    spoiled(&[5000, 0x4000 + 5000])?;
    let error = Header::read(&device).expect_err("both");
    assert!(error.to_string().contains("wrong checksum"), "{error}");
    Ok(())
}

#[test]
fn errors_name_the_device() -> Outcome {
    let error = Header::read("/no/such/disk").expect_err("missing");
    assert_eq!(error.to_string(), "cannot read /no/such/disk");
    let dir = tempfile::tempdir()?;
    let device = image(dir.path(), "empty")?;
    let error = Header::check(&device, &Secret::from("x")).expect_err("no LUKS");
    assert!(matches!(error, Error::NotLuks { .. }), "{error:?}");
    Ok(())
}
