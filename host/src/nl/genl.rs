//! Generic netlink families: names to numbers.

use super::{Error, Message, Socket, attributes};
use crate::Deadline;

/// The controller's own family number (`GENL_ID_CTRL`, linux/genetlink.h).
pub const CONTROLLER: u16 = 16;

/// A family that the kernel has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Family {
    /// The message type of its messages.
    pub id: u16,
    /// The version of its interface.
    pub version: u8,
    /// The size of its own header in bytes, behind the generic one.
    pub header_size: u32,
    /// The highest attribute it knows.
    pub max_attribute: u32,
    /// The commands it has, with their `GENL_*_PERM` and `GENL_CMD_CAP_*` flags.
    pub operations: Vec<(u32, u32)>,
    /// Its multicast groups and their numbers.
    pub groups: Vec<(String, u32)>,
}

impl Family {
    /// A family of that number and version; for fakes.
    #[must_use]
    pub fn new(id: u16, version: u8) -> Self {
        Self { id, version, ..Self::default() }
    }

    /// Asks the kernel for a family; `None` if it has none of that name (its module is not loaded).
    ///
    /// # Errors
    /// The exchange failed.
    pub fn resolve(socket: &mut Socket, name: &str, deadline: Deadline) -> Result<Option<Self>, Error> {
        const GET_FAMILY: u8 = 3;
        let question = Message::new(CONTROLLER, 0).with_header(&[GET_FAMILY, 1, 0, 0]).with_str(2, name);
        match socket.ask(&question, deadline) {
            Ok(reply) => Self::parse(reply.body.get(4..).unwrap_or_default()).map(Some),
            Err(Error::Kernel { errno: libc::ENOENT, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the attributes of a `CTRL_CMD_NEWFAMILY` message.
    ///
    /// # Errors
    /// An attribute is cut.
    pub fn parse(data: &[u8]) -> Result<Self, Error> {
        let mut family = Self::default();
        for attribute in attributes(data) {
            let attribute = attribute?;
            match attribute.kind {
                1 => family.id = attribute.u16().unwrap_or_default(),
                3 => family.version = attribute.u32().and_then(|v| u8::try_from(v).ok()).unwrap_or_default(),
                4 => family.header_size = attribute.u32().unwrap_or_default(),
                5 => family.max_attribute = attribute.u32().unwrap_or_default(),
                6 => {
                    for operation in attribute.nested() {
                        let (mut id, mut flags) = (0, 0);
                        for part in operation?.nested().flatten() {
                            match part.kind {
                                1 => id = part.u32().unwrap_or_default(),
                                2 => flags = part.u32().unwrap_or_default(),
                                _ => {}
                            }
                        }
                        family.operations.push((id, flags));
                    }
                }
                7 => {
                    for group in attribute.nested() {
                        let (mut name, mut id) = (String::new(), 0);
                        for part in group?.nested().flatten() {
                            match part.kind {
                                1 => name = part.text().unwrap_or_default().to_owned(),
                                2 => id = part.u32().unwrap_or_default(),
                                _ => {}
                            }
                        }
                        family.groups.push((name, id));
                    }
                }
                _ => {}
            }
        }
        Ok(family)
    }

    /// The number of a multicast group.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<u32> {
        self.groups.iter().find(|(group, _)| group == name).map(|(_, id)| *id)
    }

    /// Whether the kernel has a command.
    #[must_use]
    pub fn has(&self, command: u8) -> bool {
        self.operations.iter().any(|(id, _)| *id == u32::from(command))
    }

    /// Begins a message of this family: generic header with command and version.
    #[must_use]
    pub fn message(&self, command: u8) -> Message {
        Message::new(self.id, 0).with_header(&[command, self.version, 0, 0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nl::{Protocol, Transport};

    #[test]
    fn the_controller_knows_itself_and_not_nonsense() -> Result<(), Error> {
        let mut socket = Transport::live().open(Protocol::Generic)?;
        let deadline = Deadline::after(std::time::Duration::from_secs(5));
        let family = Family::resolve(&mut socket, "nlctrl", deadline)?.expect("every kernel has it");
        assert_eq!(family.id, CONTROLLER);
        assert!(family.has(3) && family.group("notify").is_some());
        assert_eq!(Family::resolve(&mut socket, "no-such-family", deadline)?, None);
        Ok(())
    }
}
