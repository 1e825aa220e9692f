//! Reading states: one dump for all resources, four tables joined in memory for one.

use host::Deadline;
use host::nl::Reply;
use host::nl::genl::Family;

use crate::link::About;
use crate::state::{Tree, absorb, absorb_status, insert_progress, insert_verify, progress_of};
use crate::wire::{Command, Context, NO_MINOR, Packet, nest, request};
use crate::{Dialect, Drbd, Error, Refusal, ResourceName, ResourceState, Result, Role};

/// What a dump answers for a filter that names no resource (`ERR_RES_NOT_KNOWN`).
const NOT_KNOWN: i32 = 158;

impl Drbd {
    /// Lists all resources of the kernel, whoever made them. `drbdsetup status`, `drbdsetup show`.
    ///
    /// One request whatever the number of resources, and what it tells of a volume is of one moment; four more if there is a resource
    /// without volumes. [`watch`](Self::watch) sees a picture that is of one moment over all. Three counters that 8.4 tells only in
    /// longer ways are `None`; [`get`](Self::get) has them.
    ///
    /// # Errors
    /// The exchange with the kernel failed.
    #[doc(alias = "drbdsetup status")]
    pub fn list(&self) -> Result<Vec<ResourceState>> {
        let about = About { command: Command::GET_STATUS, object: "all", deadline: self.deadline() };
        if self.dialect == Dialect::Drbd9 {
            return self.list_tables(about.deadline);
        }
        let replies = self.link.dump(about, |family| request(family, about.command, NO_MINOR, 0))?;
        let mut tree = Tree::new();
        for reply in &replies {
            let packet = Packet::parse(reply)?;
            if !packet.is_success() {
                return Err(about.refused(packet.code, packet.texts()));
            }
            if !absorb_status(&mut tree, &packet) {
                return self.list_tables(about.deadline);
            }
        }
        self.add_verify(&mut tree)?;
        Ok(tree.into_values().collect())
    }

    /// All resources from the four tables, which also tell of those without volumes.
    fn list_tables(&self, deadline: Deadline) -> Result<Vec<ResourceState>> {
        const TABLES: [Command; 4] = [
            Command::GET_RESOURCES,
            Command::GET_DEVICES,
            Command::GET_CONNECTIONS,
            Command::GET_PEER_DEVICES,
        ];
        let about = About { command: Command::GET_RESOURCES, object: "all", deadline };
        let build = |family: &Family| {
            let paths = family.has(Command::GET_PATHS.0).then_some(Command::GET_PATHS);
            TABLES.into_iter().chain(paths).map(|command| request(family, command, NO_MINOR, 0)).collect()
        };
        let mut tree = Tree::new();
        for reply in self.link.dumps(about, build)?.iter().flatten() {
            let packet = Packet::parse(reply)?;
            if !packet.is_success() {
                return Err(about.refused(packet.code, packet.texts()));
            }
            absorb(self.dialect, &mut tree, &packet, false);
        }
        if self.dialect == Dialect::Drbd84 {
            self.add_progress(false, &mut tree, about.deadline)?;
        }
        Ok(tree.into_values().collect())
    }

    /// Reads one resource, `None` if there is none of this name. `drbdsetup status NAME`.
    ///
    /// One request if it is not there, else four, and one more for each volume that syncs.
    ///
    /// # Errors
    /// The exchange with the kernel failed.
    pub fn get(&self, name: &ResourceName) -> Result<Option<ResourceState>> {
        self.get_before(name, self.deadline())
    }

    /// Reads this node's role, and nothing else: one request, whatever else the kernel has. `drbdadm role NAME`.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the exchange with the kernel failed.
    #[doc(alias = "drbdadm role")]
    pub fn role(&self, name: &ResourceName) -> Result<Role> {
        // `union drbd_state`: the first two bits are the role.
        const ROLE: u32 = 3;
        if self.dialect == Dialect::Drbd9 {
            let found = self.get(name)?.ok_or_else(|| Error::NotFound { name: name.clone() })?;
            return Ok(found.role);
        }
        let about = About { command: Command::GET_STATUS, object: name.as_str(), deadline: self.deadline() };
        let replies = self.link.dump(about, |family| {
            let message = request(family, about.command, NO_MINOR, 0);
            Context::resource(name.as_str()).encode(message, crate::wire::MANDATORY)
        });
        let replies = match replies {
            // A name that is not known (drbd_adm_get_status_all).
            Err(Error::Netlink { source: host::nl::Error::Kernel { errno: libc::ENODEV, .. }, .. }) => {
                return Err(Error::NotFound { name: name.clone() });
            }
            other => other?,
        };
        let mut role = Role::Secondary;
        for reply in &replies {
            let state = Packet::parse(reply)?.field(nest::STATE_INFO, 2).and_then(|field| field.u32());
            if state.is_some_and(|state| Role::from_number(state & ROLE) == Role::Primary) {
                role = Role::Primary;
            }
        }
        Ok(role)
    }

