//! Metadata against the stock tool: what both make is the same, byte for byte, and each reads what the other wrote.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use drbd::{Host, MetaDisk, Metadata, MetadataSpec, Minor, Overwrite, Volume, VolumeSpec};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// A minor that nobody uses: drbdmeta keeps notes on it.
const MINOR: &str = "4093";
const MEBI: u64 = 1 << 20;

type Outcome = Result<(), Failed>;
type Case = (&'static str, fn() -> Outcome);

/// Runs a program; what it printed, or what it complained.
fn run(program: &str, words: &[&str]) -> Result<String, Failed> {
    let output = Command::new(program).args(words).stdin(std::process::Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(said),
        false => {
            Err(format!("{program} {words:?}: {said}{}", String::from_utf8_lossy(&output.stderr)).into())
        }
    }
}

fn drbdmeta(
    options: &[&str],
    format: &str,
    device: &Path,
    index: &str,
    verb: &[&str],
) -> Result<String, Failed> {
    let mut words = vec!["--force"];
    words.extend(options);
    words.extend([MINOR, format, device.to_str().expect("a path"), index]);
    words.extend(verb);
    run("/usr/sbin/drbdmeta", &words)
}

/// A sparse file, and a loop device of it where one is needed.
struct Image {
    file: tempfile::NamedTempFile,
    device: Option<PathBuf>,
}

impl Image {
    fn new(size: u64) -> Result<Self, Failed> {
        let file = tempfile::NamedTempFile::new()?;
        file.as_file().set_len(size)?;
        Ok(Self { file, device: None })
    }

    fn device(&mut self) -> Result<PathBuf, Failed> {
        if self.device.is_none() {
            let path = self.file.path().to_str().expect("a path");
            let name = run("/usr/sbin/losetup", &["--find", "--show", path])?;
            self.device = Some(PathBuf::from(name.trim()));
        }
        Ok(self.device.clone().expect("just made"))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Some(device) = &self.device {
            let _ = Command::new("/usr/sbin/losetup").arg("--detach").arg(device).status();
        }
    }
}

/// A layout: what both make, and where.
struct Layout {
    spec: MetadataSpec,
    index: Option<&'static str>,
    size: u64,
}

impl Layout {
    fn of(spec: MetadataSpec, index: Option<&'static str>, size: u64) -> Self {
        Self { spec, index, size }
    }

    /// The volume with its metadata on `device`.
    fn volume(&self, device: &Path, data: &Path) -> VolumeSpec {
        let meta = match self.index {
            None => MetaDisk::Internal,
            Some("flex-external") => MetaDisk::External(device.to_path_buf()),
            Some(index) => MetaDisk::Indexed(device.to_path_buf(), index.parse().expect("a number")),
        };
        let data = if self.index.is_none() { device } else { data };
        VolumeSpec::new(Volume(0), Minor::MAX, data).with_meta(meta)
    }

    fn words(&self) -> (String, &'static str, Vec<String>) {
        let options = [
            format!("--al-stripes={}", self.spec.stripes),
            format!("--al-stripe-size-kB={}", u64::from(self.spec.stripe_pages) * 4),
            format!("--peer-max-bio-size={}", self.spec.peer_max_bio_size),
        ];
        (self.spec.format.to_string(), self.index.unwrap_or("internal"), options.to_vec())
    }

    fn theirs(&self, device: &Path) -> Outcome {
        let (format, index, options) = self.words();
        let peers = self.spec.max_peers.to_string();
        let verb = if format == "v09" { vec!["create-md", peers.as_str()] } else { vec!["create-md"] };
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        drbdmeta(&options, &format, device, index, &verb).map(drop)
    }
}

/// Twenty and more: all kinds of metadata, sizes from the smallest to the largest, odd ends.
fn layouts() -> Vec<Layout> {
    let (eight, nine) = (MetadataSpec::v08(), MetadataSpec::v09);
    let sizes = [
        MEBI,
        4 * MEBI + 512,
        100 * MEBI,
        128 * MEBI,
        128 * MEBI + 4096,
        (1 << 30) - 512,
        (3 << 30) + 65_536 + 1024,
        1 << 40,
    ];
    let mut all: Vec<Layout> = sizes.iter().map(|size| Layout::of(eight, None, *size)).collect();
    all.extend(
        [(1, MEBI), (2, 100 * MEBI), (3, 1 << 30), (7, (5 << 30) + 512), (31, 64 << 30)]
            .map(|(peers, size)| Layout::of(nine(peers), None, size)),
    );
    all.extend([
        Layout::of(eight.with_stripes(4, 16), None, 1 << 30),
        Layout::of(eight.with_stripes(1, 64).with_peer_max_bio_size(1 << 20), None, 200 * MEBI),
        Layout::of(nine(2).with_stripes(2, 8), None, 300 * MEBI),
        Layout::of(eight, Some("flex-external"), 4 * MEBI),
        Layout::of(eight, Some("flex-external"), 128 * MEBI + 512),
        Layout::of(nine(5), Some("flex-external"), 64 * MEBI),
        Layout::of(eight, Some("0"), 128 * MEBI),
        Layout::of(eight, Some("2"), 512 * MEBI),
        Layout::of(nine(3), Some("1"), 256 * MEBI),
    ]);
    all
}

/// Compares two sparse files where either has data.
fn assert_same(ours: &File, theirs: &File, what: &str) {
    const PIECE: u64 = 4 << 20;
    let size = ours.metadata().expect("a file").len();
    assert_eq!(size, theirs.metadata().expect("a file").len(), "{what}");
    // Metadata is in the first 300 MiB (external, indexed) or the last 100 MiB (internal).
    let ranges = [(0, size.min(300 * MEBI)), (size.saturating_sub(100 * MEBI), size)];
    let (mut a, mut b) = (vec![0; 4 << 20], vec![0; 4 << 20]);
    for (from, to) in ranges {
        let mut at = from;
        while at < to {
            let length = usize::try_from((to - at).min(PIECE)).expect("small");
            ours.read_exact_at(&mut a[..length], at).expect("reads");
            theirs.read_exact_at(&mut b[..length], at).expect("reads");
            if a[..length] != b[..length] {
                let first = (0..length).find(|n| a[*n] != b[*n]).expect("different");
                panic!(
                    "{what}: byte {} is {:#x} here and {:#x} there",
                    at + first as u64,
                    a[first],
                    b[first]
                );
            }
            at += PIECE;
        }
    }
}

fn new_metadata_is_byte_identical() -> Outcome {
    let data = Image::new(MEBI)?;
    for layout in layouts() {
        let (ours, theirs) = (Image::new(layout.size)?, Image::new(layout.size)?);
        layout.theirs(theirs.file.path())?;
        let volume = layout.volume(ours.file.path(), data.file.path());
        Metadata::create_as(&Host::live(), &volume, &layout.spec, Overwrite::Never)?;
        let what = format!("{:?} {:?} on {}", layout.spec, layout.index, layout.size);
        assert_same(ours.file.as_file(), theirs.file.as_file(), &what);
    }
    assert!(layouts().len() >= 20);
    Ok(())
}

/// What DRBD 0.7 left is no free disk, and not read as something else.
fn metadata_of_version_07_is_known_and_refused() -> Outcome {
    let data = Image::new(MEBI)?;
    for (index, size) in [(None, 300 * MEBI + 512), (Some("1"), 256 * MEBI)] {
        let layout = Layout::of(MetadataSpec::v08(), index, size);
        let image = Image::new(size)?;
        drbdmeta(&[], "v07", image.file.path(), index.unwrap_or("internal"), &["create-md"])?;
        let volume = layout.volume(image.file.path(), data.file.path());
        let host = Host::live();
        let errors = [
            Metadata::find(&host, &volume.disk, &volume.meta).map(drop),
            Metadata::apply_al(&host, &volume.disk, &volume.meta).map(drop),
        ];
        for error in errors {
            let error = error.expect_err("version 07").to_string();
            assert!(error.contains("version 07") && error.contains("create-md converts it"), "{error}");
        }
        let error = Metadata::create(&host, &volume, Overwrite::Never).expect_err("version 07").to_string();
        assert!(error.contains("DRBD metadata at byte"), "{error}");
        Metadata::create(&host, &volume, Overwrite::Always)?;
        assert!(Metadata::find(&host, &volume.disk, &volume.meta)?.is_some());
    }
    Ok(())
}

/// The lines that say something.
fn plain(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

/// Random-looking, with runs of zeroes and ones.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let run = usize::from(state.to_le_bytes()[1]) * 8;
        match state % 4 {
            0 => bytes.extend(std::iter::repeat_n(0, run)),
            1 => bytes.extend(std::iter::repeat_n(0xff, run)),
            _ => bytes.extend(state.to_be_bytes()),
        }
    }
    bytes.truncate(length);
    bytes
}

