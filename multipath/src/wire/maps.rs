//! multipathd's `show maps json` (libmultipath/print.c; the same from 0.9.4 to 0.14).

use serde_json::Value;

use crate::state::{CheckerState, GroupState, MapState, PathInfo, PathState};

/// Reads the answer. Fields that are missing are empty, unknown ones are passed over.
pub(crate) fn parse(text: &str) -> Result<Vec<MapState>, String> {
    let json: Value = match serde_json::from_str(text) {
        Ok(json) => json,
        // Strings are printed raw: a quote in a vendor's name breaks the document. One field a line makes it repairable.
        Err(_) => serde_json::from_str(&repaired(text)).map_err(|e| e.to_string())?,
    };
    let maps = json.get("maps").and_then(Value::as_array).ok_or("it has no list of maps")?;
    Ok(maps.iter().map(map).collect())
}

fn text_of(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().trim().to_owned()
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn map(value: &Value) -> MapState {
    MapState {
        name: text_of(value, "name"),
        wwid: text_of(value, "uuid"),
        node: text_of(value, "sysfs"),
        queueing: text_of(value, "queueing"),
        features: text_of(value, "features"),
        suspended: text_of(value, "dm_st") == "suspend",
        groups: list(value, "path_groups").map(group).collect(),
    }
}

fn group(value: &Value) -> GroupState {
    let priority = value.get("pri").and_then(Value::as_i64).unwrap_or(-1);
    let paths = list(value, "paths").map(path).collect();
    GroupState::new(text_of(value, "dm_st"), priority, text_of(value, "selector"), paths)
}

fn path(value: &Value) -> PathInfo {
    PathInfo {
        device: text_of(value, "dev"),
        number: text_of(value, "dev_t"),
        state: PathState::from_word(&text_of(value, "dm_st")),
        checker: CheckerState::from_word(&text_of(value, "chk_st")),
        checker_name: text_of(value, "checker"),
        target: text_of(value, "target_wwnn"),
    }
}

/// Escapes quotes and backslashes inside the value of each `"key" : "value"` line.
fn repaired(text: &str) -> String {
    let line = |line: &str| -> Option<String> {
        let (key, rest) = line.split_once(':').filter(|(key, _)| key.trim_end().ends_with('"'))?;
        let open = rest.find('"')?;
        let close = rest.rfind('"').filter(|close| *close > open)?;
        let value = rest.get(open + 1..close)?.replace('\\', "\\\\").replace('"', "\\\"");
        Some(format!("{key}:{}\"{value}\"{}", rest.get(..open)?, rest.get(close + 1..)?))
    };
    text.lines().map(|l| line(l).unwrap_or_else(|| l.to_owned()) + "\n").collect()
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
            (map.name.as_str(), map.node.as_str(), map.queueing.as_str()),
            ("mpatha", "dm-3", "120 chk")
        );
        assert_eq!((map.paths().count(), map.working()), (2, 1));
        assert_eq!(map.groups[0].paths[1].checker, CheckerState::Faulty);
        assert_eq!(map.groups[0].paths[0].target, "iqn.2026-01.com.example:vm-storage-1");
    }

    #[test]
    fn an_unescaped_quote_is_survived() {
        let broken = ONE.replace("service-time 0", "service\"time\\ 0");
        assert_eq!(parse(&broken).expect("repaired")[0].groups[0].selector, "service\"time\\ 0");
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
    }
}
