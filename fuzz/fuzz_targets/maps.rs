//! What multipathd answers.
#![no_main]

use multipath::fake::FakeMultipathd;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = FakeMultipathd::new().with_answer("show maps json", text).multipath().list();
});