/// Makes new metadata look used: a size, generations, a bitmap. `flags` of the superblock.
fn use_up(file: &File, layout: &Layout, data: u64, flags: u32) -> Outcome {
    let at = match layout.index {
        None => (layout.size - 4096) & !4095,
        Some("flex-external") => 0,
        Some(index) => index.parse::<u64>()? << 27,
    };
    let mut block = vec![0; 4096];
    file.read_exact_at(&mut block, at)?;
    block[..8].copy_from_slice(&(data / 512).to_be_bytes());
    block[8..16].copy_from_slice(&0x1122_3344_5566_7788_u64.to_be_bytes());
    let device_uuid = if layout.spec.max_peers > 1 { 48 } else { 40 };
    block[device_uuid..device_uuid + 8].copy_from_slice(&0x99aa_u64.to_be_bytes());
    block[56..60].copy_from_slice(&flags.to_be_bytes());
    if layout.spec.max_peers > 1 {
        block[112..120].copy_from_slice(&0x77_u64.to_be_bytes());
        block[132..136].copy_from_slice(&0_u32.to_be_bytes());
        block[1136..1144].copy_from_slice(&0x66_u64.to_be_bytes());
    } else {
        block[16..24].copy_from_slice(&0x77_u64.to_be_bytes());
        block[24..32].copy_from_slice(&0x66_u64.to_be_bytes());
    }
    file.write_all_at(&block, at)?;
    let sectors = i32::from_be_bytes(block[76..80].try_into().expect("four"));
    let bits = (data / 4096).next_multiple_of(64);
    let whole = usize::try_from(bits / 8 * u64::from(layout.spec.max_peers)).expect("small");
    let place = at.checked_add_signed(i64::from(sectors) * 512).expect("inside");
    file.write_all_at(&pattern(whole), place)?;
    Ok(())
}

