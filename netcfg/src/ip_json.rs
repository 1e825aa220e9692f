//! What is seen, as `ip -d -j address show` prints it: for programs that read that already.

use host::IfName;
use serde_json::{Map, Value, json};

use crate::bond::BondAttribute;
use crate::kinds::VlanFlag;
use crate::state::{AddressState, BondPortState, BondState, LinkKindState, LinkState, MiiStatus, NetState};

/// `IFF_*` in the order in which `ip` prints them (`print_link_flags`).
const FLAGS: [(u32, &str); 17] = [
    (0x8, "LOOPBACK"),
    (0x2, "BROADCAST"),
    (0x10, "POINTOPOINT"),
    (0x1000, "MULTICAST"),
    (0x80, "NOARP"),
    (0x200, "ALLMULTI"),
    (0x100, "PROMISC"),
    (0x400, "MASTER"),
    (0x800, "SLAVE"),
    (0x4, "DEBUG"),
    (0x8000, "DYNAMIC"),
    (0x4000, "AUTOMEDIA"),
    (0x2000, "PORTSEL"),
    (0x20, "NOTRAILERS"),
    (0x1, "UP"),
    (0x1_0000, "LOWER_UP"),
    (0x2_0000, "DORMANT"),
];
const RUNNING: u32 = 0x40;

/// RFC 2863's states, by number.
const OPER: [&str; 7] = ["UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP"];

impl NetState {
    /// All links with their addresses in the form of `ip -d -j address show`. Keys that this crate does not read (`qdisc`, `txqlen`, offload
    /// sizes, ...) are not there; those that are there have `ip`'s values.
    ///
    /// ```
    /// # #[cfg(feature = "fake")] fn main() -> netcfg::Result<()> {
    /// # let host = netcfg::fake::FakeNet::new(&["eth0"]).host();
    /// let links = netcfg::Netcfg::on(&host)?.list()?.to_ip_json(); // Netcfg::new()? on a real machine
    /// assert_eq!(links[1]["ifname"], "eth0");
    /// assert_eq!(links[1]["mtu"], 1500);
    /// # Ok(()) }
    /// # #[cfg(not(feature = "fake"))] fn main() {}
    /// ```
    #[doc(alias = "ip -j")]
    #[must_use]
    pub fn to_ip_json(&self) -> Value {
        self.links.values().map(|link| self.link_json(link)).collect()
    }

    /// One link in the form of `ip -d -j address show dev NAME`; `None` if there is none of this name.
    #[must_use]
    pub fn link_to_ip_json(&self, name: &IfName) -> Option<Value> {
        self.link(name).map(|link| self.link_json(link))
    }

    fn link_json(&self, link: &LinkState) -> Value {
        let mut out = Map::new();
        out.insert("ifindex".to_owned(), json!(link.index));
        out.insert("ifname".to_owned(), json!(link.name));
        out.insert("flags".to_owned(), flags(link.flags));
        out.insert("mtu".to_owned(), json!(link.mtu));
        let oper = OPER.get(usize::from(link.oper)).copied().unwrap_or("UNKNOWN");
        out.insert("operstate".to_owned(), json!(oper));
        let mut named = |key: &str, index: Option<u32>| {
            if let Some(name) = index.and_then(|index| self.name_of(index)) {
                out.insert(key.to_owned(), json!(name));
            }
        };
        named("link", link.lower);
        named("master", link.controller);
        if !link.mac.is_empty() {
            let octets: Vec<_> = link.mac.iter().map(|octet| format!("{octet:02x}")).collect();
            out.insert("address".to_owned(), json!(octets.join(":")));
        }
        let mut info = Map::new();
        if let Some(kind) = link.kind.word() {
            info.insert("info_kind".to_owned(), json!(kind));
        }
        if let Some(data) = self.data(&link.kind) {
            info.insert("info_data".to_owned(), data);
        }
        if let Some(port) = &link.port {
            info.insert("info_slave_kind".to_owned(), json!("bond"));
            info.insert("info_slave_data".to_owned(), slave(port));
        }
        if !info.is_empty() {
            out.insert("linkinfo".to_owned(), Value::Object(info));
        }
        out.insert("addr_info".to_owned(), link.addresses.iter().map(address).collect());
        Value::Object(out)
    }

