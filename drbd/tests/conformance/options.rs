//! The tables of options against the kernel: each option, at its limits and with each of its words.

use drbd::{DiskOptions, Kind, NetOptions, OptionRow, ResourceOptions, ResourceSpec};

use super::{Bench, Case, Failure, Outcome, seen};

pub(crate) const ALL: &[Case] = &[
    ("options_change_live_and_back", options_change_live_and_back),
    ("every_net_option_is_taken_and_shown", every_net_option_is_taken_and_shown),
    ("every_disk_option_is_taken_and_shown", every_disk_option_is_taken_and_shown),
    ("every_resource_option_is_taken_and_shown", every_resource_option_is_taken_and_shown),
    ("defaults_are_the_kernels", defaults_are_the_kernels),
    ("a_whole_published_configuration_is_taken", a_whole_published_configuration_is_taken),
];

/// A resource whose peer never comes.
fn alone(bench: &Bench, port: u16) -> Result<(drbd::Drbd, ResourceSpec), Failure> {
    bench.clean()?;
    let (here, _) = bench.pair(port)?;
    let here = here.with_net(NetOptions::new()).with_disk(DiskOptions::new());
    bench.create_metadata(&here)?;
    let drbd = bench.drbd()?;
    drbd.ensure(&here)?;
    Ok((drbd, here))
}

fn options_change_live_and_back(bench: &Bench) -> Outcome {
    let (drbd, here) = alone(bench, 7300)?;
    let changed = here
        .clone()
        .with_net(NetOptions::new().with("timeout", "40")?.with("verify-alg", "sha1")?)
        .with_disk(DiskOptions::new().with("resync-rate", "33M")?.with("on-io-error", "pass_on")?)
        .with_resource_options(ResourceOptions::new().with("on-no-data-accessible", "suspend-io")?);
    let plan = drbd.plan(&changed)?;
    assert_eq!(plan.len(), 3, "{plan}");
    let undo = drbd.apply(plan)?.into_plan();
    assert!(drbd.plan(&changed)?.is_empty());
    let state = seen(&drbd, &here.name)?;
    let net = state.connections[0].options.clone().expect("shown");
    assert_eq!(net.get("timeout").as_deref(), Some("40"));
    let disk = state.volumes[0].options.clone().expect("shown");
    assert_eq!(disk.get("resync-rate").as_deref(), Some("33792"));
    // What is not set goes back to the default; the undo does the same here.
    drbd.apply(undo)?;
    assert!(drbd.plan(&here)?.is_empty());
    Ok(())
}

/// Values to try for an option.
fn values(row: &OptionRow) -> Vec<String> {
    match row.kind {
        Kind::Number { min, max, .. } => vec![min.to_string(), max.to_string()],
        Kind::Flag { default } => vec![if default { "no" } else { "yes" }.to_owned()],
        Kind::Choice { words, .. } => words.iter().map(|(word, _)| (*word).to_owned()).collect(),
        Kind::Text { .. } if row.name == "cpu-mask" => vec!["1".to_owned()],
        Kind::Text { .. } => vec!["crc32c".to_owned(), "sha1".to_owned()],
        _ => Vec::new(),
    }
}

fn every_net_option_is_taken_and_shown(bench: &Bench) -> Outcome {
    let (drbd, here) = alone(bench, 7310)?;
    let mut tried = 0;
    for row in NetOptions::table().iter().filter(|row| row.in_84 && !row.once) {
        for value in values(row) {
            let mut net = NetOptions::new();
            // What the option asks of others.
            match row.name {
                "timeout" => {
                    net.set("ping-int", "120")?;
                    net.set("connect-int", "120")?;
                }
                "ping-int" | "connect-int" => net.set("timeout", "1")?,
                "on-congestion" => net.set("protocol", "A")?,
                "cram-hmac-alg" if value == "crc32c" => continue,
                _ => {}
            }
            net.set(row.name, &value)?;
            drbd.ensure(&here.clone().with_net(net.clone()))?;
            let shown = seen(&drbd, &here.name)?.connections[0].options.clone().expect("shown");
            assert!(shown.differences(&net).is_empty(), "{}={value}: {shown:?}", row.name);
            tried += 1;
        }
    }
    assert!(tried > 60, "{tried}");
    Ok(())
}