    pub(crate) fn get_before(
        &self,
        name: &ResourceName,
        deadline: Deadline,
    ) -> Result<Option<ResourceState>> {
        let mut tree = Tree::new();
        for reply in self.table(Command::GET_RESOURCES, None, deadline)? {
            let packet = Packet::parse(&reply)?;
            // The kernel does not filter this table.
            if packet.context.resource.as_deref() == Some(name.as_str()) {
                absorb(self.dialect, &mut tree, &packet, false);
            }
        }
        if tree.is_empty() {
            return Ok(None);
        }
        for command in [Command::GET_DEVICES, Command::GET_CONNECTIONS, Command::GET_PEER_DEVICES] {
            for reply in self.table(command, Some(name), deadline)? {
                absorb(self.dialect, &mut tree, &Packet::parse(&reply)?, false);
            }
        }
        match self.dialect {
            Dialect::Drbd84 => self.add_progress(true, &mut tree, deadline)?,
            Dialect::Drbd9 => {
                let about = About { command: Command::GET_PATHS, object: name.as_str(), deadline };
                if self.link.family(about)?.has(Command::GET_PATHS.0) {
                    for reply in self.table(Command::GET_PATHS, Some(name), deadline)? {
                        absorb(self.dialect, &mut tree, &Packet::parse(&reply)?, false);
                    }
                }
            }
        }
        Ok(tree.into_values().next())
    }

    /// One of the four tables, of one resource or of all. Nothing if the resource is not known.
    pub(crate) fn table(
        &self,
        command: Command,
        name: Option<&ResourceName>,
        deadline: Deadline,
    ) -> Result<Vec<Reply>> {
        let about = About { command, object: name.map_or("all", |name| name.as_str()), deadline };
        let replies = self.link.dump(about, |family| {
            let message = request(family, command, NO_MINOR, 0);
            match name.filter(|_| command != Command::GET_RESOURCES) {
                // Without bit 14, as drbdsetup does it: the filter is looked up by hand (find_cfg_context_attr, drbd_nl.c).
                Some(name) => Context::resource(name.as_str()).encode(message, crate::wire::MANDATORY),
                None => message,
            }
        })?;
        for reply in &replies {
            let packet = Packet::parse(reply)?;
            match packet.code {
                NOT_KNOWN => return Ok(Vec::new()),
                _ if packet.is_success() => {}
                code => return Err(about.refused(code, packet.texts())),
            }
        }
        Ok(replies)
    }

    /// DRBD 8.4 tells how far a verify is only in a file.
    fn add_verify(&self, tree: &mut Tree) -> Result<()> {
        let verifies = |state: &ResourceState| {
            state.connections.iter().flat_map(|c| &c.volumes).any(|volume| volume.repl.is_verifying())
        };
        if tree.values().any(verifies) {
            let text = self.host.tree().read_opt("/proc/drbd")?.unwrap_or_default();
            tree.values_mut().for_each(|state| insert_verify(state, &text));
        }
        Ok(())
    }

    /// DRBD 8.4 tells the total of a resync only in the older `DRBD_ADM_GET_STATUS`.
    fn add_progress(&self, single: bool, tree: &mut Tree, deadline: Deadline) -> Result<()> {
        self.add_verify(tree)?;
        let syncing = |state: &ResourceState| -> Vec<_> {
            let peers = state.connections.iter().flat_map(|c| &c.volumes).filter(|v| v.repl.is_syncing());
            peers.filter_map(|peer| state.volume(peer.volume)).map(|v| (v.volume, v.minor)).collect()
        };
        let about = About { command: Command::GET_STATUS, object: "all", deadline };
        if single {
            for state in tree.values_mut() {
                for (volume, minor) in syncing(state) {
                    let about = About { object: state.name.as_str(), ..about };
                    let reply = self
                        .link
                        .ask(about, |family| request(family, Command::GET_STATUS, minor.get(), 0))?;
                    let progress = progress_of(&Packet::parse(&reply)?);
                    insert_progress(state, volume, progress);
                }
            }
        } else if tree.values().any(|state| !syncing(state).is_empty()) {
            for reply in self.link.dump(about, |family| request(family, Command::GET_STATUS, NO_MINOR, 0))? {
                let packet = Packet::parse(&reply)?;
                let name = packet.context.resource.as_deref().map(ResourceName::from_kernel);
                let state = name.and_then(|name| tree.get_mut(&name));
                if let (Some(state), Some(volume)) = (state, packet.context.volume) {
                    insert_progress(state, volume.into(), progress_of(&packet));
                }
            }
        }
        Ok(())
    }
}

/// Whether the kernel said that the resource is not there.
pub(crate) fn is_unknown(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::UnknownResource | Refusal::UnknownMinor)
}
