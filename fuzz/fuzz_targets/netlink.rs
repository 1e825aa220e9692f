//! Datagrams of the kernel: messages, their attributes, and attributes inside attributes.
#![no_main]

use host::nl::{Attributes, Reply, attributes};

fn walk(list: Attributes<'_>, depth: u32) {
    for attribute in list.flatten() {
        let _ = (attribute.u8(), attribute.u16(), attribute.u32(), attribute.u64(), attribute.text());
        if depth < 4 {
            walk(attribute.nested(), depth + 1);
        }
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = Reply::parse_all(data).count();
    walk(attributes(data), 0);
});
