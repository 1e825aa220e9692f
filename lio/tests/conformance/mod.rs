//! What must hold on every LIO, be it the fake or a kernel. Plain functions, so that two test programs can run them.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs
)]

mod broken;
pub mod config;
mod crash;
mod explained;
mod frozen;
mod ha;
mod model;
mod oracle;
mod refused;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use host::plan::KillPoint;
use host::tree::Kind;
use lio::{
    Access, AclSpec, BackstoreSpec, DemoMode, Enabled, ErrorKind, Host, Impact, Iqn, Lio, Lun, Plan, Secret,
    Step, Tag, TargetSpec, UnitSerial,
};

pub type Outcome = Result<(), Box<dyn std::error::Error>>;
pub type Case = fn(&Bench) -> Outcome;

/// A machine to try things on.
pub struct Bench {
    pub host: Host,
    /// Block devices nobody uses.
    pub disks: Vec<PathBuf>,
    /// How many of the points at which a plan can break are tried.
    pub points: usize,
    /// Makes a TCP port look taken; the value keeps it so.
    pub take_port: fn(&Self, u16) -> Option<TcpListener>,
    /// Whether the kernel has, or can load, a module.
    pub has_module: fn(&Self, &str) -> bool,
    /// Logs an initiator in, where that can be done.
    pub log_in: fn(&Self, &Iqn, &Iqn) -> bool,
    /// Where locks and journals of the tests live.
    pub run_dir: tempfile::TempDir,
    /// A SCSI disk nobody uses: host, channel, target, LUN.
    pub scsi: Option<[u32; 4]>,
    /// Whether it is a kernel.
    pub real: bool,
}

const TARGET: &str = "/sys/kernel/config/target";

const HELD: &str = "a_disk_that_does_not_answer_is_held_when_it_does";
const REMOVED: &str = "a_removal_that_waits_for_a_disk_gives_up_in_time_and_goes_on";
const REMOVED_HELD: &str = "what_waits_in_a_node_that_is_held_does_not_keep_it_from_being_removed";

/// The modules without which a case has nothing to look at: it runs on real kernels that have them only, and elsewhere counts as skipped.
pub fn needs(case: &str) -> &'static [&'static str] {
    match case {
        HELD | REMOVED | REMOVED_HELD => &["dm_mod"],
        _ => &[],
    }
}

pub const CASES: &[(&str, Case)] = &[
    ("a_target_is_made_seen_and_removed", made_seen_removed),
    ("a_second_ensure_only_reads", second_ensure_reads),
    ("enabling_is_the_last_step_and_disabling_the_first", enabling_is_last),
    ("a_fresh_target_has_the_defaults_of_the_table", oracle::defaults),
    ("attributes_of_a_device_have_the_ranges_of_the_table", oracle::device),
    ("attributes_of_an_exported_device_are_refused_as_the_table_says", oracle::exported),
    ("attributes_of_a_group_and_an_acl_have_the_ranges_of_the_table", oracle::group),
    ("files_of_an_access_group_have_the_ranges_of_the_table", oracle::access_group),
    ("order_rules_hold", oracle::order),
    ("every_kind_of_backstore_is_made_and_seen", model::backstores),
    ("access_groups_are_made_moved_and_removed", model::access_groups),
    ("a_group_of_backstores_comes_and_goes_with_them", model::lu_groups),
    ("the_group_has_passwords_and_acls_have_tags", model::group_passwords),
    ("discovery_has_passwords_and_connections_have_processors", model::discovery),
    ("loopback_and_vhost_targets", model::other_fabrics),
    ("relative_port_identifiers_where_the_kernel_has_them", model::port_ids),
    ("values_out_of_range_are_refused_before_anything_is_done", model::ranges),
    ("what_only_one_company_has_is_no_twin", model::companies),
    ("every_failing_step_leaves_the_tree_as_before", broken::failing_steps),
    ("after_every_stop_a_second_run_converges", broken::stopped_steps),
    ("every_failing_step_of_a_removal_brings_all_back", broken::failing_removal),
    ("after_every_stop_of_a_removal_a_second_run_ends_it", broken::stopped_removal),
    ("every_failing_change_leaves_the_tree_as_before", broken::failing_changes),
    ("what_a_dead_process_began_is_rolled_back", crash::rolled_back),
    ("what_a_dead_process_began_is_completed", crash::completed),
    ("a_process_that_dies_within_a_step_is_rolled_back_too", crash::stopped_changes),
    ("a_configuration_is_made_read_written_and_made_again", config::round_trip),
    ("a_configuration_leaves_others_or_removes_them", config::others),
    ("sessions_are_not_dropped_unless_allowed", crash::disruption),
    ("what_changes_only_unexported_is_done_so_if_allowed", crash::unexported),
    ("a_whole_configuration_takes_luns_away_if_allowed", crash::configuration_unexported),
    ("the_undo_of_a_plan_leads_back", broken::undo_leads_back),
    ("what_is_not_named_any_more_is_removed", extras_go),
    ("a_changed_value_is_one_step", one_step),
    ("passwords_are_compared_and_never_shown", passwords),
    ("enable_and_disable_say_what_they_changed", switches),
    ("a_portal_of_a_sibling_group_is_a_conflict", refused::sibling_portal),
    ("a_taken_port_is_named", refused::taken_port),
    ("ipv6_portals_have_one_spelling", ipv6),
    ("what_cannot_change_while_exported_is_a_conflict", refused::exported),
    ("two_disks_of_one_serial_are_refused", refused::twins),
    ("a_claimed_device_names_its_holder", refused::claimed),
    ("a_missing_device_is_named", refused::missing_device),
    ("an_attribute_the_kernel_has_not_is_named", refused::unknown_attribute),
    ("every_refusal_of_the_kernel_is_explained", explained::refusals),
    ("a_shared_backstore_outlives_the_first_target", shared),
    ("a_backstore_that_was_not_exported_yet_is_removed_too", broken::orphan),
    ("two_groups_of_one_target", two_groups),
    ("demo_mode_is_off_unless_said", demo),
    ("a_read_only_lun_is_write_protected", read_only),
    ("create_refuses_what_is_there", refused::create_refuses),
    ("a_node_of_an_alua_pair_takes_over_holds_and_stands_by", ha::alua),
    ("commands_wait_while_a_pair_moves", ha::moves),
    ("persistent_reservations_are_carried_to_the_next_node", ha::reservations),
    ("a_node_of_a_floating_pair_has_the_target_or_nothing", ha::floating),
    (HELD, frozen::held_when_it_answers),
    (REMOVED, frozen::removed_when_it_answers),
    (REMOVED_HELD, frozen::removed_while_it_is_held),
];

