//! What rtnetlink has no message for: frames sent and received, and echoes that must not be cut into fragments.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use host::Deadline;

/// Sends Ethernet frames, each out of its link.
pub(crate) fn send_frames(frames: &[(u32, Vec<u8>)]) -> io::Result<()> {
    // Protocol 0: this socket receives nothing.
    let fd = socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    // SAFETY: sockaddr_ll is plain numbers, for which all zeros is a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(|_| io::ErrorKind::InvalidInput)?;
    let size = u32::try_from(size_of::<libc::sockaddr_ll>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    for (index, frame) in frames {
        address.sll_ifindex = i32::try_from(*index).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the frame is a live slice of that length, the address a live sockaddr_ll of that size.
        let sent = unsafe {
            libc::sendto(
                fd.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A packet socket on one link, for frames of one Ethernet type.
#[derive(Debug)]
pub(crate) struct Frames(OwnedFd);

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: socket takes three numbers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until something can be read; `false` when the time is over.
fn readable(fd: &OwnedFd, deadline: Deadline) -> io::Result<bool> {
    loop {
        let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd.
        match unsafe { libc::poll(&raw mut poll, 1, deadline.poll_millis()) } {
            0 => return Ok(false),
            n if n > 0 => return Ok(true),
            _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            _ => return Err(io::Error::last_os_error()),
        }
    }
}

impl Frames {
    /// Opens the socket; frames that come from now on are kept.
    pub(crate) fn open(index: u32, ethertype: u16) -> io::Result<Self> {
        let fd = socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(ethertype.to_be()))?;
        // SAFETY: sockaddr_ll is plain numbers, for which all zeros is a value.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).map_err(|_| io::ErrorKind::InvalidInput)?;
        address.sll_protocol = ethertype.to_be();
        address.sll_ifindex = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
        let size = u32::try_from(size_of::<libc::sockaddr_ll>()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a live sockaddr_ll of that size.
        if unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(fd))
    }

    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: a live slice of that length; the socket is bound to its link.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next frame, at most 256 bytes of it; `None` when the time is over.
    pub(crate) fn receive(&self, deadline: Deadline) -> io::Result<Option<Vec<u8>>> {
        if !readable(&self.0, deadline)? {
            return Ok(None);
        }
        let mut buffer = vec![0_u8; 256];
        // SAFETY: a live buffer of that length.
        let got = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        buffer.truncate(got);
        Ok(Some(buffer))
    }
}

/// What came back for an echo request that may not be cut into fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Echo {
    /// The peer answered.
    Answered,
    /// Nobody did.
    Silent,
    /// This machine cannot send it: its own MTU is in the way, this many bytes.
    TooLongHere(u32),
    /// A router cannot pass it on, and says how many bytes it can.
    TooLongAt(IpAddr, u32),
    /// A router or this machine knows no way: errno.
    Unreachable(i32),
}

/// Sends echo requests (`ping -M do`).
#[derive(Debug)]
pub(crate) struct Pinger {
    fd: OwnedFd,
    peer: IpAddr,
    sequence: u16,
}

fn number(fd: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let size = u32::try_from(size_of::<i32>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: a live int of that size.
    let set = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), size) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `IP_PMTUDISC_PROBE`: set the bit that forbids fragments, and ignore what was learnt of the path before.
const PROBE: i32 = 3;

impl Pinger {
    pub(crate) fn open(peer: IpAddr, link: Option<&str>) -> io::Result<Self> {
        let (family, protocol) = match peer {
            IpAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_ICMP),
            IpAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_ICMPV6),
        };
        let fd = socket(family, libc::SOCK_RAW, protocol)?;
        match peer {
            IpAddr::V4(_) => {
                number(&fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, PROBE)?;
                number(&fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
            }
            IpAddr::V6(_) => {
                number(&fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, PROBE)?;
                number(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
            }
        }
        if let Some(link) = link {
            let length = u32::try_from(link.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            // SAFETY: a live string of that length.
            let bound = unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_BINDTODEVICE,
                    link.as_ptr().cast(),
                    length,
                )
            };
            if bound < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        let (address, size) = sockaddr(peer);
        // SAFETY: a live sockaddr of that size.
        if unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr().cast(), size) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, peer, sequence: 0 })
    }

    /// Sends one echo request that makes an IP packet of this many bytes, and waits for what becomes of it.
    pub(crate) fn echo(&mut self, packet: u32, deadline: Deadline) -> io::Result<Echo> {
        self.sequence = self.sequence.wrapping_add(1);
        let id = u16::try_from(std::process::id() & 0xffff).unwrap_or(0);
        let message = crate::wire::announce::echo_request(self.peer, packet, id, self.sequence);
        // SAFETY: a live slice of that length; the socket is connected.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 {
            let error = io::Error::last_os_error();
            return match self.refusal(&error)? {
                Some(echo) => Ok(echo),
                None => Err(error),
            };
        }
        loop {
            if !readable(&self.fd, deadline)? {
                return Ok(Echo::Silent);
            }
            let mut buffer = vec![0_u8; 128];
            // SAFETY: a live buffer of that length.
            let got = unsafe { libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            let Ok(got) = usize::try_from(got) else {
                let error = io::Error::last_os_error();
                match self.refusal(&error)? {
                    Some(echo) => return Ok(echo),
                    None => continue,
                }
            };
            buffer.truncate(got);
            if crate::wire::announce::is_echo_reply(&buffer, self.peer, id, self.sequence) {
                return Ok(Echo::Answered);
            }
        }
    }

    /// What an error of sending or receiving means: the socket's queue of errors knows more.
    fn refusal(&self, error: &io::Error) -> io::Result<Option<Echo>> {
        let queued = self.queued_error()?;
        let errno = error.raw_os_error().unwrap_or(0);
        Ok(match (errno, queued) {
            (libc::EMSGSIZE, Some((offender, mtu))) => Some(match offender {
                Some(router) => Echo::TooLongAt(router, mtu),
                None => Echo::TooLongHere(mtu),
            }),
            (libc::EMSGSIZE, None) => Some(Echo::TooLongHere(0)),
            (libc::EHOSTUNREACH | libc::ENETUNREACH, _) => Some(Echo::Unreachable(errno)),
            (libc::EINTR | libc::EAGAIN, _) => None,
            _ => return Err(io::Error::from_raw_os_error(errno)),
        })
    }

    /// Takes one error from the queue: who sent it (`None`: this machine) and the number of bytes that can pass.
    fn queued_error(&self) -> io::Result<Option<(Option<IpAddr>, u32)>> {
        /// `SO_EE_ORIGIN_LOCAL`.
        const HERE: u8 = 1;
        let mut payload = [0_u8; 64];
        let mut control = [0_u64; 64];
        let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
        // SAFETY: msghdr is plain numbers and pointers, for which all zeros is a value.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: all pointers lead to live buffers of the lengths beside them.
        let got = unsafe {
            libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT)
        };
        if got < 0 {
            return match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                error => Err(error),
            };
        }
        // SAFETY: the kernel filled this message, and its control buffer is alive.
        let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        while !header.is_null() {
            // SAFETY: not null, and inside the control buffer as the kernel says.
            let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
            let is_error = (level == libc::IPPROTO_IP && kind == libc::IP_RECVERR)
                || (level == libc::IPPROTO_IPV6 && kind == libc::IPV6_RECVERR);
            if is_error {
                // SAFETY: the payload of this control message is a sock_extended_err, which may stand at any address, and behind it
                // the offender's sockaddr; the buffer has room for both.
                let (error, offender) = unsafe {
                    let data = libc::CMSG_DATA(header);
                    let error: libc::sock_extended_err =
                        data.cast::<libc::sock_extended_err>().read_unaligned();
                    let behind = data.add(size_of::<libc::sock_extended_err>());
                    (error, behind.cast::<[u8; 28]>().read_unaligned())
                };
                let address = if error.ee_origin == HERE { None } else { offender_of(&offender) };
                return Ok(Some((address, error.ee_info)));
            }
            // SAFETY: as above.
            header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
        }
        Ok(None)
    }
}

/// The address in a `sockaddr_in` or `sockaddr_in6`.
fn offender_of(bytes: &[u8; 28]) -> Option<IpAddr> {
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    match family {
        libc::AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?).into()),
        _ => None,
    }
}

/// A `sockaddr_in` or `sockaddr_in6` for an address, with its size.
fn sockaddr(address: IpAddr) -> ([u8; 28], u32) {
    let mut bytes = [0; 28];
    let (family, place, octets, size) = match address {
        IpAddr::V4(a) => (libc::AF_INET, 4, a.octets().to_vec(), 16),
        IpAddr::V6(a) => (libc::AF_INET6, 8, a.octets().to_vec(), 28),
    };
    let family = u16::try_from(family).unwrap_or(0).to_ne_bytes();
    for (to, from) in bytes.iter_mut().zip(family) {
        *to = from;
    }
    for (to, from) in bytes.iter_mut().skip(place).zip(octets) {
        *to = from;
    }
    (bytes, size)
}
