//! Table and status lines of the multipath target, and multipathd's answers.
#![no_main]

use multipath::Reply;
use multipath::table::{Status, Table};

libfuzzer_sys::fuzz_target!(|text: &str| {
    // What is read is said again in words that mean the same.
    if let Ok(table) = text.parse::<Table>() {
        assert_eq!(table.to_string().parse::<Table>().ok(), Some(table));
    }
    if let Ok(status) = text.parse::<Status>() {
        assert_eq!(status.to_string().parse::<Status>().ok(), Some(status));
    }
    let reply = Reply::parse(text);
    assert!(!(reply.is_done() && reply.is_retryable()));
});
