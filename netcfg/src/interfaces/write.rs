//! A spec as stanzas.

use std::fmt::Write as _;

use super::import::named_vlan;
use crate::error::{Error, Result};
use crate::kinds::{BridgeSpec, VlanSpec};
use crate::plan::Step;
use crate::route::{AddressSpec, RouteSpec};
use crate::spec::{LinkKind, LinkSpec, NetSpec};

pub(super) fn write(spec: &NetSpec) -> Result<String> {
    let mut out = String::from("auto lo\niface lo inet loopback\n");
    for link in &spec.links {
        stanza(spec, link, &mut out)?;
    }
    // Rules belong to no interface; the loopback's stanza comes first.
    if !spec.rules.is_empty() {
        let rules =
            spec.rules.iter().map(|rule| format!("    up {}\n", Step::AddRule { rule: rule.clone() }));
        out = out.replacen("inet loopback\n", &format!("inet loopback\n{}", rules.collect::<String>()), 1);
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
        LinkKind::Vlan(vlan) => {
            line(out, &format!("    vlan-raw-device {}", vlan.parent));
            if !named_vlan(name, &vlan.parent, vlan.id) {
                line(out, &format!("    vlan-id {}", vlan.id));
            }
            // What ifupdown has no word for, ip has.
            let plain = VlanSpec::new(vlan.parent.clone(), vlan.id);
            if *vlan != plain {
                let unsaid =
                    Step::SetKind { name: name.clone(), from: link.kind.clone(), to: link.kind.clone() };
                if vlan.protocol != plain.protocol {
                    return Err(Error::Invalid {
                        object: name.to_string(),
                        reason: format!("interfaces(5) has no word for the VLAN protocol {}", vlan.protocol),
                    });
                }
                line(out, &format!("    up {unsaid}"));
            }
        }
        LinkKind::Bridge(bridge) => {
            let ports: Vec<&str> = bridge.ports.iter().map(host::IfName::as_str).collect();
            let ports = if ports.is_empty() { "none".to_owned() } else { ports.join(" ") };
            line(out, &format!("    bridge_ports {ports}"));
            if !bridge.options.is_empty() {
                let options = BridgeSpec { ports: Vec::new(), options: bridge.options.clone() };
                let to = LinkKind::Bridge(options);
                line(out, &format!("    up {}", Step::SetKind { name: name.clone(), from: to.clone(), to }));
            }
        }
        // ifupdown makes none of these; ip does, before the stanza's own settings.
        LinkKind::Veth { .. } | LinkKind::Macvlan { .. } | LinkKind::Dummy => {
            let (mtu, mac, controller, up) = (None, None, None, false);
            let make =
                Step::CreateLink { name: name.clone(), kind: link.kind.clone(), mtu, mac, controller, up };
            line(out, &format!("    pre-up {make}"));
            line(out, &format!("    post-down ip link del {name}"));
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
                if !gateway_is_written
                    && gateway.is_ipv4() == address.prefix.address.is_ipv4()
                    && *route == RouteSpec::default_via(gateway) =>
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
            _ => {
                let add = Step::AddRoute { name: name.clone(), route: route.clone() };
                line(out, &format!("    up {add}"));
            }
        }
    }
    for address in addresses {
        head(link, Some(address), out);
    }
    Ok(())
}

fn head(link: &LinkSpec, address: Option<&AddressSpec>, out: &mut String) {
    let name = &link.name;
    match address {
        None => line(out, &format!("iface {name} inet manual")),
        Some(address) => {
            let family = if address.prefix.address.is_ipv4() { "inet" } else { "inet6" };
            line(out, &format!("iface {name} {family} static\n    address {address}"));
        }
    }
}
