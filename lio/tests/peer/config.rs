//! `saveconfig.json` both ways: made by targetcli and read by us, written by us and restored by targetctl.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use lio::{ConfigSpec, Fabric, IscsiSpec, Others, saveconfig};
use serde_json::Value;

use super::tool;
use crate::conformance::{Bench, Outcome, config, iqn};

const THEIRS: &str = "/tmp/theirs.json";
const OURS: &str = "/tmp/ours.json";

/// Something of everything that targetcli can make.
fn script(disk: &str) -> String {
    let (group, open) = (format!("/iscsi/{}/tpg1", iqn("peer")), format!("/iscsi/{}/tpg2", iqn("peer")));
    let (one, two) = (iqn("host1"), iqn("host2"));
    let naa = "naa.5001405aabbccdd1";
    format!(
        "set global auto_add_default_portal=false auto_save_on_exit=false\n\
         /backstores/block create peerblock {disk}\n\
         /backstores/fileio create peerfile1 /tmp/peerfile1 4M write_back=false\n\
         /backstores/fileio create peerfile2 /tmp/peerfile2 4M write_back=true\n\
         /backstores/ramdisk create peerram1 4M\n\
         /backstores/ramdisk create peerram2 1M nullio=true\n\
         /backstores/ramdisk create peerunused 1M\n\
         /backstores/block/peerblock set attribute emulate_tas=0 emulate_caw=0\n\
         /backstores/ramdisk/peerram1 set attribute emulate_write_cache=1 is_nonrot=1\n\
         /backstores/ramdisk/peerram1/alua create node1 7\n\
         /backstores/ramdisk/peerram1/alua/node1 set alua alua_access_state=1 nonop_delay_msecs=5\n\
         /iscsi set discovery_auth userid=scout password=whomayaskforit mutual_userid=me mutual_password=sayssoitself enable=1\n\
         /iscsi create {target}\n\
         /iscsi/{target} create 2\n\
         {group}/luns create /backstores/block/peerblock 0\n\
         {group}/luns create /backstores/ramdisk/peerram1 5\n\
         {group}/luns/lun5 set alua alua_tg_pt_gp_name=node1\n\
         {group}/luns create /backstores/ramdisk/peerram2 6\n\
         {group}/portals create 127.0.0.1 13360\n\
         {group}/portals create ::1 13360\n\
         {group}/acls create {one}\n\
         {group}/acls create {two} false\n\
         {group}/acls/{two} create 3 5 true\n\
         {group}/acls/{one} set auth userid=user1 password=firstsecret1 mutual_userid=target1 mutual_password=othersecret1\n\
         {group}/acls/{one} set attribute nopin_timeout=7\n\
         {group}/acls/{two} set attribute authentication=0\n\
         {group}/acls tag {two} rack\n\
         {group} set attribute authentication=1 login_timeout=10 default_cmdsn_depth=32\n\
         {group} set parameter DefaultTime2Wait=0 InitialR2T=No\n\
         {open}/luns create /backstores/fileio/peerfile1 0\n\
         {open}/portals create 127.0.0.1 13361\n\
         {open} set attribute generate_node_acls=1 authentication=0 demo_mode_write_protect=0\n\
         {open} set auth userid=anybody password=asecretforall\n\
         {open} disable\n\
         /loopback create {naa}\n\
         /loopback/{naa}/luns create /backstores/fileio/peerfile2 2\n\
         exit\n",
        target = iqn("peer"),
    )
}

fn targetcli_runs(script: &str) -> Outcome {
    let mut child = Command::new("/usr/bin/targetcli")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    child.stdin.take().expect("it is piped").write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !text.contains("rror") && !text.contains("annot"), "{text}");
    Ok(())
}

/// What runs, as targetctl saves it.
fn saved(bench: &Bench) -> Result<Value, Box<dyn std::error::Error>> {
    tool("/usr/bin/targetctl", &["save", THEIRS])?;
    Ok(serde_json::from_str(&bench.host.tree().read(THEIRS)?)?)
}

/// A walk in which the number of an adapter, which nobody chooses, is left out; and which port got which number where the kernel chose.
fn walk(bench: &Bench) -> BTreeMap<String, String> {
    let plain = |text: &str| -> String {
        let part = |part: &str| match part.rsplit_once('_') {
            Some((plugin, number))
                if ["iblock", "fileio", "rd_mcp"].contains(&plugin) && number.parse::<u32>().is_ok() =>
            {
                plugin.to_owned()
            }
            _ => part.to_owned(),
        };
        text.split('/').map(part).collect::<Vec<_>>().join("/")
    };
    // Where a loopback target is among the SCSI hosts of the machine, which count up.
    let all = bench.snapshot().into_iter().filter(|(path, _)| !path.ends_with("/address"));
    all.map(|(path, value)| (plain(&path), plain(&value))).collect()
}

