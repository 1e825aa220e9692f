//! What the daemon in memory answers: the texts of `multipathd/uxlsnr.c`, `cli_handlers.c` and `libmultipath/print.c`.

use std::fmt::Write;

use super::{Asker, Generation, Inner, Mishap};
use crate::state::{CheckerState, GroupState, MapState, PathInfo, PathState, Queueing};

/// How a command fails.
#[derive(Clone, Copy)]
enum Failure {
    Plain,
    Timeout,
    NeedsRoot,
    Busy,
    NotFound,
    Unknown,
}

/// The verbs; anything else gets the help text.
const VERBS: &[&str] = &[
    "show",
    "list",
    "add",
    "del",
    "remove",
    "switch",
    "switchgroup",
    "suspend",
    "resume",
    "reinstate",
    "fail",
    "resize",
    "reset",
    "reload",
    "forcequeueing",
    "disablequeueing",
    "restorequeueing",
    "quit",
    "exit",
    "shutdown",
    "getprstatus",
    "setprstatus",
    "unsetprstatus",
    "getprkey",
    "setprkey",
    "unsetprkey",
    "setmarginal",
    "unsetmarginal",
    "reconfigure",
    "getprhold",
    "setprhold",
    "unsetprhold",
];

/// Splits a command as the daemon does: at white space, a quoted run is one word.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (n, part) in command.split('"').enumerate() {
        match n % 2 {
            1 => words.push(part.to_owned()),
            _ => words.extend(part.split_whitespace().map(str::to_owned)),
        }
    }
    words
}

impl Inner {
    /// The answer; the command is carried out and remembered.
    pub(super) fn answer(&mut self, command: &str) -> String {
        self.asked.push(command.to_owned());
        if let Some(Mishap::Timeout(left)) = self.mishaps.get_mut(command)
            && *left > 0
        {
            *left -= 1;
            return self.failure(command, Failure::Timeout);
        }
        if let Some(answer) = self.answers.get(command) {
            return answer.clone();
        }
        let words = words(command);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.carry_out(&words).unwrap_or_else(|failure| self.failure(command, failure))
    }

    fn failure(&self, command: &str, failure: Failure) -> String {
        let new = self.generation >= Generation::V0_14;
        let version = if new { "v0.14.3 (02/05, 2026)" } else { "v0.9.4 (12/19, 2022)" };
        let text = match failure {
            Failure::Plain => return "fail\n".to_owned(),
            Failure::Busy | Failure::NotFound if !new => return "fail\n".to_owned(),
            Failure::Busy => "map or partition in use\n".to_owned(),
            Failure::NotFound => "device not found\n".to_owned(),
            Failure::Timeout => "timeout\n".to_owned(),
            Failure::NeedsRoot => "permission deny: need to be root\n".to_owned(),
            Failure::Unknown => format!(
                "{command}: not found\nmultipath-tools {version}\nCLI commands reference:\n list|show paths\n"
            ),
        };
        format!("{}{text}", if new { "fail\n" } else { "" })
    }