pub fn iqn(name: &str) -> Iqn {
    format!("iqn.2026-01.org.sankit.test:{name}").parse().expect("an IQN")
}

pub fn ramdisk(name: &str) -> BackstoreSpec {
    BackstoreSpec::ramdisk(name.parse().expect("a name"), lio::Bytes(1 << 20))
        .with_serial(UnitSerial::derived_from(name))
}

impl Bench {
    pub fn lio(&self) -> Lio {
        Lio::on(&self.host).expect("LIO is there")
    }

    pub fn disk(&self, index: usize, name: &str) -> BackstoreSpec {
        BackstoreSpec::block(name.parse().expect("a name"), &self.disks[index])
            .with_serial(UnitSerial::derived_from(name))
    }

    /// A target with something of everything.
    pub fn full(&self, name: &str) -> TargetSpec {
        let disk = self
            .disk(0, "full0")
            .with_vendor("SANKIT".parse().unwrap())
            .with_product("disk".parse().unwrap());
        TargetSpec::new(iqn(name))
            .with_lun(0, disk.with_attribute("emulate_tas", 0).with_attribute("emulate_caw", 0))
            .with_lun(5, ramdisk("full5"))
            .with_portal("127.0.0.1:13260".parse().unwrap())
            .with_portal("[::1]:13260".parse().unwrap())
            .with_acl(
                AclSpec::new(iqn("host1"))
                    .with_chap("user1".parse().unwrap(), Secret::from("first secret 1"))
                    .with_mutual_chap("target1".parse().unwrap(), Secret::from("other secret 1"))
                    .with_attribute("nopin_timeout", 5)
                    .with_queue_depth(32),
            )
            .with_acl(AclSpec::new(iqn("host2")).with_lun(7, 5, Access::ReadOnly))
            .with_parameter("DefaultTime2Wait", 0)
            .with_parameter("InitialR2T", "No")
            .with_attribute("login_timeout", 10)
    }

    /// All that LIO shows, but for what counts or moves by itself.
    pub fn snapshot(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        self.walk(TARGET, &mut all);
        all
    }

