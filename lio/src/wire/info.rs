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
    /// Whether a ramdisk throws data away.
    pub null: bool,
    /// Whether a file is written back.
    pub buffered: bool,
    /// Whether a file is read and written asynchronously.
    pub asynchronous: bool,
    /// The size of a file or of a process's disk, in bytes.
    pub size: Option<u64>,
    /// Major and minor number of a block device.
    pub number: Option<(u32, u32)>,
    /// Host, channel, target and LUN of a SCSI device.
    pub address: Option<(u32, u32, u32, u32)>,
    /// Handler and configuration of a process's disk.
    pub config: Option<String>,
    /// The memory for commands of a process's disk, in MiB.
    pub data_area: Option<u32>,
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
    // The first line is that of all plugins, with nothing of this; there may be thousands of backstores.
    let text = text.split_once('\n').map_or("", |(_, rest)| rest);
    let after = |key: &str| text.split_once(key).map(|(_, rest)| rest);
    let word = |key: &str| after(key)?.split_whitespace().next();
    let number = |key: &str| word(key)?.parse().ok();
    // Paths and configurations may hold blanks: they end where the next key begins.
    let until = |key: &str, end: &str| Some(after(key)?.split_once(end)?.0.to_owned());
    let address =
        || Some((number(" Host ID: ")?, number("Channel ID: ")?, number("Target ID: ")?, number(" LUN: ")?));
    Info {
        device: until("UDEV PATH: ", "  readonly: ").or_else(|| until("  File: ", "  Size: ")),
        read_only: word("readonly: ") == Some("1"),
        // "PAGES/PAGE_SIZE: 4096*4096" (target_core_rd.c).
        pages: word("PAGES/PAGE_SIZE: ").and_then(|w| w.split('*').next()?.parse().ok()),
        null: word("nullio: ") == Some("1"),
        buffered: word("Mode: ") == Some("Buffered-WCE"),
        asynchronous: word("Async: ") == Some("1"),
        size: word(" Size: ").and_then(|w| w.parse().ok()),
        number: number("Major: ").zip(number("Minor: ")),
        address: address(),
        config: until("Config: ", " Size: ").filter(|config| config != "NULL"),
        data_area: number("MaxDataAreaMB: "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramdisk_says_its_pages() {
        let info = parse(
            "Status: DEACTIVATED  Max Queue Depth: 0  SectorSize: 512  HwMaxSectors: 0\n        \
             TCM RamDisk ID: 0  RamDisk Makeup: rd_mcp\n        PAGES/PAGE_SIZE: 2048*4096  SG_table_count: 1  nullio: 1 dummy: 0\n",
        );
        assert_eq!((info.pages, info.device, info.null), (Some(2048), None, true));
    }

    #[test]
    fn a_file_says_its_path() {
        let info = parse(
            "Status: ACTIVATED  Max Queue Depth: 128  SectorSize: 512  HwMaxSectors: 16384\n        TCM FILEIO ID: 0        File: /srv/a b  Size: 1048576  Mode: Buffered-WCE Async: 1\n",
        );
        assert_eq!((info.device.as_deref(), info.size), (Some("/srv/a b"), Some(1 << 20)));
        assert!(info.buffered && info.asynchronous);
    }

    #[test]
    fn a_passed_through_device_says_its_address_and_a_process_its_configuration() {
        let info = parse(
            "Status: DEACTIVATED\n        SCSI Device Bus Location: Channel ID: 1 Target ID: 2 LUN: 3 Host ID: 4\n        Vendor: LIO-ORG \n",
        );
        assert_eq!(info.address, Some((4, 1, 2, 3)));
        let info = parse(
            "Status: DEACTIVATED\n        Config: qcow//srv/a b Size: 4096 MaxDataAreaMB: 8 DataPagesPerBlk: 1 CmdRingSizeMB: 8\n",
        );
        assert_eq!(
            (info.config.as_deref(), info.size, info.data_area),
            (Some("qcow//srv/a b"), Some(4096), Some(8))
        );
    }
}
