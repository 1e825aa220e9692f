//! A spec as configuration of other programs: systemd-networkd and netplan. `interfaces(5)` is in [`interfaces`](crate::interfaces).

use std::fmt::Write as _;

use host::IfName;

use crate::bond::{BondAttribute, BondOptionInfo, BondValue};
use crate::error::{Error, Result};
use crate::spec::{BondSpec, LinkKind, LinkSpec, NetSpec};

/// A file of another program's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigFile {
    /// Its name, without a directory.
    pub name: String,
    /// Its content.
    pub text: String,
}

fn line(out: &mut String, text: &str) {
    // Writing into a String cannot fail.
    let _ = writeln!(out, "{text}");
}

fn unsaid(link: &IfName, info: &BondOptionInfo, program: &str) -> Error {
    let reason = format!("{program} has no word for the bond option {}; leave it out of the spec", info.ip);
    Error::Invalid { object: link.to_string(), reason }
}

/// Whether an option's number is a time, and in which unit.
fn unit(attribute: BondAttribute) -> Option<&'static str> {
    match attribute {
        BondAttribute::Miimon
        | BondAttribute::UpDelay
        | BondAttribute::DownDelay
        | BondAttribute::ArpInterval => Some("ms"),
        BondAttribute::LearnInterval => Some("s"),
        _ => None,
    }
}

/// An option's value as both programs write it: names, `yes` and `no`.
fn shown(info: &BondOptionInfo, value: &BondValue, [off, on]: [&str; 2]) -> String {
    match (info.names, value) {
        (["off", "on"], BondValue::Number(n)) => if *n > 0 { on } else { off }.to_owned(),
        _ => info.show(value),
    }
}

/// Writes a spec for systemd-networkd: the files for `/etc/systemd/network` (systemd.netdev(5), systemd.network(5)). Kernel parameters are
/// not its business: see [`SysctlSpec`](crate::SysctlSpec).
///
/// # Errors
/// [`Error::Invalid`] names an option networkd has no word for.
pub fn networkd(spec: &NetSpec) -> Result<Vec<ConfigFile>> {
    let mut files = Vec::new();
    for link in &spec.links {
        let name = &link.name;
        let mut netdev = match &link.kind {
            LinkKind::Existing => None,
            LinkKind::Vlan { id, .. } => {
                Some(format!("[NetDev]\nName={name}\nKind=vlan\n\n[VLAN]\nId={id}\n"))
            }
            LinkKind::Bond(bond) => Some(networkd_bond(name, bond)?),
        };
        if let (Some(text), Some(mtu)) = (&mut netdev, link.mtu) {
            *text = text.replacen("\n\n", &format!("\nMTUBytes={mtu}\n\n"), 1);
        }
        files.extend(netdev.map(|text| ConfigFile { name: format!("10-{name}.netdev"), text }));
        files.push(ConfigFile { name: format!("20-{name}.network"), text: networkd_link(spec, link) });
    }
    // Ports without an entry of their own.
    for link in &spec.links {
        let LinkKind::Bond(bond) = &link.kind else { continue };
        for port in bond.ports.iter().filter(|port| spec.link(port).is_none()) {
            let port = LinkSpec::existing(port.clone());
            let name = format!("20-{}.network", port.name);
            files.push(ConfigFile { name, text: networkd_link(spec, &port) });
        }
    }
    Ok(files)
}

fn networkd_bond(name: &IfName, bond: &BondSpec) -> Result<String> {
    let mut out = format!("[NetDev]\nName={name}\nKind=bond\n\n[Bond]\nMode={}\n", bond.mode);
    for (option, value) in &bond.options {
        let info = option.info();
        let key = info.networkd.ok_or_else(|| unsaid(name, info, "systemd-networkd"))?;
        let text = shown(info, value, ["no", "yes"]).replace(',', " ");
        line(&mut out, &format!("{key}={text}{}", unit(*option).unwrap_or("")));
    }
    Ok(out)
}

