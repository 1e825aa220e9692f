//! A kernel in memory behind netlink sockets: the crates' fakes answer requests and send events through it.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Channel, Kernel, Message, Protocol, Reply, Transport, flags};
use crate::Deadline;
use crate::sys;

/// What a fake answers to requests.
pub trait Responder: fmt::Debug + Send {
    /// Answers one request. The message's sequence number is put into the replies by the caller.
    fn answer(&mut self, protocol: Protocol, request: &Reply) -> Answer;
}

/// The answer to one request, and the events it caused.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Answer {
    /// What goes back to the sender.
    pub replies: Vec<Reply>,
    /// What goes to the members of multicast groups.
    pub events: Vec<(u32, Reply)>,
}

impl Answer {
    /// The acknowledgement, or the refusal with a positive errno and the kernel's text.
    #[must_use]
    pub fn status(errno: i32, text: Option<&str>) -> Self {
        let mut body = errno.saturating_neg().to_ne_bytes().to_vec();
        body.extend([0; 16]);
        let mut reply_flags = 0x100;
        if let Some(text) = text {
            reply_flags |= 0x200;
            body.extend_from_slice(Message::new(0, 0).with_str(1, text).body());
        }
        Self { replies: vec![Reply::new(2, reply_flags, 0, body)], events: Vec::new() }
    }

    /// One reply.
    #[must_use]
    pub fn one(reply: Reply) -> Self {
        Self { replies: vec![reply], events: Vec::new() }
    }

    /// A dump: the replies marked as parts, and the end mark.
    #[must_use]
    pub fn dump(replies: Vec<Reply>) -> Self {
        let mut replies = replies;
        replies.iter_mut().for_each(|r| r.flags |= flags::MULTI);
        replies.push(Reply::new(3, flags::MULTI, 0, vec![0; 4]));
        Self { replies, events: Vec::new() }
    }

    /// Adds an event for a group.
    #[must_use]
    pub fn with_event(mut self, group: u32, event: Reply) -> Self {
        self.events.push((group, event));
        self
    }
}

#[derive(Debug)]
struct Port {
    protocol: Protocol,
    groups: Vec<u32>,
    queue: VecDeque<Vec<u8>>,
    wake: PipeWriter,
}

#[derive(Debug)]
struct Inner {
    responder: Box<dyn Responder>,
    ports: Vec<Option<Port>>,
    requests: usize,
}

/// A fake kernel; clones are the same.
#[derive(Debug, Clone)]
pub struct FakeKernel(Arc<Mutex<Inner>>);

impl FakeKernel {
    /// A kernel that answers with this responder.
    #[must_use]
    pub fn new(responder: impl Responder + 'static) -> Self {
        Self(Arc::new(Mutex::new(Inner { responder: Box::new(responder), ports: Vec::new(), requests: 0 })))
    }

    /// This kernel as a host's transport.
    #[must_use]
    pub fn transport(&self) -> Transport {
        Transport::of(self.clone())
    }

    /// How many requests it has been sent.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.lock().requests
    }

    /// Sends an event to the members of a group of a protocol.
    pub fn notify(&self, protocol: Protocol, group: u32, event: &Reply) {
        self.lock().notify(protocol, group, event);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn notify(&mut self, protocol: Protocol, group: u32, event: &Reply) {
        let members =
            self.ports.iter_mut().flatten().filter(|p| p.protocol == protocol && p.groups.contains(&group));
        for port in members {
            port.push(event.encode());
        }
    }
}

impl Port {
    fn push(&mut self, datagram: Vec<u8>) {
        self.queue.push_back(datagram);
        // The pipe holds one byte a datagram; a full pipe is readable, which is all it is for.
        if let Err(error) = self.wake.write(&[1]) {
            log::debug!("fake netlink: {error}");
        }
    }
}

impl Kernel for FakeKernel {
    fn open(&self, protocol: Protocol) -> io::Result<Box<dyn Channel>> {
        let (sleep, wake) = io::pipe()?;
        let mut inner = self.lock();
        let index = inner.ports.len();
        inner.ports.push(Some(Port { protocol, groups: Vec::new(), queue: VecDeque::new(), wake }));
        Ok(Box::new(FakeChannel { kernel: self.clone(), index, protocol, sleep }))
    }
}

#[derive(Debug)]
struct FakeChannel {
    kernel: FakeKernel,
    index: usize,
    protocol: Protocol,
    sleep: PipeReader,
}

impl Drop for FakeChannel {
    fn drop(&mut self) {
        if let Some(port) = self.kernel.lock().ports.get_mut(self.index) {
            *port = None;
        }
    }
}

impl Channel for FakeChannel {
    fn send(&mut self, data: &[u8]) -> io::Result<()> {
        let mut inner = self.kernel.lock();
        for request in Reply::parse_all(data) {
            let request = request.map_err(io::Error::other)?;
            inner.requests += 1;
            let answer = inner.responder.answer(self.protocol, &request);
            if let Some(Some(port)) = inner.ports.get_mut(self.index) {
                for mut reply in answer.replies {
                    reply.seq = request.seq;
                    port.push(reply.encode());
                }
            }
            for (group, event) in answer.events {
                inner.notify(self.protocol, group, &event);
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Deadline, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let ready = sys::poll_read(&[self.sleep.as_fd()], deadline.poll_millis())?;
        if !ready.contains(&true) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.sleep.read_exact(&mut [0])?;
        let datagram = match self.kernel.lock().ports.get_mut(self.index) {
            Some(Some(port)) => port.queue.pop_front(),
            _ => None,
        };
        if let Some(datagram) = datagram {
            take(&datagram);
        }
        Ok(())
    }

    fn join(&mut self, group: u32) -> io::Result<()> {
        if let Some(Some(port)) = self.kernel.lock().ports.get_mut(self.index) {
            port.groups.push(group);
        }
        Ok(())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.sleep.as_fd()
    }
}
