//! What `drbd-watch` shows, on a DRBD in memory.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // It is a test.

use std::time::{Duration, Instant};

use drbd::fake::FakeDrbd;
use drbd::{Bytes, Deadline, Drbd, Event, Minor, NetOptions, Promote, ResourceSpec, Volume, VolumeSpec};
use san_node::drbd_view::{Style, View};

type Done = Result<(), Box<dyn std::error::Error>>;

fn spec(
    name: &str,
    ports: (u16, u16),
    minor: u32,
    disk: &str,
) -> Result<ResourceSpec, Box<dyn std::error::Error>> {
    let (local, peer) = (([127, 0, 0, 1], ports.0).into(), ([127, 0, 0, 1], ports.1).into());
    let volume = VolumeSpec::new(Volume(0), Minor::new(minor)?, disk);
    Ok(ResourceSpec::new(name.parse()?, local, peer).with_volume(volume).with_net(NetOptions::new()))
}

#[test]
fn a_resync_is_shown_with_bar_rate_and_time_left_and_events_in_words() -> Done {
    let fake = FakeDrbd::new();
    fake.set_sync_steps(10);
    for disk in ["/dev/vda", "/dev/vdb"] {
        fake.add_disk(disk, Bytes(256 << 20));
    }
    let host = fake.host();
    let drbd = Drbd::on(&host)?;
    let (here, there) =
        (spec("here", (7000, 7001), 0, "/dev/vda")?, spec("there", (7001, 7000), 1, "/dev/vdb")?);
    let mut watch = drbd.watch()?;
    let mut view = View::default();
    assert_eq!(view.render(80, 24, Style::Plain), "no resources\n");
    for spec in [&here, &there] {
        drbd::Metadata::create(&host, &spec.volumes[0], drbd::Overwrite::Always)?;
        drbd.ensure(spec)?;
    }
    drbd.wait_connected(&here.name, Deadline::after(Duration::from_secs(10)))?;
    drbd.promote(&here.name, Promote::Force)?;
    let begin = Instant::now();
    view.look(drbd.list()?, begin);
    assert!(view.is_moving());
    view.look(drbd.list()?, begin + Duration::from_secs(1));
    let screen = view.render(100, 24, Style::Plain);
    for part in [
        "here  Primary",
        "0: /dev/drbd0  UpToDate",
        "/dev/vda",
        "-> 127.0.0.1:7001  Connected  Secondary",
        "SyncSource",
        "[#",
        "left",
        "MiB/s  0:00:0",
    ] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    assert!(view.render(100, 24, Style::Colour).contains("\x1b[32mPrimary\x1b[0m"));
    while let Some(event) = watch.next_before(Deadline::after(Duration::from_millis(300)))? {
        view.take(&event, "12:00:00");
        if matches!(&event, Event::Changed { new, .. } if new.name == here.name && new.is_primary()) {
            break;
        }
    }
    let screen = view.render(100, 60, Style::Plain);
    for part in ["12:00:00 here: role Secondary -> Primary", "12:00:00 watching 0 resource(s)", "here: made"]
    {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    // No more lines than the terminal has.
    assert_eq!(view.render(100, 5, Style::Plain).lines().count(), 5);
    // What --json prints is the whole state.
    let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&drbd.list()?)?)?;
    assert_eq!(json[0]["volumes"][0]["disk"], "UpToDate");
    assert!(json[0]["connections"][0]["volumes"][0]["resync"]["total"].is_u64(), "{json}");
    Ok(())
}
