//! Addresses and routes of the fake.

use host::nl::{Reply, attributes, flags};

use super::{Net, Refusal};

impl Net {
    pub(super) fn add_address(&mut self, request: &Reply) -> Result<(), Refusal> {
        if request.flags & flags::REPLACE != 0 {
            self.delete_address(request)?;
        }
        let index = link_of(request);
        if !self.links.contains_key(&index) {
            return Err((libc::ENODEV, None));
        }
        let there = |(on, body): &(u32, Vec<u8>)| *on == index && same_address(body, &request.body);
        if self.addresses.iter().any(there) {
            return Err((libc::EEXIST, Some("ipv4: Address already assigned")));
        }
        self.addresses.push((index, request.body.clone()));
        Ok(())
    }

    pub(super) fn delete_address(&mut self, request: &Reply) -> Result<(), Refusal> {
        let index = link_of(request);
        let before = self.addresses.len();
        self.addresses.retain(|(on, body)| *on != index || !same_address(body, &request.body));
        if self.addresses.len() == before { Err((libc::EADDRNOTAVAIL, None)) } else { Ok(()) }
    }

    pub(super) fn add_route(&mut self, request: &Reply) -> Result<(), Refusal> {
        if self.routes.contains(&request.body) {
            return Err((libc::EEXIST, None));
        }
        self.routes.push(request.body.clone());
        Ok(())
    }

    pub(super) fn delete_route(&mut self, request: &Reply) -> Result<(), Refusal> {
        let before = self.routes.len();
        self.routes.retain(|body| body != &request.body);
        if self.routes.len() == before { Err((libc::ESRCH, None)) } else { Ok(()) }
    }
}

pub(super) fn oif(body: &[u8]) -> Option<u32> {
    attributes(body.get(12..)?).flatten().find(|a| a.kind == 4)?.u32()
}

fn link_of(request: &Reply) -> u32 {
    request.body.get(4..8).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// The same local address and prefix length: header bytes 0 and 1, and attribute 2.
fn same_address(a: &[u8], b: &[u8]) -> bool {
    let local = |body: &[u8]| {
        attributes(body.get(8..).unwrap_or_default())
            .flatten()
            .find(|x| x.kind == 2)
            .map(|x| x.payload.to_vec())
    };
    a.get(..2) == b.get(..2) && local(a) == local(b)
}
