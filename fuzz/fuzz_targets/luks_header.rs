//! LUKS headers: disks on a network are written by others.
#![no_main]

use std::io::Cursor;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = luks::Header::parse(&mut Cursor::new(data));
});
