//! What sysfs says of a path.

use host::{Tree, TreeError};

use crate::error::{Error, Result};
use crate::state::{DeviceState, PathInfo};

/// What a file of a device that goes away answers: nothing.
pub(crate) fn fading(tree: &Tree, path: &str) -> Result<Option<String>> {
    match tree.read_opt(path) {
        Ok(text) => Ok(text.map(|text| text.trim().to_owned())),
        Err(error) if is_fading(&error) => Ok(None),
        Err(error) => Err(Error::Tree(error)),
    }
}

fn is_fading(error: &TreeError) -> bool {
    matches!(
        error.errno(),
        Some(libc::ENODEV | libc::ENXIO | libc::EINVAL | libc::EIO | libc::ENOENT | libc::ENOTCONN)
    )
}

/// Adds name, SCSI address and state to a path of which the number is known. One link says where the device is:
/// `/sys/devices/platform/host2/session1/target2:0:0/2:0:0:1/block/sdb`.
pub(crate) fn complete(tree: &Tree, path: &mut PathInfo) -> Result<()> {
    let place = match tree.read_link(format!("/sys/dev/block/{}", path.number)) {
        Ok(place) => place,
        // Its device is gone; the map holds on to the number.
        Err(error) if is_fading(&error) => return Ok(()),
        Err(error) => return Err(Error::Tree(error)),
    };
    let mut parts = place.iter().rev().filter_map(|part| part.to_str());
    path.device = parts.next().unwrap_or_default().to_owned();
    path.hctl = parts.find_map(|part| part.parse().ok());
    path.lun = path.hctl.map(|hctl| hctl.lun);
    if let Some(state) = fading(tree, &format!("/sys/block/{}/device/state", path.device))? {
        path.device_state = DeviceState::from_word(&state);
    }
    Ok(())
}

/// Vendor, product and revision of a SCSI disk; empty where it has none.
pub(super) fn product(tree: &Tree, device: &str) -> Result<(String, String, String)> {
    let text = |file: &str| -> Result<String> {
        Ok(fading(tree, &format!("/sys/block/{device}/device/{file}"))?.unwrap_or_default())
    };
    Ok((text("vendor")?, text("model")?, text("rev")?))
}
