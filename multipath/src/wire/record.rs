//! open-iscsi's node records: `key = value` lines. Unknown ones are kept as they are.

/// Sets keys of a record, leaving everything else as it stands; keys that are not there are added before the end mark.
pub(crate) fn with_values(record: &str, values: &[(&str, String)]) -> String {
    let mut left: Vec<_> = values.to_vec();
    let mut out = String::new();
    for line in record.lines() {
        let key = line.split_once(" = ").map(|(key, _)| key.trim());
        let found = key.and_then(|key| left.iter().position(|(k, _)| *k == key));
        match found {
            Some(index) => {
                let (key, value) = left.remove(index);
                out.push_str(&format!("{key} = {value}\n"));
            }
            None if line.starts_with("# END RECORD") => {
                left.drain(..).for_each(|(key, value)| out.push_str(&format!("{key} = {value}\n")));
                out.push_str(line);
                out.push('\n');
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    left.into_iter().for_each(|(key, value)| out.push_str(&format!("{key} = {value}\n")));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_keys_change_and_the_rest_stays() {
        let record =
            "# BEGIN RECORD 2.1.8\nnode.name = iqn.a\nnode.startup = manual\nodd line\n# END RECORD\n";
        let values =
            [("node.startup", "automatic".to_owned()), ("node.session.auth.username", "hv".to_owned())];
        assert_eq!(
            with_values(record, &values),
            "# BEGIN RECORD 2.1.8\nnode.name = iqn.a\nnode.startup = automatic\nodd line\nnode.session.auth.username = hv\n# END RECORD\n"
        );
    }
}
