//! Lines as the kernel prints them (Linux 6.1), and all that can be made.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[test]
fn what_multipathd_loads_and_what_the_kernel_shows_are_equal() {
    let loaded: Table = "1 queue_if_no_path 1 alua 2 1 service-time 0 1 1 8:16 1 service-time 0 1 1 8:32 1"
        .parse()
        .expect("a table");
    let shown: Table =
        "1 queue_if_no_path 1 alua 2 1 service-time 0 1 2 8:16 1 1 service-time 0 1 2 8:32 1 1"
            .parse()
            .expect("a table");
    assert_eq!(loaded, shown);
    assert!(loaded.features.queue_if_no_path && loaded.handler == ["alua"] && loaded.groups.len() == 2);
    assert_eq!(
        loaded.to_string(),
        "1 queue_if_no_path 1 alua 2 1 service-time 0 1 2 8:16 1 1 service-time 0 1 2 8:32 1 1"
    );
}

#[test]
fn every_selector_and_feature_is_known() {
    let text = "9 queue_if_no_path pg_init_retries 50 pg_init_delay_msecs 500 retain_attached_hw_handler queue_mode bio \
                something 0 5 2 round-robin 0 2 1 8:16 1 8:32 1 queue-length 0 1 1 8:48 1 \
                historical-service-time 2 10 1 1 1 8:64 1 io-affinity 0 1 1 8:80 f fastest 1 now 1 3 8:96 a b c";
    let table: Table = text.parse().expect("a table");
    assert_eq!(table.features.init_retries, Some(50));
    assert_eq!(table.features.init_delay, Some(Duration::from_millis(500)));
    assert!(table.features.retain_attached_handler && table.features.queue_mode == QueueMode::Bios);
    assert_eq!(table.features.other, ["something"]);
    let selectors: Vec<_> = table.groups.iter().map(|group| group.selector.clone()).collect();
    assert_eq!(
        selectors,
        [
            Selector::RoundRobin,
            Selector::QueueLength,
            Selector::HistoricalServiceTime { base_weight: Some(10), threshold: Some(1) },
            Selector::IoAffinity,
            Selector::Other("fastest".to_owned(), vec!["now".to_owned()]),
        ]
    );
    assert_eq!(table.groups[3].paths[0].processors.as_deref(), Some("f"));
    assert_eq!(table.groups[4].paths[0].other, ["a", "b", "c"]);
    assert_eq!(table.to_string().parse::<Table>().expect("again"), table);
}

#[test]
fn a_map_without_paths_is_a_map() {
    let table: Table = "0 0 0 0".parse().expect("a table");
    assert_eq!((table.groups.len(), table.to_string().as_str()), (0, "0 0 0 0"));
    assert_eq!(Table::new([]), table);
}

#[test]
fn what_is_no_table_is_refused_with_its_place() {
    for (text, complaint) in [
        ("", "a feature"),
        ("0 0 1", "the group to begin with"),
        ("0 0 1 2 service-time 0 1 1 8:16 1", "word 4"),
        ("0 0 1 0 service-time 0 1 1 8:16 1", "begins with group 0"),
        ("0 0 1 1 service-time 0 0 1", "at least one path"),
        ("0 0 1 1 service-time 0 1 3 8:16 1 1 1", "takes 2 arguments"),
        ("0 0 1 1 service-time 0 1 1 8:16 x", "no number"),
        ("0 0 1 1 service-time 0 2 1 8:16 1", "a path"),
        ("0 0 1 1 service-time 0 1 1 8:16 1 more", "too much"),
        ("1 pg_init_retries 0 0 0", "takes a number"),
        ("0 0 1025 1", "0 to 1024"),
    ] {
        let error = text.parse::<Table>().expect_err(text).to_string();
        assert!(error.contains(complaint), "{text:?}: {error}");
    }
}

