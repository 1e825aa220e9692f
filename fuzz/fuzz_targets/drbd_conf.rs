//! drbd.conf: read, judged, brought to DRBD 9, and what that made read again.
#![no_main]

use drbd::conf::Conf;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(conf) = Conf::parse("fuzz", text) else { return };
    assert_eq!(conf.text(0), Some(text));
    let _ = (conf.lint(), conf.specs("a"), conf.compare(&conf));
    for name in conf.resources() {
        let _ = conf.spec_9(&name, "a");
    }
    if let Ok((nine, _)) = conf.to_9() {
        let _ = nine.lint();
    }
});
