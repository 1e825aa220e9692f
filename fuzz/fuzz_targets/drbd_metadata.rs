//! DRBD's metadata: superblock, activity log and bitmap of any bytes, dumped and replayed; and drbdmeta's text of any bytes, restored.
#![no_main]

use std::path::Path;

use drbd::{Host, MetaDisk, Metadata, Minor, Overwrite, Volume, VolumeSpec};
use host::fake::Memory;

const SIZE: usize = 128 << 10;
/// Where the magic stands in a superblock.
const MAGIC: usize = 60;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (disk, shared) = (Path::new("/dev/vda"), MetaDisk::External("/dev/vdb".into()));
    let memory = Memory::new();
    let host = Host::fake().with_tree(memory.tree());
    let Some((kind, data)) = data.split_first() else { return };
    // What lies before the end of the disk, and at the head of the other.
    let length = data.len().min(SIZE);
    let (mut tail, mut head) = (vec![0; SIZE], vec![0; SIZE]);
    tail[SIZE - length..].copy_from_slice(&data[data.len() - length..]);
    head[..length].copy_from_slice(&data[..length]);
    // One of the magics, or whatever is there.
    if let Some(version @ 0x6b..=0x6d) = kind.checked_add(0x6b) {
        for (image, at) in [(&mut tail, SIZE - 4096), (&mut head, 0)] {
            image[at + MAGIC..at + MAGIC + 4].copy_from_slice(&[0x83, 0x74, 0x02, version]);
        }
    }
    memory.edit(|nodes| {
        nodes.put("/dev/vda", tail);
        nodes.put("/dev/vdb", head);
    });
    for meta in [MetaDisk::Internal, shared] {
        let _ = Metadata::find(&host, disk, &meta);
        let mut text = Vec::new();
        if let Ok(true) = Metadata::dump(&host, disk, &meta, &mut text) {
            let text = String::from_utf8(text).expect("text");
            let volume = VolumeSpec::new(Volume(0), Minor::MAX, disk).with_meta(meta.clone());
            let _ = Metadata::restore(&host, &volume, &text, Overwrite::Always);
        }
        let _ = Metadata::apply_al(&host, disk, &meta);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let volume = VolumeSpec::new(Volume(0), Minor::MAX, disk);
        let _ = Metadata::restore(&host, &volume, text, Overwrite::Always);
    }
});
