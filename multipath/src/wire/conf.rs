//! multipathd's configuration as it prints it (`show config`): sections in braces, a keyword and a value a line (libmultipath, `parser.c`).

/// One setting, and the sections it stands in, the outermost first. Devices are numbered in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) section: Vec<String>,
    /// Which section of this kind it is; tells one `device` from the next.
    pub(crate) number: usize,
    pub(crate) key: String,
    pub(crate) value: String,
}

/// Reads a configuration. Any text is one; what is no section and no pair of words is passed over.
pub(crate) fn parse(text: &str) -> Vec<Setting> {
    let (mut section, mut number, mut found) = (Vec::new(), 0, Vec::new());
    for line in text.lines() {
        let line = line.split(['#', '!']).next().unwrap_or_default().trim();
        if let Some(name) = line.strip_suffix('{') {
            section.push(name.trim().to_owned());
            number += 1;
        } else if line == "}" {
            section.pop();
        } else if let Some((key, value)) = line.split_once(char::is_whitespace) {
            let value = value.trim().trim_matches('"');
            found.push(Setting {
                section: section.clone(),
                number,
                key: key.to_owned(),
                value: value.to_owned(),
            });
        }
    }
    found
}

/// The value of a key in a section such as `["defaults"]`; the last one counts.
pub(crate) fn get<'a>(settings: &'a [Setting], section: &[&str], key: &str) -> Option<&'a str> {
    settings.iter().rfind(|s| s.section == section && s.key == key).map(|s| s.value.as_str())
}

/// The settings of the devices whose `vendor` is this one.
pub(crate) fn devices<'a>(settings: &'a [Setting], vendor: &str) -> Vec<Vec<&'a Setting>> {
    let is_device = |s: &&Setting| s.section == ["devices", "device"];
    let named = settings.iter().filter(is_device).filter(|s| s.key == "vendor" && s.value == vendor);
    named.map(|v| settings.iter().filter(is_device).filter(|s| s.number == v.number).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sections_and_devices_are_told_apart() {
        let text = "defaults {\n\tpolling_interval 1\n\tfind_multipaths \"strict\"\n}\nblacklist {\n}\ndevices {\n\tdevice {\n\t\tvendor \"(LIO-ORG|SUSE)\"\n\t\tpath_checker \"directio\"\n\t}\n\tdevice {\n\t\tvendor \"IBM\"\n\t\tpath_checker \"tur\"\n\t}\n}\n";
        let settings = parse(text);
        assert_eq!(get(&settings, &["defaults"], "polling_interval"), Some("1"));
        assert_eq!(get(&settings, &["defaults"], "find_multipaths"), Some("strict"));
        let lio = devices(&settings, "(LIO-ORG|SUSE)");
        assert_eq!(lio.len(), 1);
        let values: Vec<_> = lio[0].iter().map(|s| s.value.as_str()).collect();
        assert_eq!(values, ["(LIO-ORG|SUSE)", "directio"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[a-z{} \"\n#]{0,200}") {
            prop_assert!(parse(&text).len() <= text.lines().count());
        }
    }
}
