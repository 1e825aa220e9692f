//! The text of /proc/interrupts, and the names of queues in it.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = irqaff::wire::interrupts::parse(text);
    let _ = irqaff::wire::role::of(text);
});