    pub fn walk(&self, dir: &str, all: &mut BTreeMap<String, String>) {
        all.insert(dir.to_owned(), "dir".to_owned());
        for entry in self.host.tree().list(dir).expect("a directory") {
            let path = format!("{dir}/{}", entry.name);
            let skipped = [
                "statistics",
                "fabric_statistics",
                "pr",
                "action",
                "control",
                "info",
                "hba_info",
                "members",
                // The number of a SCSI host, of which the last one may still be on its way out.
                "address",
                // rtslib sets it when it first runs, for as long as the module is loaded.
                "dbroot",
            ];
            match entry.kind {
                _ if skipped.contains(&entry.name.as_str()) => {}
                Kind::Dir => self.walk(&path, all),
                Kind::Link => {
                    all.insert(
                        path.clone(),
                        self.host.tree().read_link(&path).expect("a link").display().to_string(),
                    );
                }
                _ => {
                    let value =
                        self.host.tree().read(&path).unwrap_or_else(|e| format!("errno {:?}", e.errno()));
                    // What cannot be unset again is an empty line at first and NULL after an undo: both mean none.
                    let value = if value.starts_with("NULL") { "\n".to_owned() } else { value };
                    all.insert(path, value);
                }
            }
        }
    }

    pub fn same(&self, before: &BTreeMap<String, String>, what: &str) {
        let after = self.snapshot();
        let gone: Vec<_> = before.iter().filter(|(path, value)| after.get(*path) != Some(value)).collect();
        let new: Vec<_> = after.iter().filter(|(path, value)| before.get(*path) != Some(value)).collect();
        assert!(gone.is_empty() && new.is_empty(), "{what}: gone or changed {gone:?}, new {new:?}");
    }

    /// The points of a plan to break at: all, or evenly spread ones.
    fn chosen(&self, length: usize) -> Vec<usize> {
        match length <= self.points {
            true => (0..length).collect(),
            false => (0..self.points).map(|n| n * (length - 1) / (self.points - 1)).collect(),
        }
    }

    fn broken_at(&self, point: KillPoint) -> Lio {
        Lio::on(&self.host.clone().with_kill_point(point)).expect("LIO is there")
    }
}

fn shown(plan: &Plan<Step>) -> Vec<String> {
    plan.steps().iter().map(ToString::to_string).collect()
}

/// An error with all its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(error) = at {
        text.push_str(&format!(": {error}"));
        at = error.source();
    }
    text
}

fn made_seen_removed(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    let spec = bench.full("made");
    assert!(lio.get(&spec.iqn)?.is_none());
    assert!(lio.ensure(&spec)?);
    let state = lio.get(&spec.iqn)?.expect("it is there");
    let group = state.group(Tag(1)).expect("group 1");
    assert!(group.enabled && state.is_enabled());
    assert_eq!(group.portal_addresses().collect::<Vec<_>>().len(), 2);
    assert_eq!(group.luns.keys().map(|lun| lun.number()).collect::<Vec<_>>(), [0, 5]);
    let disk = state.backstore(Tag(1), Lun::from(0)).expect("LUN 0");
    assert_eq!(disk.device(), Some(bench.disks[0].as_path()));
    assert_eq!(disk.serial.as_deref(), Some(UnitSerial::derived_from("full0").as_str()));
    assert_eq!((disk.vendor.as_deref(), disk.product.as_deref()), (Some("SANKIT"), Some("disk")));
    assert_eq!(disk.attributes["emulate_tas"], "0");
    assert_eq!(group.attributes["generate_node_acls"], "0");
    assert_eq!(group.parameters["DefaultTime2Wait"], "0");
    let acl = &group.acls[&iqn("host1")];
    assert_eq!(acl.auth.user.as_deref(), Some("user1"));
    assert!(acl.auth.secret.is_none(), "get holds no passwords");
    assert_eq!((acl.queue_depth, acl.attributes["nopin_timeout"].as_str()), (Some(32), "5"));
    assert_eq!(acl.luns.len(), 2);
    let mapped = &group.acls[&iqn("host2")].luns[&Lun::from(7)];
    assert!(mapped.write_protected && mapped.target_lun == Some(Lun::from(5)));
    assert_eq!(lio.list()?.iter().filter(|target| target.iqn == spec.iqn).count(), 1);
    assert!(lio.sessions(&spec.iqn)?.is_empty());
    assert!(lio.remove(&spec.iqn)?);
    assert!(lio.get(&spec.iqn)?.is_none() && !lio.remove(&spec.iqn)?);
    bench.same(&before, "removed");
    Ok(())
}

fn second_ensure_reads(bench: &Bench) -> Outcome {
    let spec = bench.full("second");
    bench.lio().ensure(&spec)?;
    let (tree, record) = bench.host.tree().recording();
    let lio = Lio::on(&bench.host.clone().with_tree(tree))?;
    assert!(!lio.ensure(&spec)?);
    assert_eq!(record.changes(), []);
    assert!(lio.plan(&spec)?.is_empty());
    eprintln!("second ensure of 2 LUNs, 2 portals, 2 ACLs: {} reads twice", record.reads());
    bench.lio().remove(&spec.iqn)?;
    Ok(())
}

