//! New text: a resource as drbd.conf has it.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::wire::conf::quoted;
use crate::{Error, MetaDisk, ResourceSpec, Result, VolumeSpec};

/// Writes the section of a resource from the specs of its two nodes, each with its name. What both have the same stands once.
///
/// The shared secret is in the text, as drbdadm needs it: let only root read the file.
///
/// # Errors
/// [`Error::Spec`] if the two do not belong together: other names, addresses that do not match, other options; or if something cannot be
/// written in drbd.conf.
pub fn resource_text(nodes: [(&str, &ResourceSpec); 2]) -> Result<String> {
    let [(_, a), (_, b)] = nodes;
    let wrong = |reason: &str| Error::Spec { name: a.name.clone(), reason: reason.to_owned() };
    if a.name != b.name || (a.local, a.peer) != (b.peer, b.local) {
        return Err(wrong(
            "the specs of the two nodes have other names, or addresses that are not each other's",
        ));
    }
    if (&a.net, &a.disk, &a.options) != (&b.net, &b.disk, &b.options) {
        return Err(wrong("the specs of the two nodes have other options"));
    }
    let mut out = String::new();
    let mut line = |depth: usize, text: &str| out.push_str(&format!("{}{text}\n", "    ".repeat(depth)));
    let word =
        |text: &str| quoted(text).ok_or_else(|| wrong("a value has more than 255 bytes or a line break"));
    line(0, &format!("resource {} {{", word(a.name.as_str())?));
    let secret = a.net.shared_secret().map(|secret| String::from_utf8_lossy(secret.expose()).into_owned());
    let net = a.net.iter().map(|(name, value)| match (name, &secret) {
        ("shared-secret", Some(secret)) => (name, secret.clone()),
        _ => (name, value),
    });
    let sections: [(&str, Vec<(&str, String)>); 3] =
        [("net", net.collect()), ("disk", a.disk.iter().collect()), ("options", a.options.iter().collect())];
    for (section, options) in sections.iter().filter(|(_, options)| !options.is_empty()) {
        line(1, &format!("{section} {{"));
        for (name, value) in options.iter().filter(|(_, value)| !value.is_empty()) {
            line(2, &format!("{name} {};", word(value)?));
        }
        line(1, "}");
    }
    for (node, spec) in nodes {
        line(1, &format!("on {} {{", word(node)?));
        line(2, &format!("address {};", address(spec.local)));
        for volume in &spec.volumes {
            line(2, &format!("volume {} {{", volume.volume));
            for text in volume_lines(volume) {
                line(3, &text.ok_or_else(|| wrong("a path has more than 255 bytes or a line break"))?);
            }
            if let Some(options) = &volume.options {
                let all = options.iter().map(|(name, value)| Some(format!("{name} {};", quoted(&value)?)));
                let all = all.collect::<Option<Vec<_>>>().ok_or_else(|| wrong("a value is too long"))?;
                line(3, &format!("disk {{ {} }}", all.join(" ")));
            }
            line(2, "}");
        }
        line(1, "}");
    }
    line(0, "}");
    Ok(out)
}

fn volume_lines(volume: &VolumeSpec) -> [Option<String>; 3] {
    let path = |path: &std::path::Path| quoted(&path.display().to_string());
    let meta = match &volume.meta {
        MetaDisk::Internal => Some("meta-disk internal;".to_owned()),
        MetaDisk::External(device) => path(device).map(|path| format!("meta-disk {path};")),
        MetaDisk::Indexed(device, index) => path(device).map(|path| format!("meta-disk {path}[{index}];")),
    };
    [
        Some(format!("device minor {};", volume.minor)),
        path(&volume.disk).map(|path| format!("disk {path};")),
        meta,
    ]
}

fn address(address: SocketAddr) -> String {
    let mut out = String::new();
    // Into a text nothing fails.
    let _ = match address {
        SocketAddr::V4(v4) => write!(out, "{v4}"),
        SocketAddr::V6(v6) => write!(out, "ipv6 {v6}"),
    };
    out
}
