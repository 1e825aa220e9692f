//! What DRBD's kernel side answers, in any of its dialects: states from dumps of any bytes, and events of any bytes.
#![no_main]

use std::time::Duration;

use drbd::{Deadline, Drbd, Host};
use host::nl::fake::{Answer, FakeKernel, Responder};
use host::nl::genl::CONTROLLER;
use host::nl::{Message, Protocol, Reply, attributes};

#[derive(Debug)]
struct Any {
    name: &'static str,
    version: u32,
    data: Vec<u8>,
}

impl Any {
    /// Messages: a byte of length each, with the command first.
    fn messages(&self) -> Vec<Vec<u8>> {
        let (mut all, mut rest) = (Vec::new(), self.data.as_slice());
        while let Some((length, more)) = rest.split_first() {
            let (body, more) = more.split_at(usize::from(*length).min(more.len()));
            all.push(body.to_vec());
            rest = more;
        }
        all
    }
}

impl Responder for Any {
    fn answer(&mut self, _: Protocol, request: &Reply) -> Answer {
        if request.kind == CONTROLLER {
            if !attributes(&request.body[4..]).flatten().any(|a| a.text() == Some(self.name)) {
                return Answer::status(2, None);
            }
            let family = Message::new(CONTROLLER, 0)
                .with_header(&[1, 2, 0, 0])
                .with_str(2, self.name)
                .with_u16(1, 0x20)
                .with_u32(3, self.version)
                .with_nest(7, |m| m.with_nest(1, |m| m.with_u32(2, 7).with_str(1, "events")));
            return Answer::one(Reply::new(CONTROLLER, 0, 0, family.body().to_vec()));
        }
        const GET_INITIAL_STATE: u8 = 38;
        let reply = |body: Vec<u8>| Reply::new(0x20, 0, 0, body);
        let mut answer = Answer::dump(self.messages().into_iter().map(reply).collect());
        if request.body.first() == Some(&GET_INITIAL_STATE) {
            answer.replies.insert(0, reply(vec![41, 1, 0, 0, 0, 0, 0, 0, 101, 0, 0, 0]));
            let events = self.messages().into_iter().zip(3..);
            answer.events = events.map(|(body, seq)| (7, Reply::new(0x20, 0, seq, body))).collect();
        }
        answer
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let (name, version) = [("drbd", 1), ("drbd", 2), ("drbd2", 1)][usize::from(kind % 3)];
    let any = Any { name, version, data: data.to_vec() };
    let host = Host::fake().with_nl(FakeKernel::new(any).transport());
    let Ok(drbd) = Drbd::on(&host) else { return };
    let _ = drbd.list();
    if let Ok(name) = "r0".parse() {
        let _ = drbd.get(&name);
    }
    if let Ok(mut watch) = drbd.watch() {
        while let Ok(Some(_)) = watch.next_before(Deadline::after(Duration::ZERO)) {}
    }
});
