//! A spec as stanzas.

use std::fmt::Write as _;

use super::import::named_vlan;
use crate::Prefix;
use crate::error::{Error, Result};
use crate::spec::{LinkKind, LinkSpec, NetSpec};

pub(super) fn write(spec: &NetSpec) -> Result<String> {
    let mut out = String::from("auto lo\niface lo inet loopback\n");
    for link in &spec.links {
        stanza(spec, link, &mut out)?;
    }
    if !spec.sysctls.is_empty() {
        out.push_str("\n# Kernel parameters belong into /etc/sysctl.d:\n");
        for sysctl in &spec.sysctls {
            line(&mut out, &format!("# {} = {}", sysctl.key, sysctl.value));
        }
    }
    Ok(out)
}

fn line(out: &mut String, text: &str) {
    // Writing into a String cannot fail.
    let _ = writeln!(out, "{text}");
}

fn stanza(spec: &NetSpec, link: &LinkSpec, out: &mut String) -> Result<()> {
    let name = &link.name;
    let mut addresses = link.addresses.iter();
    let first = addresses.next();
    line(out, &format!("\nauto {name}"));
    head(link, first, out);
    // The settings of the link itself go with its first stanza.
    match &link.kind {
        LinkKind::Existing => {}
        LinkKind::Vlan { parent, id } => {
            line(out, &format!("    vlan-raw-device {parent}"));
            if !named_vlan(name, parent, *id) {
                line(out, &format!("    vlan-id {id}"));
            }
        }
        LinkKind::Bond(bond) => {
            let ports: Vec<&str> = bond.ports.iter().map(host::IfName::as_str).collect();
            let ports = if ports.is_empty() { "none".to_owned() } else { ports.join(" ") };
            line(out, &format!("    bond-slaves {ports}"));
            line(out, &format!("    bond-mode {}", bond.mode));
            if let Some(primary) = &bond.primary {
                line(out, &format!("    bond-primary {primary}"));
            }
            for (option, value) in &bond.options {
                let info = option.info();
                if let Some(key) = info.interfaces.first() {
                    line(out, &format!("    {key} {}", info.show(value)));
                }
            }
        }
    }
    if let Some(mtu) = link.mtu {
        line(out, &format!("    mtu {mtu}"));
    }
    // ifupdown brings up a manual interface only if something does.
    if first.is_none() && matches!(link.kind, LinkKind::Existing) && spec.bond_of(name).is_none() {
        line(out, &format!("    up ip link set {name} up"));
    }
    let mut gateway_is_written = false;
    for route in &link.routes {
        match (route.destination, route.gateway, first) {
            (None, Some(gateway), Some(address))
                if !gateway_is_written && gateway.is_ipv4() == address.address.is_ipv4() =>
            {
                line(out, &format!("    gateway {gateway}"));
                gateway_is_written = true;
            }
            (None, None, _) => {
                return Err(Error::Invalid {
                    object: name.to_string(),
                    reason: "a default route without a gateway cannot be written".to_owned(),
                });
            }
            (destination, gateway, _) => {
                let destination = destination.map_or_else(|| "default".to_owned(), |d| d.to_string());
                let via = gateway.map(|g| format!(" via {g}")).unwrap_or_default();
                line(out, &format!("    up ip route add {destination}{via} dev {name}"));
            }
        }
    }
    for address in addresses {
        head(link, Some(address), out);
    }
    Ok(())
}

fn head(link: &LinkSpec, address: Option<&Prefix>, out: &mut String) {
    let name = &link.name;
    match address {
        None => line(out, &format!("iface {name} inet manual")),
        Some(address) => {
            let family = if address.address.is_ipv4() { "inet" } else { "inet6" };
            line(out, &format!("iface {name} {family} static\n    address {address}"));
        }
    }
}
