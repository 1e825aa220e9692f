//! The tree as `multipath -ll` draws it (libmultipath/print.c), with the way of each path behind it.

use std::fmt;

use host::Bytes;

use super::{MapTopology, Route, Topology};

/// As multipath-tools do: one decimal below 10.
fn size(bytes: Bytes) -> String {
    let mut number = bytes.0 / 1024;
    let mut rest = 0;
    for unit in ["K", "M", "G", "T", "P"] {
        if number < 1024 || unit == "P" {
            return match number {
                // Tenths, rounded as printf rounds.
                0..10 => {
                    let tenths = (number * 10240 + rest * 10 + 512) / 1024;
                    format!("{}.{}{unit}", tenths / 10, tenths % 10)
                }
                _ => format!("{}{unit}", number + u64::from(rest >= 512)),
            };
        }
        (number, rest) = (number / 1024, number % 1024);
    }
    String::new()
}

fn or<'a>(text: &'a str, unknown: &'a str) -> &'a str {
    if text.is_empty() { unknown } else { text }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.maps.iter().try_for_each(|map| write!(f, "{map}"))
    }
}

impl fmt::Display for MapTopology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let map = &self.map;
        f.write_str(&map.name)?;
        if map.name != map.wwid {
            write!(f, " ({})", map.wwid)?;
        }
        writeln!(f, " {} {},{}", or(&map.node, "undef"), or(&map.vendor, "##"), or(&map.product, "##"))?;
        if let Some(bytes) = map.size {
            write!(f, "size={} ", size(bytes))?;
        }
        let protection = match map.read_only {
            Some(true) => "ro",
            Some(false) => "rw",
            None => "undef",
        };
        writeln!(f, "features='{}' hwhandler='{}' wp={protection}", map.features, map.handler)?;
        for (n, group) in map.groups.iter().enumerate() {
            let last = n + 1 == map.groups.len();
            writeln!(
                f,
                "{}-+- policy='{}' prio={} status={}",
                if last { '`' } else { '|' },
                group.selector,
                group.priority,
                group.state
            )?;
            let routes: Vec<_> = self.routes.iter().filter(|route| route.group == n).collect();
            for (m, route) in routes.iter().enumerate() {
                let branch = if m + 1 == routes.len() { '`' } else { '|' };
                writeln!(f, "{} {branch}- {route}", if last { ' ' } else { '|' })?;
            }
        }
        if !self.used_by.is_empty() {
            writeln!(f, "  used by {}", self.used_by.join(", "))?;
        }
        writeln!(f, "  {}", self.health)?;
        self.warnings.iter().try_for_each(|warning| writeln!(f, "  warning: {warning}"))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        let address = path.hctl.map_or_else(|| "#:#:#:#".to_owned(), |hctl| hctl.to_string());
        write!(f, "{address} {} {} ", or(&path.device, "-"), path.number)?;
        write!(f, "{} {} {}", path.state, path.checker, path.device_state)?;
        let Some(route) = self.iscsi() else { return Ok(()) };
        write!(f, "  session {} {}", route.session, route.phase)?;
        if let Some(portal) = route.portal {
            write!(f, " portal {portal}")?;
        }
        match (&route.nic, route.local) {
            (Some(nic), Some(local)) => write!(f, " from {local} on {}", nic.name)?,
            (None, Some(local)) => write!(f, " from {local}")?,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_as_multipath_tells_them() {
        let of = |bytes: u64| size(Bytes(bytes));
        assert_eq!(of(8 << 20), "8.0M");
        assert_eq!(of(1 << 30), "1.0G");
        assert_eq!(of((1 << 30) + (1 << 29)), "1.5G");
        assert_eq!(of(256 << 20), "256M");
        assert_eq!(of(512), "0.0K");
        assert_eq!(of(20 << 40), "20T");
    }
}
