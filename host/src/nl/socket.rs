//! Requests, answers, dumps and events over one channel.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::message::u32_at;
use super::{Channel, Message, Reply, attributes, flags};
use crate::Deadline;

/// What a netlink exchange can answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused the request.
    #[error("{}{}", io::Error::from_raw_os_error(*errno), message.as_ref().map(|m| format!(": {m}")).unwrap_or_default())]
    Kernel {
        /// The error number, positive.
        errno: i32,
        /// The kernel's own words (extended acknowledgement), if it had any.
        message: Option<String>,
        /// Where in the request the refused attribute stands, in bytes from the netlink header.
        offset: Option<u32>,
    },
    /// A system call failed.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The kernel did not answer in time.
    #[error("the kernel did not answer before the deadline")]
    TimedOut,
    /// Events were lost because they came faster than they were read; take a new snapshot.
    #[error("events were lost; take a new snapshot")]
    Overrun,
    /// The kernel's message cannot be read.
    #[error("the kernel's answer cannot be read")]
    Malformed(#[from] crate::ParseError),
}

impl Error {
    /// The error number, if a system call or the kernel's answer had one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            Self::Io { source, .. } => source.raw_os_error(),
            Self::TimedOut => Some(libc::ETIMEDOUT),
            Self::Overrun => Some(libc::ENOBUFS),
            Self::Malformed(_) => None,
        }
    }

    /// Whether the same call may succeed later without anything being changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::TimedOut | Self::Overrun)
            || matches!(self.errno(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOBUFS))
    }

    fn of(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source {
            e if e.kind() == io::ErrorKind::TimedOut => Self::TimedOut,
            e if e.raw_os_error() == Some(libc::ENOBUFS) => Self::Overrun,
            source => Self::Io { what, source },
        }
    }
}

const NOOP: u16 = 1;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The error message holds only the header of the request it answers.
const CAPPED: u16 = 0x100;
/// The error message ends in attributes.
const ACK_TLVS: u16 = 0x200;

/// One netlink socket. Not for two threads at once: open one each, it costs three system calls.
#[derive(Debug)]
pub struct Socket {
    channel: Box<dyn Channel>,
    seq: u32,
    waiting: VecDeque<Result<Reply, crate::ParseError>>,
}

impl Socket {
    /// A socket over a channel.
    #[must_use]
    pub fn new(channel: Box<dyn Channel>) -> Self {
        Self { channel, seq: 0, waiting: VecDeque::new() }
    }

    /// Sends a change and waits for its acknowledgement.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the kernel's text if it is refused.
    pub fn request(&mut self, message: &Message, deadline: Deadline) -> Result<(), Error> {
        let seq = self.send(&message.clone().with_flags(flags::ACK))?;
        loop {
            let reply = self.answer(seq, deadline)?;
            if reply.kind == ERROR {
                return status(&reply);
            }
        }
    }

    /// Sends several changes in one datagram and waits for all acknowledgements: one answer a message, in their order. The kernel carries
    /// out the later ones even if an earlier one fails.
    ///
    /// # Errors
    /// The exchange itself failed; what the kernel says of each message is in the vector.
    pub fn batch(
        &mut self,
        messages: &[Message],
        deadline: Deadline,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let first = self.seq.wrapping_add(1);
        let mut datagram = Vec::new();
        for message in messages {
            self.seq = self.seq.wrapping_add(1);
            datagram.extend(message.clone().with_flags(flags::ACK).encode(self.seq));
            datagram.resize(datagram.len().next_multiple_of(4), 0);
        }
        self.channel.send(&datagram).map_err(Error::of("send a netlink message"))?;
        let mut results = Vec::with_capacity(messages.len());
        while results.len() < messages.len() {
            let offset = u32::try_from(results.len()).unwrap_or(u32::MAX);
            let reply = self.answer(first.wrapping_add(offset), deadline)?;
            if reply.kind == ERROR {
                results.push(status(&reply));
            }
        }
        Ok(results)
    }

    /// Sends a question and returns its first answer.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the kernel answers with an error instead.
    pub fn ask(&mut self, message: &Message, deadline: Deadline) -> Result<Reply, Error> {
        let seq = self.send(message)?;
        loop {
            let reply = self.answer(seq, deadline)?;
            match reply.kind {
                ERROR => status(&reply)?,
                DONE => return Err(Error::Kernel { errno: libc::ENODATA, message: None, offset: None }),
                _ => return Ok(reply),
            }
        }
    }

    /// Asks for a whole table. A dump that the kernel marks as torn by a change is repeated until the deadline.
    ///
    /// # Errors
    /// [`Error::Kernel`] if it is refused.
    pub fn dump(&mut self, message: &Message, deadline: Deadline) -> Result<Vec<Reply>, Error> {
        loop {
            let seq = self.send(&message.clone().with_flags(flags::DUMP))?;
            let (mut replies, mut torn) = (Vec::new(), false);
            loop {
                let reply = self.answer(seq, deadline)?;
                torn |= reply.flags & flags::DUMP_INTR != 0;
                match reply.kind {
                    ERROR => status(&reply)?,
                    DONE => {
                        finished(&reply)?;
                        break;
                    }
                    _ => replies.push(reply),
                }
            }
            if !torn {
                return Ok(replies);
            }
            if deadline.is_over() {
                return Err(Error::TimedOut);
            }
        }
    }

    /// Joins a multicast group. Use a socket of its own for events.
    ///
    /// # Errors
    /// The group is unknown or the process may not listen to it.
    pub fn join(&mut self, group: u32) -> Result<(), Error> {
        self.channel.join(group).map_err(Error::of("join a netlink group"))
    }

