//! The language of host and guest agent: frames of many channels over one byte stream.
//!
//! A frame is `length:u32 channel:u32 kind:u8 body`, big endian; `length` counts what follows it. The host
//! opens a channel with a request; every channel ends with [`Kind::Exit`] or [`Kind::Error`] from the guest.
//! Strings and lists in a body are preceded by their u32 length.

use std::io::{self, Read, Write};

/// Changes whenever a frame changes its meaning; host and agent must agree.
pub(crate) const VERSION: u32 = 1;

/// Bytes of data put into one frame.
pub(crate) const CHUNK: usize = 64 * 1024;

/// The largest frame accepted. Larger lengths mean that the stream is out of step.
const MAX: usize = 16 * 1024 * 1024;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// To the guest: run a command; body is a [`Request`].
    Exec = 1,
    /// To the guest: bytes for standard input or for the file being written.
    Stdin = 2,
    /// To the guest: no more input.
    StdinEnd = 3,
    /// To the guest: send signal (u32) to the process group.
    Signal = 4,
    /// To the guest: rows (u32) and columns (u32) of the terminal.
    Resize = 5,
    /// To the guest: write a file; path and mode (u32), then Stdin frames.
    Write = 6,
    /// To the guest: read a file; path. The content comes as Stdout frames.
    Read = 7,
    /// To the guest: answer with Exit 0.
    Ping = 8,
    /// To the guest: flush everything and switch the machine off. There is no answer.
    PowerOff = 9,
    /// From a control client to `lab up`: the name of the machine the connection is for.
    Node = 10,
    /// From a control client to `lab up`: an order about the machine itself, JSON. Answered with Stdout and Exit, or Error.
    Order = 11,
    /// From the guest, channel 0, first of all: protocol version (u32).
    Hello = 64,
    /// From the guest: bytes of standard output, of the terminal, or of a file.
    Stdout = 65,
    /// From the guest: bytes of standard error.
    Stderr = 66,
    /// From the guest: end of the channel; exit code (u32) and signal (u32, 0 if none).
    Exit = 67,
    /// From the guest: end of the channel; the request could not be carried out, text.
    Error = 68,
}

impl Kind {
    fn of(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Exec,
            2 => Self::Stdin,
            3 => Self::StdinEnd,
            4 => Self::Signal,
            5 => Self::Resize,
            6 => Self::Write,
            7 => Self::Read,
            8 => Self::Ping,
            9 => Self::PowerOff,
            10 => Self::Node,
            11 => Self::Order,
            64 => Self::Hello,
            65 => Self::Stdout,
            66 => Self::Stderr,
            67 => Self::Exit,
            68 => Self::Error,
            _ => return None,
        })
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The conversation it belongs to; 0 is the agent itself.
    pub(crate) channel: u32,
    /// What it says.
    pub(crate) kind: Kind,
    /// The rest, by kind.
    pub(crate) body: Vec<u8>,
}

impl Frame {
    /// Makes a frame.
    pub(crate) fn new(channel: u32, kind: Kind, body: impl Into<Vec<u8>>) -> Self {
        Self { channel, kind, body: body.into() }
    }