    fn carry_out(&mut self, words: &[&str]) -> Result<String, Failure> {
        let verb = words.first().copied().unwrap_or_default();
        if !VERBS.contains(&verb) {
            return Err(Failure::Unknown);
        }
        if self.asker == Asker::Other && !matches!(verb, "show" | "list") {
            return Err(Failure::NeedsRoot);
        }
        let ok = || Ok("ok\n".to_owned());
        match words {
            ["show", "maps", "json"] => Ok(all(&self.maps)),
            ["show", "map", name, "json"] => {
                let map = self.find(name)?;
                Ok(format!("{{\n{HEAD}   \"map\":{}\n}}\n", self.maps.get(map).map(json).unwrap_or_default()))
            }
            ["show", "daemon"] => Ok("pid 4711 idle\n".to_owned()),
            ["show", "status"] => {
                let paths = self.maps.iter().flat_map(MapState::paths).count();
                Ok(format!(
                    "path checker states:\nup                  {paths}\n\npaths: {paths}\nbusy: False\n"
                ))
            }
            ["show", "path", name] => {
                let path = self.path(name)?;
                Ok(format!("{}\n", path.device_state))
            }
            ["getprkey", "map", name] => self.find(name).map(|_| "none\n".to_owned()),
            ["getprstatus", "map", name] => {
                self.find(name)?;
                Ok(if self.generation >= Generation::V0_14 { "unset\n" } else { "0" }.to_owned())
            }
            ["add", "path", device] | ["add", "map", device] if self.blacklist.contains(*device) => {
                Ok("blacklisted\n".to_owned())
            }
            ["del" | "remove", "map", name] => {
                let at = self.find(name)?;
                if self.maps.get(at).is_some_and(|map| self.held.contains(&map.name)) {
                    return Err(Failure::Busy);
                }
                self.maps.remove(at);
                ok()
            }
            ["del" | "remove", "maps"] => {
                let before = self.maps.len();
                self.maps.retain(|map| self.held.contains(&map.name));
                if self.maps.is_empty() || before == 0 { ok() } else { Err(Failure::Busy) }
            }
            ["del" | "remove", "path", device] => {
                self.path(device)?;
                for group in self.maps.iter_mut().flat_map(|map| &mut map.groups) {
                    group.paths.retain(|path| path.device != *device);
                }
                self.maps.retain(|map| map.paths().count() > 0);
                ok()
            }
            ["fail", "path", device] => {
                let path = self.path(device)?;
                (path.state, path.checker) = (PathState::Failed, CheckerState::Faulty);
                ok()
            }
            ["reinstate", "path", device] => {
                let path = self.path(device)?;
                (path.state, path.checker) = (PathState::Active, CheckerState::Ready);
                ok()
            }
            ["suspend" | "resume", "map", name] => {
                let suspended = verb == "suspend";
                self.maps.iter_mut().find(|map| map.name == *name).ok_or(Failure::Plain)?.suspended =
                    suspended;
                ok()
            }
            ["disablequeueing" | "restorequeueing", "map", name] => {
                let at = self.find(name)?;
                self.queue(at, verb == "restorequeueing");
                ok()
            }
            ["disablequeueing" | "restorequeueing", "maps"] => {
                (0..self.maps.len()).for_each(|at| self.queue(at, verb == "restorequeueing"));
                ok()
            }
            [_, "map", name, ..] => self.find(name).and_then(|_| ok()),
            _ => ok(),
        }
    }

    fn queue(&mut self, at: usize, restore: bool) {
        let Some(map) = self.maps.get_mut(at) else { return };
        match restore {
            false if map.queueing != Queueing::Off => {
                self.configured.insert(map.name.clone(), std::mem::replace(&mut map.queueing, Queueing::Off));
                map.features = "0".to_owned();
            }
            false => {}
            true => {
                if let Some(configured) = self.configured.remove(&map.name) {
                    *map = map.clone().with_queueing(configured);
                }
            }
        }
    }

    fn find(&self, name: &str) -> Result<usize, Failure> {
        let new = self.generation >= Generation::V0_14;
        let is = |map: &MapState| map.name == name || map.node == name || new && map.wwid == name;
        self.maps.iter().position(is).ok_or(Failure::NotFound)
    }

    fn path(&mut self, name: &str) -> Result<&mut PathInfo, Failure> {
        let new = self.generation >= Generation::V0_14;
        self.maps
            .iter_mut()
            .flat_map(|map| &mut map.groups)
            .flat_map(|group| &mut group.paths)
            .find(|path| path.device == name || new && path.number == name)
            .ok_or(Failure::NotFound)
    }
}

const HEAD: &str = "   \"major_version\": 0,\n   \"minor_version\": 1,\n";

/// The document of all maps.
fn all(maps: &[MapState]) -> String {
    let maps: Vec<String> = maps.iter().map(json).collect();
    format!("{{\n{HEAD}   \"maps\": [{}]\n}}\n", maps.join(","))
}

