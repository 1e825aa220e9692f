//! multipathd's `show maps json` (libmultipath/print.c; the same from 0.9.4 to 0.14).

use std::borrow::Cow;
use std::fmt::Write;

use serde_json::Value;

use crate::state::{
    CheckerState, Counters, DeviceState, Failback, GroupPhase, GroupState, MapState, PathInfo, PathState,
    Queueing,
};

/// Reads the answer to `show maps json`, or to `show map X json`. Fields that are missing are empty, unknown ones are passed over.
pub(crate) fn parse(text: &str) -> Result<Vec<MapState>, String> {
    let json = document(text)?;
    if let Some(version) = json.get("major_version").and_then(Value::as_i64).filter(|version| *version != 0) {
        return Err(format!("its format has the major version {version}, only 0 is known"));
    }
    match (json.get("maps").and_then(Value::as_array), json.get("map")) {
        (Some(maps), _) => Ok(maps.iter().map(map).collect()),
        (None, Some(one)) => Ok(vec![map(one)]),
        (None, None) => Err("it has no list of maps".to_owned()),
    }
}

/// Strings are printed raw, in all versions: a quote in a vendor's name breaks the document, a backslash changes it without breaking it. One
/// field a line makes it repairable.
fn document(text: &str) -> Result<Value, String> {
    let plain = || serde_json::from_str(text).map_err(|e| e.to_string());
    let json: Result<Value, String> = match text.contains('\\') {
        false => plain(),
        true => serde_json::from_str(&repaired(text)).or_else(|_| plain()),
    };
    json.or_else(|error| serde_json::from_str(&repaired(text)).map_err(|_| error))
}

fn str_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default().trim()
}