fn networkd_link(spec: &NetSpec, link: &LinkSpec) -> String {
    let name = &link.name;
    let mut out = format!("[Match]\nName={name}\n");
    let bond = spec.bond_of(name);
    if let (LinkKind::Existing, Some(mtu), None) = (&link.kind, link.mtu, bond) {
        line(&mut out, &format!("\n[Link]\nMTUBytes={mtu}"));
    }
    line(&mut out, "\n[Network]\nLinkLocalAddressing=ipv6");
    for above in &spec.links {
        if matches!(&above.kind, LinkKind::Vlan { parent, .. } if parent == name) {
            line(&mut out, &format!("VLAN={}", above.name));
        }
    }
    if let Some(bond) = bond {
        line(&mut out, &format!("Bond={bond}"));
        let is_primary = spec.link(bond).is_some_and(
            |link| matches!(&link.kind, LinkKind::Bond(bond) if bond.primary.as_ref() == Some(name)),
        );
        if is_primary {
            line(&mut out, "PrimarySlave=yes");
        }
    }
    for address in &link.addresses {
        line(&mut out, &format!("Address={address}"));
    }
    for route in &link.routes {
        line(&mut out, "\n[Route]");
        if let Some(destination) = route.destination {
            line(&mut out, &format!("Destination={destination}"));
        }
        if let Some(gateway) = route.gateway {
            line(&mut out, &format!("Gateway={gateway}"));
        }
    }
    out
}

/// Writes a spec for netplan, with networkd as its renderer: a file for `/etc/netplan`, to be kept at mode 0600.
///
/// # Errors
/// [`Error::Invalid`] names an option netplan has no word for.
pub fn netplan(spec: &NetSpec) -> Result<ConfigFile> {
    let mut out = String::from("network:\n  version: 2\n  renderer: networkd\n");
    type Is = fn(&LinkKind) -> bool;
    let kinds: [(&str, Is); 3] = [
        ("ethernets", |kind| matches!(kind, LinkKind::Existing)),
        ("bonds", |kind| matches!(kind, LinkKind::Bond(_))),
        ("vlans", |kind| matches!(kind, LinkKind::Vlan { .. })),
    ];
    // Ports without an entry of their own are cards.
    let ports = spec.links.iter().flat_map(|link| match &link.kind {
        LinkKind::Bond(bond) => bond.ports.as_slice(),
        _ => &[],
    });
    let cards: Vec<LinkSpec> =
        ports.filter(|port| spec.link(port).is_none()).map(|port| LinkSpec::existing(port.clone())).collect();
    for (section, is) in kinds {
        let mut links = spec.links.iter().chain(&cards).filter(|link| is(&link.kind)).peekable();
        if links.peek().is_some() {
            line(&mut out, &format!("  {section}:"));
        }
        for link in links {
            netplan_link(link, &mut out)?;
        }
    }
    Ok(ConfigFile { name: "60-storage.yaml".to_owned(), text: out })
}

fn netplan_link(link: &LinkSpec, out: &mut String) -> Result<()> {
    line(out, &format!("    {}:", link.name));
    let before = out.len();
    match &link.kind {
        LinkKind::Existing => {}
        LinkKind::Vlan { parent, id } => line(out, &format!("      id: {id}\n      link: {parent}")),
        LinkKind::Bond(bond) => {
            let ports: Vec<&str> = bond.ports.iter().map(IfName::as_str).collect();
            line(out, &format!("      interfaces: [{}]\n      parameters:", ports.join(", ")));
            line(out, &format!("        mode: {}", bond.mode));
            if let Some(primary) = &bond.primary {
                line(out, &format!("        primary: {primary}"));
            }
            for (option, value) in &bond.options {
                let info = option.info();
                let key = info.netplan.ok_or_else(|| unsaid(&link.name, info, "netplan"))?;
                let text = shown(info, value, ["false", "true"]);
                let text = if matches!(value, BondValue::Addresses(_)) { format!("[{text}]") } else { text };
                line(out, &format!("        {key}: {text}"));
            }
        }
    }
    if let Some(mtu) = link.mtu {
        line(out, &format!("      mtu: {mtu}"));
    }
    if !link.addresses.is_empty() {
        let all: Vec<String> = link.addresses.iter().map(|address| format!("\"{address}\"")).collect();
        line(out, &format!("      addresses: [{}]", all.join(", ")));
    }
    if !link.routes.is_empty() {
        line(out, "      routes:");
        for route in &link.routes {
            let to = route.destination.map_or_else(|| "default".to_owned(), |d| d.to_string());
            line(out, &format!("        - to: \"{to}\""));
            if let Some(gateway) = route.gateway {
                line(out, &format!("          via: \"{gateway}\""));
            } else {
                line(out, "          scope: link");
            }
        }
    }
    if out.len() == before {
        line(out, "      optional: false");
    }
    Ok(())
}
