//! What DRBD's kernel side answers: states from a dump of any bytes.
#![no_main]

use drbd::{Drbd, Host};
use host::nl::fake::{Answer, FakeKernel, Responder};
use host::nl::genl::CONTROLLER;
use host::nl::{Message, Protocol, Reply};

#[derive(Debug)]
struct Any(Vec<u8>);

impl Responder for Any {
    fn answer(&mut self, _: Protocol, request: &Reply) -> Answer {
        if request.kind == CONTROLLER {
            let family = Message::new(CONTROLLER, 0).with_header(&[1, 2, 0, 0]).with_u16(1, 0x20).with_u32(3, 1);
            return Answer::one(Reply::new(CONTROLLER, 0, 0, family.body().to_vec()));
        }
        let bodies = self.0.chunks(256).map(|body| Reply::new(0x20, 0, 0, body.to_vec()));
        Answer::dump(bodies.collect())
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let host = Host::fake().with_nl(FakeKernel::new(Any(data.to_vec())).transport());
    if let Ok(drbd) = Drbd::on(&host) {
        let _ = drbd.list();
    }
});