/// As `str_of`; what the daemon prints for "not known" is empty.
fn text_of(value: &Value, key: &str) -> String {
    match str_of(value, key) {
        "##" | "[undef]" | "[unknown]" | "undef" | "(null)" => String::new(),
        known => known.to_owned(),
    }
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn map(value: &Value) -> MapState {
    let counters = value.get("path_faults").map(|_| Counters {
        path_faults: number(value, "path_faults"),
        group_switches: number(value, "switch_grp"),
        loads: number(value, "map_loads"),
        queued_seconds: number(value, "total_q_time"),
        queueing_timeouts: number(value, "q_timeouts"),
    });
    let mut map = MapState::new(str_of(value, "name"), str_of(value, "uuid"), text_of(value, "sysfs"))
        .with_product(&text_of(value, "vend"), &text_of(value, "prod"));
    map.queueing = Queueing::from_word(str_of(value, "queueing"));
    map.features = text_of(value, "features");
    map.handler = text_of(value, "hwhandler");
    map.failback = Failback::from_word(str_of(value, "failback"));
    map.suspended = str_of(value, "dm_st") == "suspend";
    map.read_only = match str_of(value, "write_prot") {
        "ro" => Some(true),
        "rw" => Some(false),
        _ => None,
    };
    map.revision = text_of(value, "rev");
    map.counters = counters;
    map.groups = list(value, "path_groups").map(group).collect();
    map
}

fn priority(value: &Value) -> i64 {
    value.get("pri").and_then(Value::as_i64).unwrap_or(-1)
}

fn group(value: &Value) -> GroupState {
    let state = GroupPhase::from_word(str_of(value, "dm_st"));
    let paths = list(value, "paths").map(path);
    let mut group = GroupState::new(state, priority(value), str_of(value, "selector"), paths);
    group.marginal = str_of(value, "marginal_st") == "marginal";
    group
}

fn path(value: &Value) -> PathInfo {
    let state = PathState::from_word(str_of(value, "dm_st"));
    let mut path = PathInfo::new(str_of(value, "dev"), str_of(value, "dev_t"), state)
        .with_target(text_of(value, "target_wwnn"))
        .with_checker(text_of(value, "checker"), CheckerState::from_word(str_of(value, "chk_st")));
    path.device_state = DeviceState::from_word(str_of(value, "dev_st"));
    path.priority = priority(value);
    path.marginal = str_of(value, "marginal_st") == "marginal";
    path.adapter = text_of(value, "host_adapter");
    path.lun = lun(str_of(value, "lun_hex"));
    path
}

/// Takes the eight bytes of a LUN (SAM-5, 4.7) as the kernel does (`scsilun_to_int`, `drivers/scsi/scsi_common.c`): 0x0001000000000000 is 1.
fn lun(text: &str) -> Option<u64> {
    let bytes = u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()?;
    let level = |n: u32| (bytes >> (48 - 16 * n) & 0xffff) << (16 * n);
    Some((0..4).map(level).sum())
}

/// Escapes what stands between the first and the last quote of the value of each `"key" : "value"` line.
fn repaired(text: &str) -> String {
    let mut whole = String::with_capacity(text.len() + 64);
    for line in text.lines() {
        whole.push_str(&repaired_line(line).map_or(Cow::Borrowed(line), Cow::Owned));
        whole.push('\n');
    }
    whole
}

fn repaired_line(line: &str) -> Option<String> {
    let (key, rest) = line.split_once(':').filter(|(key, _)| key.trim_end().ends_with('"'))?;
    let open = rest.find('"')?;
    let close = rest.rfind('"').filter(|close| *close > open)?;
    let mut fixed = format!("{key}:{}\"", rest.get(..open)?);
    for c in rest.get(open + 1..close)?.chars() {
        match c {
            '"' | '\\' => fixed.extend(['\\', c]),
            // Writing to a String does not fail.
            c if c.is_control() => write!(fixed, "\\u{:04x}", u32::from(c)).ok()?,
            c => fixed.push(c),
        }
    }
    fixed.push('"');
    fixed.push_str(rest.get(close + 1..)?);
    Some(fixed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rendered from the templates of multipathd 0.9.4.
    const ONE: &str = include_str!("../../tests/fixtures/maps-0.9.4.json");

    #[test]
    fn a_map_with_two_paths() {
        let maps = parse(ONE).expect("reads");
        assert_eq!(maps.len(), 1);
        let map = &maps[0];
        assert_eq!(
            (map.name.as_str(), map.node.as_str(), &map.queueing),
            ("mpatha", "dm-3", &Queueing::Retries(120))
        );
        assert_eq!((map.paths().count(), map.working()), (2, 1));
        assert_eq!(map.groups[0].paths[1].checker, CheckerState::Faulty);
        assert_eq!(map.groups[0].paths[0].target, "iqn.2026-01.com.example:vm-storage-1");
        assert_eq!(
            (map.handler.as_str(), map.read_only, &map.failback),
            ("1 alua", Some(false), &Failback::Immediate)
        );
        assert_eq!(
            (map.vendor.as_str(), map.counters.map(|c| (c.path_faults, c.loads))),
            ("LIO-ORG", Some((1, 1)))
        );
        assert_eq!(map.groups[0].state, GroupPhase::Active);
        let path = &map.groups[0].paths[1];
        assert_eq!((&path.device_state, path.priority, path.lun), (&DeviceState::Running, 50, Some(0)));
        assert_eq!(path.adapter, "10.1.25.1");
    }

    #[test]
    fn one_map_alone_is_read_too() {
        let one = ONE.replacen("\"maps\": [{", "\"map\": {", 1);
        let end = one.rfind(']').expect("a list");
        let one = format!("{}{}", &one[..end], &one[end + 1..]);
        assert_eq!(parse(&one).expect("reads"), parse(ONE).expect("reads"));
    }

    #[test]
    fn logical_units_of_all_levels() {
        assert_eq!(lun("0x0001000000000000"), Some(1));
        assert_eq!(lun("0x4001000200030004"), Some(0x4001 | 2 << 16 | 3 << 32 | 4 << 48));
        assert_eq!((lun("0x"), lun("1")), (None, None));
    }

    #[test]
    fn an_unescaped_quote_is_survived() {
        let broken = ONE.replace("service-time 0", "service\"time\\ 0");
        assert_eq!(parse(&broken).expect("repaired")[0].groups[0].selector, "service\"time\\ 0");
        // Parses as it is, as something else.
        let quiet = ONE.replace("vmstor1", "a\\name");
        assert_eq!(parse(&quiet).expect("repaired")[0].product, "a\\name");
        let control = ONE.replace("vmstor1", "a\u{7}b");
        assert_eq!(parse(&control).expect("repaired")[0].product, "a\u{7}b");
    }

    #[test]
    fn an_empty_list_and_nonsense() {
        assert_eq!(parse("{\"major_version\": 0, \"maps\": []}").expect("reads"), []);
        assert!(parse("fail\n").is_err() && parse("ok\n").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            // Random text is no list of maps, and nothing worse.
            prop_assert!(parse(&text).is_err());
        }

        #[test]
        fn any_name_is_read_as_it_is(name in "[ -~]{0,40}") {
            let text = ONE.replace("\"vmstor1\"", &format!("\"{name}\""));
            let maps = parse(&text).expect("reads");
            let unknown = ["##", "[undef]", "[unknown]", "undef", "(null)"];
            prop_assert!(maps[0].product == name.trim() || unknown.contains(&name.trim()));
        }
    }
}