fn texts_are_read_by_both() -> Outcome {
    const CLEAN: u32 = 0x80;
    let cases = [
        Layout::of(MetadataSpec::v08(), None, 300 * MEBI),
        Layout::of(MetadataSpec::v09(3), None, 1 << 30),
        Layout::of(MetadataSpec::v08(), Some("flex-external"), 8 * MEBI),
        Layout::of(MetadataSpec::v09(2), Some("1"), 256 * MEBI),
    ];
    for layout in cases {
        let what = format!("{:?} {:?}", layout.spec, layout.index);
        let (mut used, mut ours, mut theirs, mut data) = (
            Image::new(layout.size)?,
            Image::new(layout.size)?,
            Image::new(layout.size)?,
            Image::new(250 * MEBI)?,
        );
        layout.theirs(used.file.path())?;
        use_up(used.file.as_file(), &layout, 240 * MEBI, CLEAN | 0x11)?;
        let (format, index, _) = layout.words();
        let device = used.device()?;
        let volume = layout.volume(&device, &data.device()?);
        // Both say the same of it.
        let their_text = drbdmeta(&[], &format, &device, index, &["dump-md"])?;
        let mut text = Vec::new();
        assert!(Metadata::dump(&Host::live(), &volume.disk, &volume.meta, &mut text)?);
        let text = String::from_utf8(text)?;
        // drbdmeta before 9.27 writes no flags for version 08; and where a bitmap passes a piece of its buffer it begins a new line.
        let flagless =
            |lines: Vec<String>| lines.into_iter().filter(|l| !l.starts_with("flags")).collect::<Vec<_>>();
        let (theirs_plain, ours_plain) = (flagless(plain(&their_text)), flagless(plain(&text)));
        assert_eq!(ours_plain.len(), theirs_plain.len(), "{what}");
        for (a, b) in ours_plain.iter().zip(&theirs_plain) {
            assert_eq!(a, b, "{what}");
        }
        // What each restores from the other's text is the same.
        let path = tempfile::NamedTempFile::new()?;
        std::fs::write(path.path(), &text)?;
        layout.theirs(theirs.file.path())?;
        drbdmeta(
            &[],
            &format,
            &theirs.device()?,
            index,
            &["restore-md", path.path().to_str().expect("a path")],
        )?;
        let volume = layout.volume(&ours.device()?, &data.device()?);
        // Their text has lost the flags of version 08.
        let their_text = if format == "v08" { text } else { their_text };
        Metadata::restore(&Host::live(), &volume, &their_text, Overwrite::Never)?;
        run("/usr/bin/sync", &[])?;
        assert_same(ours.file.as_file(), theirs.file.as_file(), &what);
        assert_same(ours.file.as_file(), used.file.as_file(), &what);
    }
    Ok(())
}

/// A transaction of the activity log (`struct al_transaction_on_disk`).
fn transaction(number: u32, updates: &[(u16, u32)]) -> Vec<u8> {
    let mut block = vec![0xff; 4096];
    block[..36].fill(0);
    block[..4].copy_from_slice(&0x69cb_65a2_u32.to_be_bytes());
    block[4..8].copy_from_slice(&number.to_be_bytes());
    block[14..16].copy_from_slice(&u16::try_from(updates.len()).expect("few").to_be_bytes());
    block[16..18].copy_from_slice(&1237_u16.to_be_bytes());
    block[18..20].copy_from_slice(&1237_u16.to_be_bytes());
    for (n, (slot, extent)) in updates.iter().enumerate() {
        block[36 + 2 * n..38 + 2 * n].copy_from_slice(&slot.to_be_bytes());
        block[164 + 4 * n..168 + 4 * n].copy_from_slice(&extent.to_be_bytes());
    }
    let sum = block.iter().fold(0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    });
    block[8..12].copy_from_slice(&sum.to_be_bytes());
    block
}