/// The lines in which two walks differ.
fn differences(is: &BTreeMap<String, String>, was: &BTreeMap<String, String>) -> Vec<String> {
    let mut paths: Vec<_> = is.keys().chain(was.keys()).collect();
    paths.sort();
    paths.dedup();
    let differs = |path: &&String| is.get(*path) != was.get(*path);
    paths
        .into_iter()
        .filter(differs)
        .map(|path| format!("{path}: {:?}, was {:?}", is.get(path), was.get(path)))
        .collect()
}

/// A file in one order, without what no restore looks at.
fn meaning(mut file: Value) -> Value {
    file.as_object_mut().unwrap().remove("x_lio");
    let sorted = |list: &mut Value, keys: &[&str]| {
        if let Some(list) = list.as_array_mut() {
            let key = |entry: &Value| keys.iter().map(|key| entry[key].to_string()).collect::<Vec<_>>();
            list.sort_by_key(key);
        }
    };
    sorted(&mut file["storage_objects"], &["plugin", "name"]);
    for disk in file["storage_objects"].as_array_mut().unwrap() {
        sorted(&mut disk["alua_tpgs"], &["name"]);
        // rtslib saves the kernel's own group, and does not restore it.
        disk["alua_tpgs"].as_array_mut().unwrap().retain(|group| group["name"] != "default_tg_pt_gp");
        let block = disk["plugin"] == "block";
        let attributes = disk["attributes"].as_object_mut().unwrap();
        // The kernel takes these and does nothing (target_core_configfs.c), or has them of the device.
        for name in ["emulate_dpo", "emulate_fua_read", "pi_prot_format"] {
            attributes.remove(name);
        }
        if block {
            attributes.remove("emulate_write_cache");
        }
    }
    sorted(&mut file["targets"], &["fabric", "wwn"]);
    for target in file["targets"].as_array_mut().unwrap() {
        // Saved and not restored.
        target.as_object_mut().unwrap().remove("parameters");
        let iscsi = target["fabric"] == "iscsi";
        sorted(&mut target["tpgs"], &["tag"]);
        for group in target["tpgs"].as_array_mut().unwrap() {
            for (list, key) in [("luns", "index"), ("portals", "ip_address"), ("node_acls", "node_wwn")] {
                sorted(&mut group[list], &[key]);
            }
            for acl in group["node_acls"].as_array_mut().unwrap() {
                sorted(&mut acl["mapped_luns"], &["index"]);
            }
            if !iscsi && group["attributes"]["fabric_prot_type"] == 0 {
                group["attributes"].as_object_mut().unwrap().remove("fabric_prot_type");
            }
            for name in ["attributes", "parameters"] {
                // Not there and empty are one.
                let empty = group[name].as_object().is_none_or(serde_json::Map::is_empty);
                if empty {
                    group.as_object_mut().unwrap().remove(name);
                }
            }
        }
    }
    file
}

/// Where two files differ.
fn compare(path: &str, ours: &Value, theirs: &Value, out: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<_> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                compare(&format!("{path}/{key}"), &ours[key], &theirs[key], out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let pairs = a.iter().zip(b).enumerate();
            pairs.for_each(|(index, (a, b))| compare(&format!("{path}/{index}"), a, b, out));
        }
        _ if ours != theirs => out.push(format!("{path}: ours {ours}, theirs {theirs}")),
        _ => {}
    }
}

fn alike(ours: &Value, theirs: &Value) {
    let mut out = Vec::new();
    compare("", &meaning(ours.clone()), &meaning(theirs.clone()), &mut out);
    assert!(out.is_empty(), "{out:#?}");
}

fn empty() -> ConfigSpec {
    ConfigSpec::new().with_iscsi(IscsiSpec::new())
}

