//! LUKS2's JSON under right checksums, which a fuzzer would never find by itself.
#![no_main]

use std::io::Cursor;

use sha2::Digest;

libfuzzer_sys::fuzz_target!(|json: &[u8]| {
    let mut area = json.to_vec();
    area.resize(12 * 1024, 0);
    let mut head = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"LUKS\xba\xbe");
    put(6, &2_u16.to_be_bytes());
    put(8, &0x4000_u64.to_be_bytes());
    put(72, b"sha256");
    put(168, b"1bd1f798-d105-4150-841b-f2751f419efc");
    let sum = sha2::Sha256::new().chain_update(&head).chain_update(&area).finalize();
    head[448..480].copy_from_slice(&sum);
    let parsed = luks::Header::parse(&mut Cursor::new([head, area].concat()));
    if let Ok(luks::header::Parsed::Header(header)) = parsed {
        // What is accepted holds together: key material is between the copies and the data.
        let end = |slot: &luks::header::Keyslot| slot.area_offset + slot.area_size;
        assert!(header.is_detached() || header.keyslots.iter().all(|slot| end(slot) <= header.data_offset));
    }
});
