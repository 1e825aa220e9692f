//! The hub with taps instead of machines.

use super::*;
use std::time::Instant;

const WAIT: Duration = Duration::from_millis(500);
const QUIET: Duration = Duration::from_millis(40);

struct Net {
    segment: Segment,
    taps: Vec<Tap>,
    hub: Hub,
    dir: PathBuf,
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn net(name: &str, count: usize) -> Net {
    let dir = std::env::temp_dir().join(format!("lab-hub-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let hub = Hub::start(&dir).unwrap();
    let segment = hub.segment(name);
    let taps: Vec<Tap> = (0..count).map(|_| segment.tap().unwrap()).collect();
    // The hub accepts in its own time; a frame from each to all shows that everybody is there.
    let mut pending: Vec<usize> = (0..count).collect();
    while !pending.is_empty() {
        pending.retain(|&i| {
            let other = (i + 1) % count;
            taps[other].send(&frame(0xff, 0xee, 60)).unwrap();
            taps[i].receive(QUIET).unwrap().is_none()
        });
    }
    for tap in &taps {
        while tap.receive(QUIET).unwrap().is_some() {}
    }
    Net { segment, taps, hub, dir }
}

fn frame(to: u8, from: u8, length: usize) -> Vec<u8> {
    let mut frame = vec![0x5a; length];
    frame[..6].fill(to);
    frame[6..12].fill(from);
    if to != 0xff {
        frame[0] = 2;
    }
    frame[6] = 2;
    frame
}

#[test]
fn a_broadcast_reaches_all_others_and_a_known_address_only_its_port() {
    let net = net("learn", 3);
    let hello = frame(0xff, 1, 60);
    net.taps[0].send(&hello).unwrap();
    assert_eq!(net.taps[1].receive(WAIT).unwrap(), Some(hello.clone()));
    assert_eq!(net.taps[2].receive(WAIT).unwrap(), Some(hello));
    assert_eq!(net.taps[0].receive(QUIET).unwrap(), None);
    let answer = frame(1, 2, 60);
    net.taps[1].send(&answer).unwrap();
    assert_eq!(net.taps[0].receive(WAIT).unwrap(), Some(answer));
    assert_eq!(net.taps[2].receive(QUIET).unwrap(), None);
}

#[test]
fn jumbo_and_tagged_frames_pass_unchanged() {
    let net = net("jumbo", 2);
    for length in [60, 1514, 9234, 65_550] {
        let mut sent = frame(0xff, 1, length);
        sent[12..16].copy_from_slice(&[0x81, 0x00, 0x00, 0x65]);
        net.taps[0].send(&sent).unwrap();
        assert_eq!(net.taps[1].receive(WAIT).unwrap(), Some(sent), "{length} bytes");
    }
}

#[test]
fn a_cut_cable_drops_both_ways_until_it_is_restored() {
    let net = net("cut", 2);
    net.taps[1].cable().cut();
    net.taps[0].send(&frame(0xff, 1, 60)).unwrap();
    net.taps[1].send(&frame(0xff, 2, 60)).unwrap();
    assert_eq!(net.taps[0].receive(QUIET).unwrap(), None);
    assert_eq!(net.taps[1].receive(QUIET).unwrap(), None);
    assert_eq!(net.taps[1].cable().counters().dropped, 2);
    net.taps[1].cable().restore();
    net.taps[0].send(&frame(0xff, 1, 60)).unwrap();
    assert!(net.taps[1].receive(WAIT).unwrap().is_some());
}

#[test]
fn delay_is_added_and_order_is_kept() {
    let net = net("delay", 2);
    net.taps[1].cable().impair(Impair { delay: Duration::from_millis(50), ..Impair::default() });
    let start = Instant::now();
    for from in 1..20 {
        net.taps[0].send(&frame(0xff, from, 60)).unwrap();
    }
    for from in 1..20 {
        assert_eq!(net.taps[1].receive(WAIT).unwrap(), Some(frame(0xff, from, 60)));
    }
    assert!(start.elapsed() >= Duration::from_millis(50), "{:?}", start.elapsed());
}

#[test]
fn half_of_the_frames_are_lost_at_a_loss_of_one_half() {
    let net = net("loss", 2);
    net.segment.impair(Impair { loss: 0.5, ..Impair::default() });
    for _ in 0..400 {
        net.taps[0].send(&frame(0xff, 1, 60)).unwrap();
    }
    let mut arrived = 0;
    while net.taps[1].receive(QUIET).unwrap().is_some() {
        arrived += 1;
    }
    assert!((120..280).contains(&arrived), "{arrived} of 400");
}

#[test]
fn a_rate_limit_paces_frames() {
    let net = net("rate", 2);
    net.taps[1].cable().impair(Impair { rate: Some(100_000), ..Impair::default() });
    let start = Instant::now();
    for _ in 0..10 {
        net.taps[0].send(&frame(0xff, 1, 1000)).unwrap();
    }
    for _ in 0..10 {
        assert!(net.taps[1].receive(WAIT).unwrap().is_some());
    }
    // Ten times 1000 bytes at 100000 bytes per second.
    assert!(start.elapsed() >= Duration::from_millis(95), "{:?}", start.elapsed());
}

#[test]
fn a_capture_holds_every_frame() {
    let net = net("pcap", 2);
    let file = net.dir.join("x.pcap");
    // By its name it is the same segment, not a second one.
    net.hub.segment("pcap").capture(&file).unwrap();
    for _ in 0..5 {
        net.taps[0].send(&frame(0xff, 1, 100)).unwrap();
        net.taps[1].receive(WAIT).unwrap().unwrap();
    }
    net.segment.stop_capture();
    assert_eq!(std::fs::read(&file).unwrap().len(), 24 + 5 * 116);
}

#[test]
fn a_round_trip_takes_well_below_a_millisecond() {
    let net = net("latency", 2);
    let mut best = Duration::MAX;
    for _ in 0..200 {
        let start = Instant::now();
        net.taps[0].send(&frame(0xff, 1, 60)).unwrap();
        net.taps[1].receive(WAIT).unwrap().unwrap();
        best = best.min(start.elapsed());
    }
    assert!(best < Duration::from_millis(1), "{best:?}");
}
