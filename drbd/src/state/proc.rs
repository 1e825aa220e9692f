//! `/proc/drbd` of 8.4, for what is told nowhere else: how far a verify is (`drbd_syncer_progress`, `drivers/block/drbd/drbd_proc.c`).

use host::Sectors;

use super::{Progress, ResourceState};

/// How far the verify of a minor is: what is left and the total, in KiB or MiB behind the percentage.
fn verified(text: &str, minor: u32) -> Option<Progress> {
    let begin = format!("{minor}: ");
    let mut lines = text.lines().map(str::trim).skip_while(|line| !line.starts_with(&begin)).skip(1);
    // Up to the next minor, whose line begins with its number.
    let number = |line: &&str| line.split_once(": ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
    let line = lines.by_ref().take_while(|line| !number(line)).find(|line| line.contains("verified:"))?;
    let (_, rest) = line.split_once('(')?;
    let (amounts, unit) = rest.split_once(')')?;
    let (left, total) = amounts.split_once('/')?;
    let shift = if unit.starts_with('M') { 11 } else { 1 };
    let sectors = |text: &str| text.trim().parse::<u64>().ok()?.checked_mul(1 << shift).map(Sectors);
    Some(Progress::new(sectors(total)?, sectors(left)?, Sectors(0)))
}

/// Enters how far the verifies of a resource are.
pub(crate) fn insert_verify(state: &mut ResourceState, text: &str) {
    let minors: Vec<_> = state.volumes.iter().map(|volume| (volume.volume, volume.minor)).collect();
    for peer in state.connections.iter_mut().flat_map(|c| c.volumes.iter_mut()) {
        let minor = minors.iter().find(|(volume, _)| *volume == peer.volume);
        peer.verify = minor.filter(|_| peer.repl.is_verifying()).and_then(|(_, m)| verified(text, m.get()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::Bytes;

    /// Of a verify on DRBD 8.4.11, Linux 6.1, in the form of `drbd_proc.c`.
    const TEXT: &str = "version: 8.4.11 (api:1/proto:86-101)\nsrcversion: 1\n\n\
        \u{20}1: cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent C r-----\n\
        \u{20}   ns:10 nr:0 dw:0 dr:10 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:100\n\
        \t[=>..................] sync'ed: 10.0% (90/100)K\n\
        10: cs:VerifyS ro:Primary/Secondary ds:UpToDate/UpToDate C r-----\n\
        \u{20}   ns:0 nr:0 dw:0 dr:0 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:0\n\
        \t[==>.................] verified: 15.6% (55296/65536)K\n\
        \tfinish: 0:00:13 speed: 4,096 (4,096) want: 8,192 K/sec\n";

    #[test]
    fn a_verify_is_found_by_its_minor() {
        let progress = verified(TEXT, 10).expect("one");
        assert_eq!((progress.left, progress.total), (Bytes(55_296 << 10), Bytes(65_536 << 10)));
        assert_eq!(verified(TEXT, 1), None);
        assert_eq!(verified(TEXT, 0), None);
        let large = TEXT.replace("65536)K", "65536)M");
        assert_eq!(verified(&large, 10).map(|p| p.total), Some(Bytes(65_536 << 20)));
    }
}