#[test]
fn a_status_says_which_path_failed_how_often() {
    let text = "2 0 0 0 2 1 A 0 1 2 8:16 A 0 4096 1 E 0 1 2 8:32 F 3 0 1";
    let status: Status = text.parse().expect("a status");
    assert_eq!((status.next_group, status.groups.len(), status.holds_io), (1, 2, false));
    assert_eq!(status.groups[0].state, GroupPhase::Active);
    let path = &status.groups[1].paths[0];
    assert_eq!((&path.state, path.failures, path.device.as_str()), (&PathState::Failed, 3, "8:32"));
    assert_eq!(status.groups[0].paths[0].selector, ["4096", "1"]);
    assert_eq!(status.to_string(), text);
    for bad in ["", "2 0 0 0 1 1 A 0 1 2 8:16 A", "2 0 0 0 1 1 A 0 1 0 8:16 A x"] {
        assert!(bad.parse::<Status>().is_err(), "{bad:?}");
    }
}

fn selector() -> impl Strategy<Value = Selector> {
    prop_oneof![
        Just(Selector::RoundRobin),
        Just(Selector::QueueLength),
        Just(Selector::ServiceTime),
        Just(Selector::IoAffinity),
        Just(Selector::HistoricalServiceTime { base_weight: None, threshold: None }),
        any::<(u32, Option<u32>)>()
            .prop_map(|(w, threshold)| Selector::HistoricalServiceTime { base_weight: Some(w), threshold }),
    ]
}

fn path(selector: Selector) -> impl Strategy<Value = TablePath> {
    ("[0-9]{1,3}:[0-9]{1,4}", 1..1000_u32, 0..=100_u32, "[0-9a-f]{1,8}").prop_map(
        move |(device, count, throughput, mask)| {
            let mut path = TablePath::new(device);
            match selector {
                Selector::ServiceTime => (path.repeat_count, path.throughput) = (count, throughput),
                Selector::IoAffinity => path.processors = Some(mask),
                _ => path.repeat_count = count,
            }
            path
        },
    )
}

fn group() -> impl Strategy<Value = TableGroup> {
    selector().prop_flat_map(|selector| {
        vec(path(selector.clone()), 1..5).prop_map(move |paths| TableGroup::new(selector.clone(), paths))
    })
}

fn any_table() -> impl Strategy<Value = Table> {
    let features =
        (any::<(bool, bool, bool)>(), proptest::option::of(1..=50_u32), proptest::option::of(0..=60_000_u64));
    (features, proptest::option::of("[a-z]{2,8}"), vec(group(), 0..4)).prop_map(
        |(((queue, retain, bio), retries, delay), handler, groups)| {
            let mut table = Table::new(groups);
            table.features.queue_if_no_path = queue;
            table.features.retain_attached_handler = retain;
            table.features.queue_mode = if bio { QueueMode::Bios } else { QueueMode::Requests };
            table.features.init_retries = retries;
            table.features.init_delay = delay.map(Duration::from_millis);
            table.handler = handler.into_iter().collect();
            table
        },
    )
}

proptest! {
    #[test]
    fn a_table_is_read_as_it_is_written(table in any_table()) {
        prop_assert_eq!(table.to_string().parse::<Table>().expect("a table"), table);
    }

    #[test]
    fn no_line_makes_it_panic(text in "[0-9a-z:_ -]{0,120}") {
        if let Ok(table) = text.parse::<Table>() {
            prop_assert_eq!(table.to_string().parse::<Table>().expect("its own words"), table);
        }
        if let Ok(status) = text.parse::<Status>() {
            prop_assert_eq!(status.to_string().parse::<Status>().expect("its own words"), status);
        }
    }

    #[test]
    fn a_table_with_a_word_exchanged_is_no_panic(table in any_table(), at in any::<prop::sample::Index>(), word in "[0-9]{1,12}|[a-z]{0,5}") {
        let text = table.to_string();
        let mut words: Vec<&str> = text.split(' ').collect();
        let at = at.index(words.len());
        words[at] = &word;
        if let Ok(table) = words.join(" ").parse::<Table>() {
            prop_assert_eq!(table.to_string().parse::<Table>().expect("its own words"), table);
        }
    }
}