    fn data(&self, kind: &LinkKindState) -> Option<Value> {
        match kind {
            LinkKindState::Vlan(vlan) => {
                // In the order in which `ip` prints them (`vlan_print_flags`).
                let flags = [
                    (VlanFlag::ReorderHdr, "REORDER_HDR"),
                    (VlanFlag::Gvrp, "GVRP"),
                    (VlanFlag::Mvrp, "MVRP"),
                    (VlanFlag::LooseBinding, "LOOSE_BINDING"),
                    (VlanFlag::BridgeBinding, "BRIDGE_BINDING"),
                ];
                let flags: Vec<_> =
                    flags.into_iter().filter(|(flag, _)| vlan.has(*flag)).map(|(_, word)| word).collect();
                let id = vlan.id.map(crate::VlanId::get);
                Some(json!({ "protocol": vlan.protocol.to_string(), "id": id, "flags": flags }))
            }
            LinkKindState::Bond(bond) => Some(self.bond_json(bond)),
            LinkKindState::Macvlan(mode) => Some(json!({ "mode": mode.to_string() })),
            _ => None,
        }
    }

    fn bond_json(&self, bond: &BondState) -> Value {
        let mut out = Map::new();
        out.insert("mode".to_owned(), json!(bond.mode.to_string()));
        for (key, index) in [("active_slave", bond.active), ("primary", bond.primary)] {
            if let Some(name) = index.and_then(|index| self.name_of(index)) {
                out.insert(key.to_owned(), json!(name));
            }
        }
        // Those whose key in JSON is the word on the command line, as numbers or as words.
        use BondAttribute::{
            ArpInterval, DownDelay, FailOverMac, Miimon, MinLinks, PacketsPerPort, PrimaryReselect, UpDelay,
            UseCarrier, XmitHashPolicy,
        };
        for option in [Miimon, UpDelay, DownDelay, UseCarrier, ArpInterval, MinLinks, PacketsPerPort] {
            if let Some(number) = bond.number(option) {
                out.insert(option.info().ip.to_owned(), json!(number));
            }
        }
        for option in [PrimaryReselect, FailOverMac, XmitHashPolicy] {
            if let Some(value) = bond.options.get(&option) {
                out.insert(option.info().ip.to_owned(), json!(option.info().show(value)));
            }
        }
        Value::Object(out)
    }
}

fn flags(bits: u32) -> Value {
    let no_carrier = bits & 1 != 0 && bits & RUNNING == 0;
    let names = FLAGS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name);
    no_carrier.then_some("NO-CARRIER").into_iter().chain(names).collect()
}

fn slave(port: &BondPortState) -> Value {
    let mii = match port.mii {
        MiiStatus::Up => "UP",
        MiiStatus::GoingDown => "GOING_DOWN",
        MiiStatus::Down => "DOWN",
        MiiStatus::GoingBack => "GOING_BACK",
    };
    let state = if port.active { "ACTIVE" } else { "BACKUP" };
    json!({ "state": state, "mii_status": mii, "link_failure_count": port.failures, "queue_id": port.queue })
}

fn address(address: &AddressState) -> Value {
    let (family, ip) =
        (if address.prefix.address.is_ipv4() { "inet" } else { "inet6" }, address.prefix.address);
    let seconds = |d: std::time::Duration| u32::try_from(d.as_secs()).unwrap_or(u32::MAX);
    let (valid, preferred) = match address.lifetime {
        Some(lifetime) => (seconds(lifetime.valid), seconds(lifetime.preferred)),
        None => (u32::MAX, u32::MAX),
    };
    json!({
        "family": family,
        "local": ip.to_string(),
        "prefixlen": address.prefix.length,
        "valid_life_time": valid,
        "preferred_life_time": preferred,
    })
}
