//! LUKS headers: disks on a network are written by others.
#![no_main]

use std::io::Cursor;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let parsed = luks::Header::parse(&mut Cursor::new(data)).expect("memory can be read");
    let identity = luks::header::Identity::parse(&mut Cursor::new(data)).expect("memory can be read");
    // Whoever reads all of it sees the volume that the quick look saw, unless the first copy cannot be trusted.
    if let luks::header::Parsed::Header(header) = parsed
        && header.copies.iter().all(|copy| copy.damage.is_none())
    {
        assert_eq!(identity.map(|found| found.uuid), Some(header.uuid));
    }
});
