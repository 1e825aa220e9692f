//! Rings and features of the cards in memory, and pause frames if a test gives them any. Queues and interrupt moderation they have not.

use std::collections::BTreeMap;

use host::nl::fake::Answer;
use host::nl::{Message, Reply, attributes, genl};

/// The number that the family has here.
const FAMILY: u16 = 31;
const RINGS_GET: u8 = 15;
const FEATURES_GET: u8 = 11;
const PAUSE_GET: u8 = 21;
/// The largest ring.
const MOST: u32 = 1024;

/// A card's settings.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Card {
    /// Receive and transmit ring.
    rings: [u32; 2],
    /// Whether it heeds and sends pause frames; `None` if it knows none.
    pub(super) pause: Option<bool>,
    /// On or not, and whether it can be changed.
    features: BTreeMap<&'static str, (bool, bool)>,
}

impl Default for Card {
    fn default() -> Self {
        let features =
            [("rx-gro", (true, true)), ("rx-lro", (false, true)), ("highdma", (true, false))].into();
        Self { rings: [256, 256], pause: None, features }
    }
}

impl super::FakeNet {
    /// Gives a card pause frames, on or off.
    pub fn set_pause(&self, card: &str, on: bool) {
        self.lock()
            .links
            .values_mut()
            .filter(|link| link.name == card)
            .for_each(|link| link.card.pause = Some(on));
    }
}

/// Answers a message of generic netlink, with the card as it is then if that was a change.
pub(super) fn answer(
    request: &Reply,
    card: impl FnOnce(&str) -> Option<Card>,
) -> (Answer, Option<(String, Card)>) {
    let body = request.body.get(4..).unwrap_or_default();
    if request.kind == genl::CONTROLLER {
        let known = attributes(body).flatten().any(|a| a.kind == 2 && a.text() == Some("ethtool"));
        let family =
            Message::new(genl::CONTROLLER, 0).with_header(&[1, 2, 0, 0]).with_u16(1, FAMILY).with_u32(3, 1);
        return match known {
            true => (Answer::one(Reply::new(genl::CONTROLLER, 0, 0, family.body().to_vec())), None),
            false => (Answer::status(libc::ENOENT, None), None),
        };
    }
    let command = request.body.first().copied().unwrap_or_default();
    let name = attributes(body).flatten().find(|a| a.kind == 1).and_then(|header| {
        header.nested().flatten().find(|part| part.kind == 2).and_then(|part| part.text().map(str::to_owned))
    });
    let found = name.and_then(|name| card(&name).map(|card| (name, card)));
    let Some((name, mut card)) = found else { return (Answer::status(libc::ENODEV, None), None) };
    let reply = |message: Message| (Answer::one(Reply::new(FAMILY, 0, 0, message.body().to_vec())), None);
    let head = Message::new(FAMILY, 0).with_header(&[command, 1, 0, 0]);
    match command {
        RINGS_GET => {
            let [rx, tx] = card.rings;
            reply(head.with_u32(2, MOST).with_u32(5, MOST).with_u32(6, rx).with_u32(9, tx))
        }
        PAUSE_GET if card.pause.is_some() => {
            let on = u8::from(card.pause == Some(true));
            reply(head.with_u8(2, 0).with_u8(3, on).with_u8(4, on))
        }
        FEATURES_GET => reply(features(head, &card)),
        command if command == RINGS_GET + 1 => {
            for attribute in attributes(body).flatten() {
                let Some(value) = attribute.u32() else { continue };
                match attribute.kind {
                    6 | 9 if value > MOST => {
                        let text = "requested ring size exceeds maximum";
                        return (Answer::status(libc::EINVAL, Some(text)), None);
                    }
                    6 => card.rings[0] = value,
                    9 => card.rings[1] = value,
                    _ => {}
                }
            }
            (Answer::status(0, None), Some((name, card)))
        }
        command if command == FEATURES_GET + 1 => {
            for bit in attributes(body).flatten().filter(|a| a.kind == 3).flat_map(|a| {
                a.nested()
                    .flatten()
                    .filter(|a| a.kind == 3)
                    .flat_map(|a| a.nested().flatten())
                    .collect::<Vec<_>>()
            }) {
                let bit: Vec<_> = bit.nested().flatten().collect();
                let wanted = bit.iter().find(|part| part.kind == 2).and_then(|part| part.text());
                let on = bit.iter().any(|part| part.kind == 3);
                // What cannot be changed is passed over in silence, as the kernel does it.
                for (name, (is_on, free)) in &mut card.features {
                    if Some(*name) == wanted && *free {
                        *is_on = on;
                    }
                }
            }
            (Answer::status(0, None), Some((name, card)))
        }
        _ => (Answer::status(libc::EOPNOTSUPP, None), None),
    }
}

fn features(head: Message, card: &Card) -> Message {
    let set = |m: Message, kind: u16, which: &dyn Fn(bool, bool) -> bool| {
        m.with_nest(kind, |m| {
            m.with(1, &[]).with_nest(3, |m| {
                let chosen = card.features.iter().filter(|(_, (on, free))| which(*on, *free));
                chosen.fold(m, |m, (name, _)| m.with_nest(1, |m| m.with_str(2, name)))
            })
        })
    };
    let head = set(head, 2, &|_, free| free);
    let head = set(head, 4, &|on, _| on);
    set(head, 5, &|_, _| false)
}
