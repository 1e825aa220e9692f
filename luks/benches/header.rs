//! Reading a header with both copies checked: what listing a thousand disks costs apart from reading them.

use std::io::Cursor;

use divan::{Bencher, black_box};
use luks::Header;
use luks::header::Parsed;

fn main() {
    divan::main();
}

#[divan::bench]
fn parse_luks2_with_both_copies(bencher: Bencher<'_, '_>) {
    let image = include_bytes!("../../fuzz/corpus/luks_header/good-luks2");
    assert!(matches!(Header::parse(&mut Cursor::new(image)), Ok(Parsed::Header(_))));
    bencher.bench(|| Header::parse(&mut Cursor::new(black_box(image))).is_ok());
}
