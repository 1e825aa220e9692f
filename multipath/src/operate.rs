//! What multipathd is told to do: paths and maps taken up and let go, failed, reinstated, resized, queueing.

use std::num::NonZeroU32;

use host::Deadline;

use crate::daemon::{Client, Command};
use crate::error::{Error, Result};
use crate::name::{MapName, PathName};
use crate::wire::reply::{DaemonState, DaemonStatus, Reply, Version};
use crate::{MapState, Multipath, wire};

impl Multipath {
    /// The maps that the daemon behind this client has, on any machine it reaches.
    #[must_use]
    pub fn with_client(mut self, client: Client) -> Self {
        self.client = client;
        self
    }

    /// multipathd itself, for all its other commands.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn soon(&self) -> Deadline {
        Deadline::after(self.timeout)
    }

    fn tell(&self, command: &Command) -> Result<Reply> {
        self.client.expect(command, self.soon())
    }

    /// One map by its name; `None` if there is none. `multipathd show map NAME json`.
    ///
    /// multipathd before 0.9.8 says no more than "fail" both where there is no map and where it cannot read it: then the list decides.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn get_by_name(&self, name: &MapName) -> Result<Option<MapState>> {
        let question = Command::ShowMapJson(name.clone());
        match self.client.run(&question, self.soon())? {
            Reply::Text(text) => match wire::maps::parse(&text) {
                Ok(maps) => Ok(maps.into_iter().next()),
                Err(reason) => Err(Error::Answer { command: question.to_string(), reason }),
            },
            Reply::NotFound => Ok(None),
            Reply::Failed(_) => {
                let known =
                    |map: &MapState| [&map.name, &map.node, &map.wwid].iter().any(|n| *n == name.as_str());
                Ok(self.list()?.into_iter().find(known))
            }
            reply => Err(Error::Daemon { command: question.to_string(), reply }),
        }
    }

    /// multipathd's version.
    ///
    /// # Errors
    /// As [`Client::version`].
    pub fn version(&self) -> Result<Version> {
        self.client.version(self.soon())
    }

    /// What multipathd is doing.
    ///
    /// # Errors
    /// As [`Client::state`].
    pub fn daemon_state(&self) -> Result<DaemonState> {
        self.client.state(self.soon())
    }

    /// How many paths multipathd has, and whether uevents wait.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn daemon_status(&self) -> Result<DaemonStatus> {
        self.client.status(self.soon())
    }

    /// Takes a path up; `multipathd add path`. It becomes part of a map if the WWID is known to multipathd.
    ///
    /// # Errors
    /// [`Error::Daemon`]: the configuration excludes it, or it cannot be read.
    pub fn add_path(&self, path: &PathName) -> Result<()> {
        self.tell(&Command::AddPath(path.clone())).map(drop)
    }

    /// Lets a path go; `multipathd del path`. [`Reply::Delayed`]: once its map is free.
    ///
    /// # Errors
    /// [`Error::Daemon`].
    pub fn remove_path(&self, path: &PathName) -> Result<Reply> {
        self.tell(&Command::RemovePath(path.clone()))
    }

    /// Takes a map up; `multipathd add map`. By WWID since 0.10.0 only; before, register the WWID and [`add_path`](Self::add_path).
    ///
    /// # Errors
    /// [`Error::Daemon`].
    pub fn add_map(&self, map: &MapName) -> Result<()> {
        self.tell(&Command::AddMap(map.clone())).map(drop)
    }

    /// Flushes and removes a map; `multipathd del map`, `multipath -f`. `false` if there was none.
    ///
    /// # Errors
    /// [`Error::Busy`] if it or a partition of it is open: told since 0.9.8. Before, the daemon says no more than "fail".
    pub fn remove(&self, map: &MapName) -> Result<bool> {
        let command = Command::RemoveMap(map.clone());
        match self.client.run(&command, self.soon())? {
            reply if reply.is_done() => Ok(true),
            Reply::NotFound => Ok(false),
            Reply::Busy => Err(Error::Busy {
                object: format!("/dev/mapper/{map}"),
                holders: "a mount, a device on it or an open file".to_owned(),
            }),
            Reply::Failed(_) if self.get_by_name(map)?.is_none() => Ok(false),
            reply => Err(Error::Daemon { command: command.to_string(), reply }),
        }
    }

    /// Makes a path group, counted from 1, the one in use; `multipathd switch map group`.
    ///
    /// # Errors
    /// [`Error::Daemon`].
    pub fn switch_group(&self, map: &MapName, group: NonZeroU32) -> Result<()> {
        self.tell(&Command::SwitchGroup(map.clone(), group)).map(drop)
    }

    /// Loads a map's table again; `multipathd reload map`.
    ///
    /// # Errors
    /// [`Error::Daemon`].
    pub fn reload(&self, map: &MapName) -> Result<()> {
        self.tell(&Command::ReloadMap(map.clone())).map(drop)
    }

    /// Takes the new size of a map's paths; `multipathd resize map`. Rescan each path first (`/sys/block/sdX/device/rescan`).
    ///
    /// # Errors
    /// [`Error::Daemon`]: the paths are not all of one size.
    pub fn resize(&self, map: &MapName) -> Result<()> {
        self.tell(&Command::ResizeMap(map.clone())).map(drop)
    }

    /// Holds all I/O of a map, by its alias; `multipathd suspend map`.
    ///
    /// # Errors
    /// [`Error::Daemon`].
    pub fn suspend(&self, map: &MapName) -> Result<()> {
        self.tell(&Command::SuspendMap(map.clone())).map(drop)
    }

    /// Lets I/O of a map go on, by its alias; `multipathd resume map`.
    ///
    /// # Errors
    /// [`Error::Daemon`].
    pub fn resume(&self, map: &MapName) -> Result<()> {
        self.tell(&Command::ResumeMap(map.clone())).map(drop)
    }

    /// Fails a path and stops its checker; `multipathd fail path`. It stays failed until [`reinstate_path`](Self::reinstate_path).
    ///
    /// # Errors
    /// [`Error::Daemon`].
    pub fn fail_path(&self, path: &PathName) -> Result<()> {
        self.tell(&Command::FailPath(path.clone())).map(drop)
    }

    /// Uses a path again; `multipathd reinstate path`. multipathd 0.9.4 may fail it once more at the next check: repeat then.
    ///
    /// # Errors
    /// [`Error::Daemon`].
    pub fn reinstate_path(&self, path: &PathName) -> Result<()> {
        self.tell(&Command::ReinstatePath(path.clone())).map(drop)
    }

    /// Fails I/O at once when a map has no path, which frees what hangs on it; `multipathd disablequeueing map`.
    ///
    /// # Errors
    /// [`Error::Daemon`].
    pub fn disable_queueing(&self, map: &MapName) -> Result<()> {
        self.tell(&Command::DisableQueueing(map.clone())).map(drop)
    }

    /// Queues again as configured; `multipathd restorequeueing map`.
    ///
    /// # Errors
    /// [`Error::Daemon`].
    pub fn restore_queueing(&self, map: &MapName) -> Result<()> {
        self.tell(&Command::RestoreQueueing(map.clone())).map(drop)
    }

    /// Reads multipathd's configuration again and waits until it works with it; `multipathd reconfigure`, which does not wait.
    ///
    /// # Errors
    /// [`Error::Daemon`], [`Error::TimedOut`].
    pub fn reconfigure(&self, deadline: Deadline) -> Result<()> {
        self.client.expect(&Command::Reconfigure, deadline)?;
        loop {
            let state = self.client.state(deadline)?;
            if state.is_settled() {
                return Ok(());
            }
            // The daemon tells nobody; each answer costs it some 60 us.
            if !deadline.pause(std::time::Duration::from_millis(20)) {
                return Err(Error::TimedOut {
                    what: "multipathd's new configuration".to_owned(),
                    seen: format!("it is in phase {}", state.phase),
                });
            }
        }
    }
}
