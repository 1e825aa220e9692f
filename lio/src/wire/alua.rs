//! The texts of asymmetric access groups: written as numbers, read as words (`target_core_alua.c`, `target_core_configfs.c`).

/// Turns what a file of `alua/GROUP/` says into what is written to it: words of type and status into numbers, all else as it is.
///
/// ```
/// use lio::wire::alua::number;
/// assert_eq!(number("alua_access_type", "Implicit and Explicit"), "3");
/// assert_eq!(number("alua_access_status", "Altered by Implicit ALUA"), "2");
/// assert_eq!(number("preferred", "1"), "1");
/// ```
#[must_use]
pub fn number(file: &str, text: &str) -> String {
    let text = text.trim();
    let known = match (file, text) {
        ("alua_access_type" | "alua_access_status", "None") => "0",
        ("alua_access_type", "Implicit") => "1",
        ("alua_access_type", "Explicit") => "2",
        ("alua_access_type", "Implicit and Explicit") => "3",
        ("alua_access_status", "Altered by Explicit STPG") => "1",
        ("alua_access_status", "Altered by Implicit ALUA") => "2",
        _ => text,
    };
    known.to_owned()
}

/// The word of a number, as the kernel prints it.
#[must_use]
pub fn word(file: &str, number: &str) -> String {
    let known = match (file, number) {
        ("alua_access_type" | "alua_access_status", "0") => "None",
        ("alua_access_type", "1") => "Implicit",
        ("alua_access_type", "2") => "Explicit",
        ("alua_access_type", "3") => "Implicit and Explicit",
        ("alua_access_status", "1") => "Altered by Explicit STPG",
        ("alua_access_status", "2") => "Altered by Implicit ALUA",
        _ => number,
    };
    known.to_owned()
}

/// Takes the name of the group out of `alua_tg_pt_gp` of a LUN (`TG Port Alias: NAME`, six lines) or `alua_lu_gp` of a backstore
/// (`LU Group Alias: NAME`); `None` where there is none.
#[must_use]
pub fn alias(text: &str) -> Option<String> {
    let (_, name) = text.lines().next()?.split_once("Alias: ")?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_lead_back() {
        for (file, most) in [("alua_access_type", 3), ("alua_access_status", 2), ("preferred", 1)] {
            for n in 0..=most {
                assert_eq!(number(file, &word(file, &n.to_string())), n.to_string());
            }
        }
        let text = "TG Port Alias: group1\nTG Port Group ID: 16\nTG Port Primary Access State: Standby\n";
        assert_eq!(alias(text).as_deref(), Some("group1"));
        assert_eq!(alias("LU Group Alias: units\nLU Group ID: 5\n").as_deref(), Some("units"));
        assert_eq!(alias(""), None);
    }
}