fn every_disk_option_is_taken_and_shown(bench: &Bench) -> Outcome {
    let (drbd, here) = alone(bench, 7320)?;
    for row in DiskOptions::table().iter().filter(|row| row.in_84 && !row.once) {
        for value in values(row) {
            // Depend on the device: the log's size, and whether it discards.
            if matches!((row.name, value.as_str()), ("al-extents", "65534") | ("rs-discard-granularity", _)) {
                continue;
            }
            let disk = DiskOptions::new().with(row.name, &value)?;
            drbd.ensure(&here.clone().with_disk(disk.clone()))?;
            let shown = seen(&drbd, &here.name)?.volumes[0].options.clone().expect("shown");
            assert!(shown.differences(&disk).is_empty(), "{}={value}: {shown:?}", row.name);
        }
    }
    Ok(())
}

fn every_resource_option_is_taken_and_shown(bench: &Bench) -> Outcome {
    let (drbd, here) = alone(bench, 7330)?;
    for row in ResourceOptions::table().iter().filter(|row| row.in_84) {
        for value in values(row) {
            let options = ResourceOptions::new().with(row.name, &value)?;
            drbd.ensure(&here.clone().with_resource_options(options.clone()))?;
            let shown = seen(&drbd, &here.name)?.options.expect("shown");
            assert!(shown.differences(&options).is_empty(), "{}={value}: {shown:?}", row.name);
        }
    }
    Ok(())
}

fn defaults_are_the_kernels(bench: &Bench) -> Outcome {
    let (drbd, here) = alone(bench, 7340)?;
    let state = seen(&drbd, &here.name)?;
    // The kernel shows all options with their values: those of a new object are its defaults.
    let net = state.connections[0].options.clone().expect("shown");
    let disk = state.volumes[0].options.clone().expect("shown");
    let resource = state.options.expect("shown");
    assert_eq!(net.differences(&NetOptions::new()), Vec::<&str>::new());
    assert_eq!(disk.differences(&DiskOptions::new()), Vec::<&str>::new());
    assert_eq!(resource.differences(&ResourceOptions::new()), Vec::<&str>::new());
    let missing: Vec<_> = NetOptions::table()
        .iter()
        .filter(|row| row.in_84)
        .map(|row| row.name)
        .filter(|name| !net.is_set(name))
        .collect();
    assert!(missing.is_empty() || missing == ["shared-secret"], "{missing:?}");
    let missing: Vec<_> = DiskOptions::table()
        .iter()
        .filter(|row| row.in_84)
        .map(|row| row.name)
        .filter(|name| !disk.is_set(name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    Ok(())
}

fn a_whole_published_configuration_is_taken(bench: &Bench) -> Outcome {
    let (drbd, here) = alone(bench, 7350)?;
    let net = NetOptions::from_pairs([
        ("protocol", "B"),
        ("sndbuf-size", "1024k"),
        ("rcvbuf-size", "1024k"),
        ("max-buffers", "8192"),
        ("max-epoch-size", "8192"),
        ("unplug-watermark", "8192"),
        ("timeout", "100"),
        ("ping-int", "15"),
        ("ping-timeout", "60"),
        ("connect-int", "15"),
        ("verify-alg", "sha1"),
        ("csums-alg", "sha1"),
        ("data-integrity-alg", "crc32c"),
        ("cram-hmac-alg", "sha1"),
        ("shared-secret", "a-secret-of-the-lab"),
        ("use-rle", "yes"),
    ])?;
    let disk = DiskOptions::from_pairs([
        ("c-plan-ahead", "0"),
        ("al-extents", "6433"),
        ("resync-rate", "400M"),
        ("disk-barrier", "no"),
        ("disk-flushes", "no"),
        ("disk-drain", "yes"),
    ])?;
    let wanted = here.with_net(net).with_disk(disk);
    assert!(drbd.ensure(&wanted)?);
    assert!(!drbd.ensure(&wanted)?);
    let state = seen(&drbd, &wanted.name)?;
    let secret =
        state.connections[0].options.as_ref().and_then(NetOptions::shared_secret).expect("shown to root");
    assert!(secret.same_as(b"a-secret-of-the-lab"));
    Ok(())
}
