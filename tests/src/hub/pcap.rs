//! Writes frames to a classic pcap file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest frame kept whole.
const SNAP: u32 = 262_144;

/// A capture file being written.
#[derive(Debug)]
pub(super) struct Pcap {
    out: BufWriter<File>,
    dirty: bool,
}

impl Pcap {
    /// Creates the file and writes its header: native byte order, microseconds, Ethernet.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut out = BufWriter::new(File::create(path)?);
        out.write_all(&0xa1b2_c3d4_u32.to_ne_bytes())?;
        out.write_all(&2_u16.to_ne_bytes())?;
        out.write_all(&4_u16.to_ne_bytes())?;
        for word in [0_u32, 0, SNAP, 1] {
            out.write_all(&word.to_ne_bytes())?;
        }
        Ok(Self { out, dirty: true })
    }

    /// Appends a frame with the time of now.
    pub(super) fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        // The format's seconds are 32 bits wide.
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        for word in [seconds, now.subsec_micros(), length.min(SNAP), length] {
            self.out.write_all(&word.to_ne_bytes())?;
        }
        self.dirty = true;
        let kept = usize::try_from(length.min(SNAP)).unwrap_or(0);
        self.out.write_all(frame.get(..kept).unwrap_or(frame))
    }

    /// Hands everything written to the kernel, so that a reader sees whole frames.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.dirty {
            self.dirty = false;
            self.out.flush()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_frame_are_where_the_format_wants_them() {
        let path = std::env::temp_dir().join(format!("lab-pcap-{}", std::process::id()));
        let mut pcap = Pcap::create(&path).unwrap();
        pcap.write(&[7; 60]).unwrap();
        pcap.flush().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(bytes.len(), 24 + 16 + 60);
        assert_eq!(bytes[..4], 0xa1b2_c3d4_u32.to_ne_bytes());
        assert_eq!(bytes[32..36], 60_u32.to_ne_bytes());
        assert_eq!(bytes[40..], [7; 60]);
    }
}