/// Writes `"key" : value` lines. Strings go out as they are, unescaped, as the daemon's do.
struct Fields {
    text: String,
    indent: &'static str,
}

impl Fields {
    fn raw(&mut self, key: &str, value: impl std::fmt::Display) {
        let comma = if self.text.is_empty() { "" } else { ",\n" };
        // Writing to a String does not fail.
        let _ = write!(self.text, "{comma}{}\"{key}\" : {value}", self.indent);
    }

    fn text(&mut self, key: &str, value: impl std::fmt::Display) {
        self.raw(key, format_args!("\"{value}\""));
    }
}

fn or<'a>(text: &'a str, unknown: &'a str) -> &'a str {
    if text.is_empty() { unknown } else { text }
}

fn json(map: &MapState) -> String {
    let mut fields = Fields { text: String::new(), indent: "      " };
    let counters = map.counters.unwrap_or_default();
    fields.text("name", &map.name);
    fields.text("uuid", &map.wwid);
    fields.text("sysfs", or(&map.node, "undef"));
    fields.text("failback", &map.failback);
    fields.text("queueing", &map.queueing);
    fields.raw("paths", map.paths().filter(|path| path.state == PathState::Active).count());
    fields.text(
        "write_prot",
        match map.read_only {
            Some(true) => "ro",
            Some(false) => "rw",
            None => "undef",
        },
    );
    fields.text("dm_st", if map.suspended { "suspend" } else { "active" });
    fields.text("features", &map.features);
    fields.text("hwhandler", &map.handler);
    fields.text("action", "");
    fields.raw("path_faults", counters.path_faults);
    fields.text("vend", or(&map.vendor, "##"));
    fields.text("prod", or(&map.product, "##"));
    fields.text("rev", or(&map.revision, "##"));
    fields.raw("switch_grp", counters.group_switches);
    fields.raw("map_loads", counters.loads);
    fields.raw("total_q_time", counters.queued_seconds);
    fields.raw("q_timeouts", counters.queueing_timeouts);
    let groups: Vec<String> = map.groups.iter().zip(1..).map(|(group, n)| group_json(group, n)).collect();
    fields.raw("path_groups", format_args!("[{}]", groups.join(",")));
    format!("{{\n{}\n   }}", fields.text)
}

fn marginal(is: bool) -> &'static str {
    if is { "marginal" } else { "normal" }
}

fn group_json(group: &GroupState, number: u32) -> String {
    let mut fields = Fields { text: String::new(), indent: "         " };
    fields.text("selector", &group.selector);
    fields.raw("pri", group.priority);
    fields.text("dm_st", &group.state);
    fields.text("marginal_st", marginal(group.marginal));
    fields.raw("group", number);
    let paths: Vec<String> = group.paths.iter().map(path_json).collect();
    fields.raw("paths", format_args!("[{}]", paths.join(",")));
    format!("{{\n{}\n      }}", fields.text)
}

fn path_json(path: &PathInfo) -> String {
    let mut fields = Fields { text: String::new(), indent: "            " };
    fields.text("dev", &path.device);
    fields.text("dev_t", &path.number);
    fields.text("dm_st", &path.state);
    fields.text("dev_st", &path.device_state);
    fields.text("chk_st", &path.checker);
    fields.text("checker", or(&path.checker_name, "none"));
    fields.raw("pri", path.priority);
    fields.text("host_wwnn", "[undef]");
    fields.text("target_wwnn", or(&path.target, "[undef]"));
    fields.text("host_wwpn", "[undef]");
    fields.text("target_wwpn", "[undef]");
    fields.text("host_adapter", or(&path.adapter, "[undef]"));
    let lun = path.lun.unwrap_or_default();
    let levels = (0..4).map(|n| (lun >> (16 * n) & 0xffff) << (48 - 16 * n)).sum::<u64>();
    fields.text("lun_hex", format_args!("0x{levels:016x}"));
    fields.text("marginal_st", marginal(path.marginal));
    format!("{{\n{}\n         }}", fields.text)
}
