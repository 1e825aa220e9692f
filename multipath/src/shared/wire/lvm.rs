//! The reports of lvm: `--reportformat json --units b --nosuffix`. All values are strings.
//!
//! ```text
//! {"report": [{"vg": [{"vg_name":"vms", "vg_size":"1069547520", ...}]}]}
//! ```

use std::collections::BTreeMap;

use host::Bytes;

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub(in super::super) struct Row(BTreeMap<String, String>);

/// A part of a report: a full report has one for each group.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub(in super::super) struct Part(BTreeMap<String, Vec<Row>>);

impl Part {
    /// The lines about this kind of object ("vg", "lv", "pv"). A report without them has none.
    pub(in super::super) fn rows(&self, kind: &str) -> &[Row] {
        self.0.get(kind).map_or(&[], Vec::as_slice)
    }
}

#[derive(serde::Deserialize)]
struct Document {
    report: Vec<Part>,
}

/// The parts of a report.
pub(in super::super) fn parts(text: &str) -> Result<Vec<Part>, String> {
    let document: Document = serde_json::from_str(text).map_err(|e| e.to_string())?;
    Ok(document.report)
}

impl Row {
    /// A field. LVM writes an unset one as nothing.
    pub(in super::super) fn text(&self, field: &str) -> Result<&str, String> {
        self.0.get(field).map(String::as_str).ok_or_else(|| format!("a line has no {field}"))
    }

    /// A size.
    pub(in super::super) fn bytes(&self, field: &str) -> Result<Bytes, String> {
        let text = self.text(field)?.trim();
        text.parse().map(Bytes).map_err(|_| format!("{field} is {text:?}, which is no number of bytes"))
    }
}

/// The settings that `lvm lvmconfig` prints as `section/name=value`, one a line: those of a list without sections.
pub(in super::super) fn setting(text: &str, name: &str) -> Option<String> {
    let (_, last) = name.rsplit_once('/')?;
    let lines = text.lines().filter_map(|line| line.trim().split_once('='));
    lines
        .filter(|(key, _)| *key == last || *key == name)
        .map(|(_, value)| value.trim().trim_matches('"').to_owned())
        .next_back()
}

/// Where a segment begins: "/dev/mapper/mpatha(0)" is extent 0 of that device. One device only: a striped one has several.
pub(in super::super) fn place(devices: &str) -> Option<(&str, u64)> {
    let (device, extent) = devices.trim().strip_suffix(')')?.rsplit_once('(')?;
    Some((device, extent.parse().ok()?)).filter(|(device, _)| !device.contains(','))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_report_has_no_lines() {
        let empty = parts(r#"{"report":[{"vg":[]}]}"#).expect("a report");
        assert!(empty[0].rows("vg").is_empty() && empty[0].rows("lv").is_empty());
        assert_eq!(parts(r#"{"report":[]}"#), Ok(vec![]));
    }

    #[test]
    fn what_is_no_report_is_refused_with_where() {
        for bad in ["", "  Volume group not found", r#"{"report":[{"vg":[{"vg_name":1}]}]}"#] {
            assert!(parts(bad).is_err(), "{bad}");
        }
        let parts = parts(r#"{"report":[{"vg":[{"vg_size":"1.00g"}]}]}"#).expect("a report");
        let rows = parts[0].rows("vg");
        assert_eq!(
            rows[0].bytes("vg_size"),
            Err("vg_size is \"1.00g\", which is no number of bytes".to_owned())
        );
        assert_eq!(rows[0].text("vg_name"), Err("a line has no vg_name".to_owned()));
    }

    #[test]
    fn settings_are_found_with_and_without_their_section() {
        let text = "use_lvmlockd=1\nmultipath_component_detection=0\n";
        assert_eq!(setting(text, "global/use_lvmlockd").as_deref(), Some("1"));
        assert_eq!(setting("local/host_id=7\n", "local/host_id").as_deref(), Some("7"));
        assert_eq!(
            setting("lvmlockctl_kill_command=\"\"\n", "global/lvmlockctl_kill_command").as_deref(),
            Some("")
        );
        assert_eq!(setting("", "local/host_id"), None);
    }

    #[test]
    fn a_segment_begins_on_one_device() {
        assert_eq!(place("/dev/mapper/mpatha(12)"), Some(("/dev/mapper/mpatha", 12)));
        assert_eq!(place("/dev/sda(0),/dev/sdb(0)"), None);
        assert_eq!(place("unknown device"), None);
    }
}