    /// Sends a message without waiting; returns its sequence number. What comes back is read by [`event`](Self::event).
    ///
    /// # Errors
    /// It cannot be sent.
    pub fn send(&mut self, message: &Message) -> Result<u32, Error> {
        self.seq = self.seq.wrapping_add(1);
        self.channel.send(&message.encode(self.seq)).map_err(Error::of("send a netlink message"))?;
        Ok(self.seq)
    }

    /// The next message of any kind, `None` when the deadline passes first. End marks and acknowledgements are delivered too.
    ///
    /// # Errors
    /// [`Error::Overrun`] when messages were lost: the socket stays usable, the reader's picture is stale.
    pub fn event(&mut self, deadline: Deadline) -> Result<Option<Reply>, Error> {
        match self.next(deadline) {
            Ok(reply) => Ok(Some(reply)),
            Err(Error::TimedOut) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes all that is waiting, without waiting for more. After an overrun: what is left in the buffer is older than what was lost, and
    /// taken after a new reading of the state it would bring back the past.
    ///
    /// # Errors
    /// The socket cannot be read. Further overruns are none: the caller knows that messages are missing.
    pub fn drain(&mut self) -> Result<Vec<Reply>, Error> {
        let mut waiting = Vec::new();
        loop {
            match self.event(Deadline::after(Duration::ZERO)) {
                Ok(None) => return Ok(waiting),
                Ok(Some(reply)) => waiting.push(reply),
                Err(Error::Overrun) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The descriptor that becomes readable when there is something to read.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.channel.fd()
    }

    /// Whether messages have been received that [`event`](Self::event) has not delivered: then the descriptor may be silent.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The next message with this sequence number; foreign ones (late answers of a timed-out request) are dropped.
    fn answer(&mut self, seq: u32, deadline: Deadline) -> Result<Reply, Error> {
        loop {
            let reply = self.next(deadline)?;
            if reply.seq == seq {
                return Ok(reply);
            }
        }
    }

    fn next(&mut self, deadline: Deadline) -> Result<Reply, Error> {
        loop {
            match self.waiting.pop_front() {
                Some(Ok(reply)) if reply.kind == NOOP => {}
                Some(Ok(reply)) => return Ok(reply),
                Some(Err(error)) => return Err(error.into()),
                None => {
                    let waiting = &mut self.waiting;
                    let mut take = |datagram: &[u8]| waiting.extend(Reply::parse_all(datagram));
                    self.channel.receive(deadline, &mut take).map_err(Error::of("receive from netlink"))?;
                }
            }
        }
    }
}

/// What an `NLMSG_ERROR` says; 0 is the acknowledgement.
fn status(reply: &Reply) -> Result<(), Error> {
    let code = u32_at(&reply.body, 0).map(u32::cast_signed).unwrap_or(-libc::EPROTO);
    if code == 0 {
        return Ok(());
    }
    let request = match reply.flags & CAPPED {
        0 => u32_at(&reply.body, 4).and_then(|n| usize::try_from(n).ok()).unwrap_or(16).next_multiple_of(4),
        _ => 16,
    };
    let tail = if reply.flags & ACK_TLVS == 0 { None } else { reply.body.get(4 + request..) };
    Err(refused(code, tail.unwrap_or_default()))
}

/// What the `NLMSG_DONE` of a dump says: an error code, then attributes.
fn finished(reply: &Reply) -> Result<(), Error> {
    match u32_at(&reply.body, 0).map(u32::cast_signed) {
        Some(code) if code < 0 => Err(refused(code, reply.body.get(4..).unwrap_or_default())),
        _ => Ok(()),
    }
}

fn refused(code: i32, tail: &[u8]) -> Error {
    let (mut message, mut offset) = (None, None);
    for attribute in attributes(tail).flatten() {
        match attribute.kind {
            1 => message = attribute.text().filter(|t| !t.is_empty()).map(str::to_owned),
            2 => offset = attribute.u32(),
            _ => {}
        }
    }
    Error::Kernel { errno: code.saturating_neg(), message, offset }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_and_place_are_read() {
        let mut body = (-libc::EBUSY).to_ne_bytes().to_vec();
        body.extend([0; 16]);
        let tail =
            Message::new(0, 0).with_str(1, "unable to set option because the bond is up").with_u32(2, 48);
        body.extend(tail.body());
        let reply = Reply::new(ERROR, CAPPED | ACK_TLVS, 1, body);
        let error = status(&reply).expect_err("refused");
        assert_eq!(error.errno(), Some(libc::EBUSY));
        assert_eq!(
            error.to_string(),
            "Device or resource busy (os error 16): unable to set option because the bond is up"
        );
        assert!(matches!(error, Error::Kernel { offset: Some(48), .. }));
    }

    #[test]
    fn the_live_kernel_lists_its_loopback() -> Result<(), Error> {
        let mut socket = super::super::Transport::live().open(super::super::Protocol::Route)?;
        // RTM_GETLINK with an empty ifinfomsg.
        let deadline = Deadline::after(Duration::from_secs(5));
        let links = socket.dump(&Message::new(18, 0).with_header(&[0; 16]), deadline)?;
        let names: Vec<_> = links
            .iter()
            .flat_map(|link| attributes(&link.body[16..]).flatten())
            .filter(|a| a.kind == 3)
            .filter_map(|a| a.text().map(str::to_owned))
            .collect();
        assert!(names.contains(&"lo".to_owned()), "{names:?}");
        // A link that does not exist: the errno of the kernel, not a time-out.
        let refused =
            socket.ask(&Message::new(18, 0).with_header(&[0; 16]).with_str(3, "no-such-if"), deadline);
        assert_eq!(refused.expect_err("no such link").errno(), Some(libc::ENODEV));
        Ok(())
    }
}
