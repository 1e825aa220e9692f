//! Rules: `struct fib_rule_hdr { u8 family, dst_len, src_len, tos, table, res1, res2, action; u32 flags; }` and `FRA_*`.

use host::nl::{Message, Reply, attributes, flags};
use host::{IfName, ParseError};

use super::{AF_INET, AF_INET6, RTM_DELRULE, RTM_GETRULE, RTM_NEWRULE, address_of, family};
use crate::Prefix;
use crate::route::RuleSpec;

const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
/// `FR_ACT_TO_TBL`.
const TO_TABLE: u8 = 1;

fn about(kind: u16, message_flags: u16, rule: &RuleSpec) -> Message {
    let length = |prefix: Option<Prefix>| prefix.map_or(0, |p| p.length);
    // The byte for the table holds small numbers only; the attribute holds all.
    let header = [family(rule.v6), length(rule.to), length(rule.from), 0, 0, 0, 0, TO_TABLE, 0, 0, 0, 0];
    let mut message = Message::new(kind, message_flags).with_header(&header);
    for (attribute, prefix) in [(FRA_DST, rule.to), (FRA_SRC, rule.from)] {
        if let Some(prefix) = prefix {
            message = message.with(attribute, &prefix.octets());
        }
    }
    if let Some(link) = &rule.incoming {
        message = message.with_str(FRA_IIFNAME, link.as_str());
    }
    message.with_u32(FRA_PRIORITY, rule.priority).with_u32(FRA_TABLE, rule.table)
}

pub(crate) fn add(rule: &RuleSpec) -> Message {
    about(RTM_NEWRULE, flags::CREATE | flags::EXCL, rule)
}

pub(crate) fn delete(rule: &RuleSpec) -> Message {
    about(RTM_DELRULE, 0, rule)
}

pub(crate) fn dump() -> Message {
    Message::new(RTM_GETRULE, 0).with_header(&[0; 12])
}

/// Reads one `RTM_NEWRULE`; `None` if it does something else than to choose a table for packets from or to somewhere.
pub(crate) fn parse(reply: &Reply) -> Result<Option<RuleSpec>, ParseError> {
    let cut = || ParseError::new("rule message", "", "shorter than its header");
    let [af, to_length, from_length, _, table, _, _, action, ..] = *reply.body.get(..12).ok_or_else(cut)?
    else {
        return Err(cut());
    };
    let (mut to, mut from, mut incoming, mut priority, mut table) = (None, None, None, 0, u32::from(table));
    let mut plain = action == TO_TABLE && (af == AF_INET || af == AF_INET6);
    for attribute in attributes(reply.body.get(12..).unwrap_or_default()) {
        let attribute = attribute?;
        match attribute.kind {
            FRA_DST => to = address_of(attribute.payload),
            FRA_SRC => from = address_of(attribute.payload),
            FRA_IIFNAME => incoming = attribute.text().and_then(|name| name.parse::<IfName>().ok()),
            FRA_PRIORITY => priority = attribute.u32().unwrap_or_default(),
            FRA_TABLE => table = attribute.u32().unwrap_or(table),
            // Pad, flow, suppressions that are off, protocol: they choose nothing.
            11 | 13 | 14 | 18 | 21 => {}
            _ => plain = false,
        }
    }
    let prefix = |address: Option<_>, length| address.map(|a| Prefix::new(a, length)).transpose();
    let (from, to) = (prefix(from, from_length)?, prefix(to, to_length)?);
    Ok(plain.then_some(RuleSpec { priority, from, to, incoming, table, v6: af == AF_INET6 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_back_as_it_was_written() {
        let from = |text: &str| RuleSpec::from(100, text.parse().expect("prefix"), 100);
        for rule in [
            from("10.1.24.10/32"),
            from("fd00::1/128").with_incoming("lo".parse().expect("name")),
            RuleSpec::to(7, "10.0.0.0/8".parse().expect("prefix"), 70_000),
        ] {
            let reply = Reply::new(RTM_NEWRULE, 0, 1, add(&rule).body().to_vec());
            assert_eq!(parse(&reply).expect("reads"), Some(rule));
        }
    }
}