    /// Writes the frame with one call, so that frames of several threads do not mix under a lock.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let length = u32::try_from(self.body.len() + 5).map_err(|_| invalid("frame too long"))?;
        let mut bytes = Vec::with_capacity(self.body.len() + 9);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&self.channel.to_be_bytes());
        bytes.push(self.kind as u8);
        bytes.extend_from_slice(&self.body);
        out.write_all(&bytes)
    }

    /// Reads one frame. None is the end of the stream between two frames.
    pub(crate) fn read(input: &mut impl Read) -> io::Result<Option<Self>> {
        let mut head = [0; 9];
        let mut have = 0;
        while have < head.len() {
            let rest = head.get_mut(have..).unwrap_or_default();
            match input.read(rest) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let [l0, l1, l2, l3, c0, c1, c2, c3, kind] = head;
        let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        if !(5..=MAX).contains(&length) {
            return Err(invalid("frame length out of range"));
        }
        let kind = Kind::of(kind).ok_or_else(|| invalid("unknown kind of frame"))?;
        let mut body = vec![0; length - 5];
        input.read_exact(&mut body)?;
        Ok(Some(Self { channel: u32::from_be_bytes([c0, c1, c2, c3]), kind, body }))
    }
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Puts values into a body.
#[derive(Debug, Default)]
pub(crate) struct Encoder(Vec<u8>);

impl Encoder {
    /// Appends a number.
    pub(crate) fn number(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Appends a string.
    pub(crate) fn text(mut self, value: &str) -> Self {
        self = self.number(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(value.as_bytes());
        self
    }

    /// Appends a list of strings.
    pub(crate) fn list(mut self, values: &[String]) -> Self {
        self = self.number(u32::try_from(values.len()).unwrap_or(u32::MAX));
        values.iter().fold(self, |body, value| body.text(value))
    }

    /// The body.
    pub(crate) fn done(self) -> Vec<u8> {
        self.0
    }
}

/// Takes values out of a body. Every method answers an error when the body is too short.
#[derive(Debug)]
pub(crate) struct Decoder<'a>(pub(crate) &'a [u8]);

impl Decoder<'_> {
    /// Takes a number.
    pub(crate) fn number(&mut self) -> io::Result<u32> {
        let (head, rest) = self.0.split_first_chunk::<4>().ok_or_else(|| invalid("body too short"))?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*head))
    }

    /// Takes a string.
    pub(crate) fn text(&mut self) -> io::Result<String> {
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        let (head, rest) = self.0.split_at_checked(length).ok_or_else(|| invalid("body too short"))?;
        self.0 = rest;
        String::from_utf8(head.to_vec()).map_err(|_| invalid("text is not UTF-8"))
    }

    /// Takes a list of strings.
    pub(crate) fn list(&mut self) -> io::Result<Vec<String>> {
        let count = self.number()?;
        (0..count).map(|_| self.text()).collect()
    }
}

/// A command to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
    /// Additions to the agent's environment, `NAME=VALUE`.
    pub(crate) env: Vec<String>,
    /// Working directory; empty is `/`.
    pub(crate) cwd: String,
    /// 0: pipes, and input comes as Stdin frames. Else a terminal with that many rows.
    pub(crate) rows: u32,
    /// Columns of the terminal.
    pub(crate) columns: u32,
}

impl Request {
    /// The body of an Exec frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let body = Encoder::default().list(&self.argv).list(&self.env).text(&self.cwd);
        body.number(self.rows).number(self.columns).done()
    }

    /// Reads the body of an Exec frame.
    pub(crate) fn decode(body: &[u8]) -> io::Result<Self> {
        let mut d = Decoder(body);
        let (argv, env, cwd) = (d.list()?, d.list()?, d.text()?);
        Ok(Self { argv, env, cwd, rows: d.number()?, columns: d.number()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_the_wire() {
        let sent = Frame::new(7, Kind::Stdout, b"hello".to_vec());
        let mut wire = Vec::new();
        sent.write(&mut wire).unwrap();
        assert_eq!(wire.len(), 14);
        let mut input = wire.as_slice();
        assert_eq!(Frame::read(&mut input).unwrap(), Some(sent));
        assert_eq!(Frame::read(&mut input).unwrap(), None);
    }

    #[test]
    fn a_cut_frame_is_an_error_and_so_is_a_wild_length() {
        let mut wire = Vec::new();
        Frame::new(1, Kind::Ping, vec![1, 2, 3]).write(&mut wire).unwrap();
        for end in 1..wire.len() {
            assert!(Frame::read(&mut &wire[..end]).is_err(), "cut at {end}");
        }
        assert!(Frame::read(&mut [0xff; 32].as_slice()).is_err());
        assert!(Frame::read(&mut [0, 0, 0, 1, 0, 0, 0, 0, 8].as_slice()).is_err());
    }

    #[test]
    fn a_request_survives_the_wire_and_no_cut_of_it_is_accepted() {
        let request = Request {
            argv: vec!["echo".into(), String::new(), "a b".into()],
            env: vec!["A=b=c".into()],
            cwd: "/tmp".into(),
            rows: 24,
            columns: 80,
        };
        let body = request.encode();
        assert_eq!(Request::decode(&body).unwrap(), request);
        for end in 0..body.len() {
            assert!(Request::decode(&body[..end]).is_err(), "cut at {end}");
        }
    }
}