fn replayed_logs_are_byte_identical() -> Outcome {
    const PRIMARY: u32 = 2;
    for (spec, flags) in [
        (MetadataSpec::v08(), PRIMARY),
        (MetadataSpec::v08(), 0),
        (MetadataSpec::v08().with_stripes(2, 8), PRIMARY),
        (MetadataSpec::v09(3), PRIMARY),
    ] {
        let layout = Layout::of(spec, None, 1 << 30);
        let (ours, theirs) = (Image::new(layout.size)?, Image::new(layout.size)?);
        for image in [&ours, &theirs] {
            let file = image.file.as_file();
            layout.theirs(image.file.path())?;
            use_up(file, &layout, 1000 * MEBI, flags | 1)?;
            if spec.max_peers == 1 {
                // As the kernel leaves it.
                file.write_all_at(&0x8374_026c_u32.to_be_bytes(), layout.size - 4096 + 60)?;
            }
            let log = layout.size - 4096 - u64::from(spec.stripes * spec.stripe_pages) * 4096;
            let second = log + 4096 * if spec.stripes == 2 { 8 } else { 1 };
            // The last extent is cut off by the end of the bitmap, the next one is beyond it.
            file.write_all_at(&transaction(9, &[(0, 3), (1, 17), (2, 249)]), log)?;
            file.write_all_at(&transaction(10, &[(1, 18), (3, 200), (4, 250)]), second)?;
        }
        drbdmeta(&[], &spec.format.to_string(), theirs.file.path(), "internal", &["apply-al"])?;
        let replayed =
            Metadata::apply_al(&Host::live(), ours.file.path(), &MetaDisk::Internal)?.expect("unclean");
        assert_eq!(replayed.extents, if flags == PRIMARY { 5 } else { 0 }, "{spec:?}");
        assert_same(ours.file.as_file(), theirs.file.as_file(), &format!("{spec:?} {flags}"));
    }
    Ok(())
}

/// What a sparse file really takes.
fn taken(file: &File) -> u64 {
    use std::os::unix::fs::MetadataExt;
    file.metadata().expect("a file").blocks() * 512
}

fn a_sparse_tebibyte_stays_sparse() -> Outcome {
    let mut image = Image::new(1 << 40)?;
    let volume = Layout::of(MetadataSpec::v08(), None, 1 << 40).volume(&image.device()?, Path::new("/"));
    let started = std::time::Instant::now();
    let written = Metadata::create(&Host::live(), &volume, Overwrite::Never)?;
    println!("1 TiB: {written:?} in {:?}", started.elapsed());
    run("/usr/bin/sync", &[])?;
    assert_eq!((written.written.0, written.zeroed.0), (36 << 10, 32 << 20));
    assert!(taken(image.file.as_file()) < MEBI, "{} bytes", taken(image.file.as_file()));
    let text = drbdmeta(&[], "v08", &image.device()?, "internal", &["dump-md"])?;
    assert!(text.contains("uuid {\n    0x0000000000000004;"), "{text}");
    Ok(())
}

fn main() {
    let arguments = Arguments::from_args();
    let missing = ["/usr/sbin/drbdmeta", "/usr/sbin/losetup", "/dev/loop-control"]
        .into_iter()
        .find(|path| File::open(path).is_err());
    let cases: [Case; 5] = [
        ("new_metadata_is_byte_identical", new_metadata_is_byte_identical),
        ("metadata_of_version_07_is_known_and_refused", metadata_of_version_07_is_known_and_refused),
        ("texts_are_read_by_both", texts_are_read_by_both),
        ("replayed_logs_are_byte_identical", replayed_logs_are_byte_identical),
        ("a_sparse_tebibyte_stays_sparse", a_sparse_tebibyte_stays_sparse),
    ];
    let trials = cases.map(|(name, case)| {
        Trial::ignorable_test(name, move || match missing {
            Some(path) => {
                Ok(Completion::ignored_with(format!("needs root and {path} (drbd-utils, util-linux)")))
            }
            None => case().map(|()| Completion::Completed),
        })
    });
    // drbdmeta keeps notes on the minor, which all of them use.
    let arguments = Arguments { test_threads: Some(1), ..arguments };
    libtest_mimic::run(&arguments, trials.into()).exit();
}
