//! The `info` file of a backstore (`target_core_show_dev_info` and the plugins' `show_configfs_dev_params`).

/// What the `info` file of a backstore says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Info {
    /// The path of a block device or file.
    pub device: Option<String>,
    /// Whether a block device was opened read-only.
    pub read_only: bool,
    /// The pages of a ramdisk.
    pub pages: Option<u64>,
    /// Major and minor number of a block device.
    pub number: Option<(u32, u32)>,
}

/// Reads the text. What is not there stays at its default: the plugins differ.
///
/// ```
/// let info = lio::wire::info::parse("Status: ACTIVATED  Max Queue Depth: 128  SectorSize: 512  HwMaxSectors: 1024\n\
///     \x20       iBlock device: vdb  UDEV PATH: /dev/vdb  readonly: 0\n\
///     \x20       Major: 254 Minor: 16  CLAIMED: IBLOCK\n");
/// assert_eq!(info.device.as_deref(), Some("/dev/vdb"));
/// assert_eq!(info.number, Some((254, 16)));
/// ```
#[must_use]
pub fn parse(text: &str) -> Info {
    let word = |key: &str| {
        let (_, rest) = text.split_once(key)?;
        rest.split_whitespace().next()
    };
    let number = |key: &str| word(key)?.parse().ok();
    Info {
        device: word("UDEV PATH: ").or_else(|| word("  File: ")).map(str::to_owned),
        read_only: word("readonly: ") == Some("1"),
        // "PAGES/PAGE_SIZE: 4096*4096" (target_core_rd.c).
        pages: word("PAGES/PAGE_SIZE: ").and_then(|w| w.split('*').next()?.parse().ok()),
        number: number("Major: ").zip(number("Minor: ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramdisk_says_its_pages() {
        let info = parse(
            "Status: DEACTIVATED  Max Queue Depth: 0  SectorSize: 512  HwMaxSectors: 0\n        \
             TCM RamDisk ID: 0  RamDisk Makeup: rd_mcp\n        PAGES/PAGE_SIZE: 2048*4096  SG_table_count: 1  nullio: 0 dummy: 0\n",
        );
        assert_eq!((info.pages, info.device), (Some(2048), None));
    }

    #[test]
    fn a_file_says_its_path() {
        let info = parse(
            "Status: ACTIVATED\n        TCM FILEIO ID: 0        File: /srv/a  Size: 1  Mode: O_DSYNC Async: 0\n",
        );
        assert_eq!(info.device.as_deref(), Some("/srv/a"));
    }
}