fn enabling_is_last(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let spec = bench.full("last");
    let plan = lio.plan(&spec)?;
    let lines = shown(&plan);
    assert!(lines.last().expect("steps").ends_with("tpgt_1/enable"), "{plan}");
    assert_eq!(lines.iter().filter(|line| line.ends_with("tpgt_1/enable")).count(), 1);
    assert_eq!(plan.impact(), Impact::Online);
    lio.apply(plan)?;
    let plan = lio.plan_removal(&spec.iqn)?;
    assert!(shown(&plan)[0].ends_with("tpgt_1/enable") && plan.impact() >= Impact::DropsSessions, "{plan}");
    let off = spec.clone().enabled(Enabled::No);
    assert_eq!(shown(&lio.plan(&off)?).len(), 1);
    assert!(lio.ensure(&off)? && !lio.ensure(&off)?);
    assert!(lio.get(&spec.iqn)?.is_some_and(|state| !state.is_enabled()));
    lio.remove(&spec.iqn)?;
    Ok(())
}

fn extras_go(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    lio.ensure(&bench.full("extras"))?;
    let small = TargetSpec::new(iqn("extras")).with_lun(0, ramdisk("extras9").with_product("x".parse()?));
    let conflict = lio.plan(&small).expect_err("LUN 0 is another disk");
    assert_eq!(conflict.kind(), ErrorKind::Conflict);
    assert!(chain(&conflict).contains("full0"), "{}", chain(&conflict));
    let small = TargetSpec::new(iqn("extras")).with_lun(5, ramdisk("full5"));
    assert!(lio.ensure(&small)? && !lio.ensure(&small)?);
    let state = lio.get(&small.iqn)?.expect("there");
    let group = state.group(Tag(1)).expect("group");
    assert!(group.acls.is_empty() && group.portals.is_empty());
    assert_eq!(group.luns.len(), 1);
    assert!(!lio.backstores()?.iter().any(|b| b.id.name == "full0"), "its only user is gone");
    lio.remove(&small.iqn)?;
    bench.same(&before, "removed");
    Ok(())
}

fn one_step(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let spec = bench.full("one");
    lio.ensure(&spec)?;
    let changed = spec.clone().with_parameter("DefaultTime2Wait", 4);
    let plan = lio.plan(&changed)?;
    assert_eq!(
        shown(&plan),
        [format!("echo -n '4' > {TARGET}/iscsi/{}/tpgt_1/param/DefaultTime2Wait", spec.iqn)]
    );
    lio.apply(plan)?;
    assert!(lio.plan(&changed)?.is_empty());
    let deeper = changed.with_acl(
        AclSpec::new(iqn("host2"))
            .with_lun(7, 5, Access::ReadWrite)
            .with_attribute("nopin_response_timeout", 7),
    );
    let plan = lio.plan(&deeper)?;
    assert_eq!(plan.len(), 2, "{plan}");
    lio.apply(plan)?;
    assert!(lio.plan(&deeper)?.is_empty());
    lio.remove(&spec.iqn)?;
    Ok(())
}

fn passwords(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let spec = bench.full("chap");
    let all = lio.plan(&spec)?;
    for secret in ["first secret 1", "other secret 1"] {
        assert!(!all.to_string().contains(secret) && !format!("{all:?} {spec:?}").contains(secret));
    }
    lio.apply(all)?;
    // Without a line break at the end: what the kernel has is what was meant.
    let auth = format!("{TARGET}/iscsi/{}/tpgt_1/acls/{}/auth", spec.iqn, iqn("host1"));
    assert_eq!(bench.host.tree().read(format!("{auth}/password"))?, "first secret 1\n");
    assert_eq!(bench.host.tree().read(format!("{auth}/userid_mutual"))?, "target1\n");
    let acl = AclSpec::new(iqn("host1"))
        .with_chap("user1".parse()?, Secret::from("another secret"))
        .with_attribute("nopin_timeout", 5)
        .with_queue_depth(32);
    let changed = spec.clone().with_acl(acl);
    let plan = lio.plan(&changed)?;
    assert_eq!(
        shown(&plan),
        [
            format!("echo -n '***' > {auth}/password"),
            format!("echo -n 'NULL' > {auth}/userid_mutual"),
            format!("echo -n NULL > {auth}/password_mutual"),
        ]
    );
    lio.apply(plan)?;
    assert!(!lio.ensure(&changed)?);
    assert!(lio.ensure(&spec)? && !lio.ensure(&spec)?);
    lio.remove(&spec.iqn)?;
    Ok(())
}