/// targetcli makes everything; we read what runs and what it saved, write the same, clear all and make it again.
pub fn theirs_through_us(bench: &Bench) -> Outcome {
    tool("/usr/bin/targetcli", &["ls"])?;
    let lio = bench.lio();
    targetcli_runs(&script(&bench.disks[0].display().to_string()))?;
    let made = walk(bench);
    let theirs = saved(bench)?;
    assert_eq!(theirs["storage_objects"].as_array().unwrap().len(), 6, "{theirs:#}");
    assert_eq!(theirs["targets"].as_array().unwrap().len(), 2, "{theirs:#}");
    let (running, notes) = lio.running()?;
    assert!(notes.is_empty(), "{notes:?}");
    let text = saveconfig::write(&running)?;
    alike(&serde_json::from_slice(text.expose())?, &theirs);
    // What they saved is what runs.
    let (mut read, notes) = saveconfig::read(bench.host.tree().read(THEIRS)?.as_bytes())?;
    assert!(notes.len() == 1 && notes[0].contains("demo mode"), "{notes:?}");
    // But for the initiator of the loopback target, which rtslib makes up anew each time.
    for target in read.targets.iter_mut().filter(|target| target.fabric == Fabric::Loopback) {
        target
            .nexus
            .clone_from(&running.targets.iter().find(|it| it.iqn == target.iqn).expect("the same").nexus);
    }
    let plan = lio.plan_config(&read, Others::Remove)?;
    // But for the directories that reservations need, which rtslib does not make.
    assert!(plan.steps().iter().all(|step| step.path().starts_with("/etc/")), "{plan}");
    for (config, whose) in [(saveconfig::read(text.expose())?.0, "ours"), (read, "theirs")] {
        assert!(lio.ensure_config(&empty(), Others::Remove)?);
        assert!(lio.list()?.is_empty() && lio.backstores()?.is_empty());
        assert!(lio.ensure_config(&config, Others::Remove)?);
        let mut differs = differences(&walk(bench), &made);
        // Of ACLs older than the group's default_cmdsn_depth, and of Linux 6.4 and newer: rtslib does not save them.
        let unsaved = |line: &str| line.contains("/cmdsn_depth: ") || line.contains("/rtpi: ");
        differs.retain(|line| whose == "ours" || !unsaved(line));
        assert!(differs.is_empty(), "made again from {whose}: {differs:#?}");
        alike(&saved(bench)?, &theirs);
    }
    // And targetctl makes of our file what was there.
    bench.host.tree().replace(OURS, text.expose(), 0o600)?;
    restore_with_targetctl(bench, &made, &["/nexus", "/cmdsn_depth"])?;
    assert!(lio.ensure_config(&empty(), Others::Remove)?);
    Ok(())
}

/// We make everything; targetctl restores our file, but for what it has no place for; we restore all.
pub fn ours_through_them(bench: &Bench) -> Outcome {
    tool("/usr/bin/targetcli", &["ls"])?;
    let lio = bench.lio();
    let spec = config::everything(bench);
    assert!(lio.ensure_config(&spec, Others::Remove)?);
    let made = walk(bench);
    let text = saveconfig::write(&lio.running()?.0)?;
    bench.host.tree().replace(OURS, text.expose(), 0o600)?;
    let lost = ["/wwn/vendor_id", "/wwn/product_id", "/wwn/revision", "/alua_lu_gp", "/cmdsn_depth"];
    restore_with_targetctl(bench, &made, &lost)?;
    // The rest is in the sidecar. The serial numbers are the same, so that the disks are; what differs cannot change while exported.
    assert!(lio.ensure_config(&empty(), Others::Remove)?);
    let (config, _) = saveconfig::read(bench.host.tree().read(OURS)?.as_bytes())?;
    assert!(lio.ensure_config(&config, Others::Remove)?);
    let differs = differences(&walk(bench), &made);
    assert!(differs.is_empty(), "{differs:#?}");
    assert!(lio.ensure_config(&empty(), Others::Remove)?);
    Ok(())
}

fn restore_with_targetctl(bench: &Bench, made: &BTreeMap<String, String>, lost: &[&str]) -> Outcome {
    let said = tool("/usr/bin/targetctl", &["restore", OURS])?;
    assert_eq!(said, "", "targetctl restore complains");
    let differs = differences(&walk(bench), made);
    // The kernel's number of a group that was enabled (Linux 6.4 and newer): rtslib does not save it, and 6.1 has none to lose.
    let known = |line: &str| line.contains("/rtpi: ") || lost.iter().any(|part| line.contains(part));
    let unknown: Vec<_> = differs.iter().filter(|line| !known(line)).collect();
    assert!(unknown.is_empty(), "restored by targetctl: {unknown:#?}");
    // Each that rtslib is said to lose is lost.
    let kept: Vec<_> = lost.iter().filter(|part| !differs.iter().any(|line| line.contains(**part))).collect();
    assert!(kept.is_empty(), "not lost: {kept:?}");
    Ok(())
}
