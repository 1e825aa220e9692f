//! The architecture, asserted: who may depend on whom, and what may stand in which file. Each complaint names the place and the fix.
#![allow(clippy::expect_used, clippy::panic)] // It is a test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// One crate per kernel facility; none knows of another.
const FACILITIES: [&str; 6] =
    ["sankit-drbd", "sankit-lio", "sankit-luks", "sankit-netcfg", "sankit-irqaff", "sankit-multipath"];
/// What they stand on.
const HOST: &str = "sankit-host";
/// Those that compose them.
const COMPOSERS: [&str; 2] = ["sankit-examples", "sankit-tests"];
/// The most lines a source file of a crate may have.
const LINES: usize = 600;

fn metadata() -> Metadata {
    // At run time: a target directory shared by two checkouts keeps one program, which would look at the other's files.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo");
    MetadataCommand::new()
        .manifest_path(Path::new(&here).with_file_name("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata")
}

fn members(metadata: &Metadata) -> BTreeMap<&str, &Package> {
    metadata.workspace_packages().into_iter().map(|package| (package.name.as_str(), package)).collect()
}

fn is_library(package: &Package) -> bool {
    let name = package.name.as_str();
    name == HOST || FACILITIES.contains(&name)
}

/// The Rust files in a folder of a package and below, with their text.
fn sources(package: &Package, folder: &str) -> Vec<(PathBuf, String)> {
    let root: PathBuf = package.manifest_path.with_file_name(folder).into();
    let (mut todo, mut found) = (vec![root], Vec::new());
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                found.push((path, text));
            }
        }
    }
    assert!(folder != "src" || !found.is_empty(), "{}: no sources found", package.manifest_path);
    found.sort();
    found
}

/// The lines of a text with their numbers from 1, each cut where a comment begins.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).map(|(number, line)| (number, line.split("//").next().unwrap_or_default()))
}

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "{} found:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn every_member_has_its_place() {
    let metadata = metadata();
    let known: BTreeSet<&str> = FACILITIES.into_iter().chain([HOST]).chain(COMPOSERS).collect();
    let found: BTreeSet<&str> = members(&metadata).into_keys().collect();
    assert_eq!(
        found, known,
        "a new member needs a place in the layer law: add it to tests/tests/layer_law.rs"
    );
}

#[test]
fn crates_depend_on_host_and_on_no_sibling() {
    let metadata = metadata();
    let members = members(&metadata);
    let mut complaints = Vec::new();
    for (name, package) in &members {
        let ours = package.dependencies.iter().filter(|d| members.contains_key(d.name.as_str()));
        for dependency in ours {
            let allowed = match *name {
                HOST => false,
                name if FACILITIES.contains(&name) => dependency.name == HOST,
                _ => is_library(members[dependency.name.as_str()]) || COMPOSERS.contains(name),
            };
            if !allowed {
                let kind = match dependency.kind {
                    DependencyKind::Development => "dev-dependencies",
                    DependencyKind::Build => "build-dependencies",
                    _ => "dependencies",
                };
                complaints.push(format!(
                    "{}: remove {} from [{kind}]; what two crates need belongs into host, what composes crates into examples or tests",
                    package.manifest_path, dependency.name
                ));
            }
        }
        let on_host = package.dependencies.iter().any(|d| d.name == HOST && d.kind == DependencyKind::Normal);
        if FACILITIES.contains(name) && !on_host {
            complaints.push(format!(
                "{}: add host = {{ workspace = true }} to [dependencies]; the crates share its types",
                package.manifest_path
            ));
        }
    }
    assert_none(&complaints);
}