fn switches(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let spec = TargetSpec::new(iqn("switch"));
    assert_eq!(lio.enable(&spec.iqn).expect_err("not there").kind(), ErrorKind::NotFound);
    lio.ensure(&spec)?;
    assert!(!lio.enable(&spec.iqn)?);
    assert!(lio.disable(&spec.iqn)? && !lio.disable(&spec.iqn)?);
    assert!(lio.get(&spec.iqn)?.is_some_and(|state| !state.is_enabled()));
    assert!(lio.enable(&spec.iqn)?);
    lio.remove(&spec.iqn)?;
    Ok(())
}

fn ipv6(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let spec = TargetSpec::new(iqn("v6")).with_portal("[0:0:0:0:0:0:0:1]:13290".parse()?);
    let plan = lio.plan(&spec)?;
    assert!(shown(&plan).iter().any(|line| line.ends_with("np/[::1]:13290'")), "{plan}");
    lio.apply(plan)?;
    assert!(!lio.ensure(&spec)?);
    let scoped = SocketAddr::V6(std::net::SocketAddrV6::new("fe80::1".parse()?, 3260, 0, 2));
    let error = lio.plan(&TargetSpec::new(iqn("v6")).with_portal(scoped)).expect_err("a scope");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    lio.remove(&spec.iqn)?;
    Ok(())
}

fn shared(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    let [one, two] =
        ["shared1", "shared2"].map(|name| TargetSpec::new(iqn(name)).with_lun(0, ramdisk("shared")));
    lio.ensure(&one)?;
    let plan = lio.plan(&two)?;
    assert!(!plan.to_string().contains("mkdir /sys/kernel/config/target/core"), "{plan}");
    lio.apply(plan)?;
    assert!(lio.remove(&one.iqn)?);
    assert!(lio.get(&two.iqn)?.is_some_and(|state| state.backstores.len() == 1));
    assert!(!lio.ensure(&two)?);
    assert!(lio.remove(&two.iqn)?);
    bench.same(&before, "removed");
    Ok(())
}

fn two_groups(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let before = bench.snapshot();
    let one =
        TargetSpec::new(iqn("groups")).with_lun(0, ramdisk("groups")).with_portal("127.0.0.1:13300".parse()?);
    let two = TargetSpec::new(iqn("groups"))
        .with_tag(Tag(2))
        .with_lun(0, ramdisk("groups"))
        .with_portal("127.0.0.1:13301".parse()?);
    lio.ensure(&one)?;
    lio.ensure(&two)?;
    assert!(!lio.ensure(&one)? && !lio.ensure(&two)?);
    assert_eq!(lio.get(&one.iqn)?.expect("there").groups.len(), 2);
    assert!(lio.disable(&one.iqn)? && lio.enable(&one.iqn)?);
    assert!(lio.remove(&one.iqn)?);
    bench.same(&before, "removed");
    Ok(())
}

fn demo(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let open = TargetSpec::new(iqn("demo")).with_demo_mode(DemoMode::Allowed);
    lio.ensure(&open)?;
    let value = |name: &str| -> Result<String, Box<dyn std::error::Error>> {
        let path = format!("{TARGET}/iscsi/{}/tpgt_1/attrib/{name}", iqn("demo"));
        Ok(bench.host.tree().read(path)?.trim().to_owned())
    };
    assert_eq!((value("generate_node_acls")?, value("authentication")?), ("1".into(), "0".into()));
    assert_eq!(value("demo_mode_write_protect")?, "0");
    assert!(!lio.ensure(&open)?);
    let closed = TargetSpec::new(iqn("demo"));
    assert!(lio.ensure(&closed)?);
    assert_eq!((value("generate_node_acls")?, value("authentication")?), ("0".into(), "1".into()));
    lio.remove(&closed.iqn)?;
    Ok(())
}

fn read_only(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let disk = bench.disk(1, "readonly").with_access(Access::ReadOnly);
    let spec = TargetSpec::new(iqn("readonly")).with_lun(0, disk);
    lio.ensure(&spec)?;
    assert!(!lio.ensure(&spec)?);
    let state = lio.get(&spec.iqn)?.expect("there");
    assert!(state.backstores.values().all(|b| b.access == Access::ReadOnly));
    lio.remove(&spec.iqn)?;
    Ok(())
}