#[test]
fn every_member_says_what_it_is_and_under_which_licence() {
    let metadata = metadata();
    let mut complaints = Vec::new();
    for package in metadata.workspace_packages() {
        let described = package.description.as_ref().is_some_and(|d| d.len() > 20);
        if !described {
            complaints.push(format!("{}: add a description", package.manifest_path));
        }
        if package.license.as_deref() != Some("MIT OR Apache-2.0") {
            complaints.push(format!("{}: add license.workspace = true", package.manifest_path));
        }
        let readme = package.manifest_path.with_file_name("README.md");
        if is_library(package) && !readme.exists() {
            complaints.push(format!("{readme}: write it; it is the crate's page in the registry"));
        }
    }
    assert_none(&complaints);
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    // In two halves each, or this file would find itself.
    let words = [
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
        concat!("#[ig", "nore]"),
        concat!("#[ig", "nore ="),
    ];
    let metadata = metadata();
    let mut complaints = Vec::new();
    for package in metadata.workspace_packages() {
        for folder in ["src", "tests", "examples", "benches"] {
            for (path, text) in sources(package, folder) {
                for (number, line) in code(&text) {
                    for word in words.iter().filter(|word| line.contains(*word)) {
                        complaints.push(format!(
                            "{}:{number}: {word} is a promise; do it, or leave it out and say so in the docs (a test that cannot run here \
                             is skipped with its reason at run time)",
                            path.display()
                        ));
                    }
                }
            }
        }
    }
    assert_none(&complaints);
}

/// Whether a line of code opens something unsafe. `unsafe_code` and `unsafe_op_in_unsafe_fn` are names of lints.
fn is_unsafe(line: &str) -> bool {
    line.match_indices("unsafe").any(|(at, word)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        let whole = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '"');
        let rest = after.trim_start();
        let opens = ["{", "fn ", "impl ", "impl<", "extern ", "trait "];
        whole && (after.is_empty() || after.starts_with(' ') && opens.iter().any(|o| rest.starts_with(o)))
    })
}

#[test]
fn unsafe_code_is_told_from_the_names_of_lints() {
    let opens = ["let x = unsafe { f() };", "unsafe fn f()", "unsafe impl Send for X {}", "    unsafe"];
    assert!(opens.into_iter().all(is_unsafe));
    let opens_not =
        ["#![deny(unsafe_code)]", "unsafe_op_in_unsafe_fn", "let text = \"unsafe\";", "not_unsafe {"];
    assert!(!opens_not.into_iter().any(is_unsafe));
}

#[test]
fn unsafe_code_lives_in_sys() {
    let metadata = metadata();
    let mut complaints = Vec::new();
    for package in metadata.workspace_packages().into_iter().filter(|package| is_library(package)) {
        for (path, text) in sources(package, "src") {
            let in_sys = path.file_name().is_some_and(|name| name == "sys.rs")
                || path.parent().is_some_and(|dir| dir.components().any(|part| part.as_os_str() == "sys"));
            for (number, line) in code(&text).filter(|(_, line)| is_unsafe(line)) {
                if !in_sys {
                    complaints.push(format!(
                        "{}:{number}: move it into sys.rs, behind a safe function: {}",
                        path.display(),
                        line.trim()
                    ));
                }
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn files_of_the_crates_can_be_read_in_one_sitting() {
    let metadata = metadata();
    let mut complaints = Vec::new();
    for package in metadata.workspace_packages().into_iter().filter(|package| is_library(package)) {
        for (path, text) in sources(package, "src") {
            let lines = text.lines().count();
            if lines > LINES {
                complaints.push(format!(
                    "{}: {lines} lines, at most {LINES}; make a folder of it (plan.rs to plan/mod.rs and its parts)",
                    path.display()
                ));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn child_processes_are_started_in_one_place() {
    let metadata = metadata();
    let mut complaints = Vec::new();
    for package in metadata.workspace_packages().into_iter().filter(|package| is_library(package)) {
        for (path, text) in sources(package, "src") {
            if package.name.as_str() == HOST && path.ends_with("src/exec.rs") {
                continue;
            }
            let starts = |line: &str| line.contains("process::Command") || line.contains("Command::new(");
            for (number, line) in code(&text).filter(|(_, line)| starts(line)) {
                complaints.push(format!(
                    "{}:{number}: use host::exec, which has deadlines and no shell: {}",
                    path.display(),
                    line.trim()
                ));
            }
        }
    }
    assert_none(&complaints);
}
