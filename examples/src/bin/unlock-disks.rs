//! Opens a set of encrypted disks with one passphrase, asked for once; those that are open are skipped.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use host::Bytes;
use luks::unlock::{
    Budget, CrypttabEntry, Event, OnWrongKey, Outcome, Purpose, Report, Tokens, UnlockSet, parse_crypttab,
    parse_source,
};
use luks::{Host, Luks, MappingSpec, Secret, Source, Uuid};
use san_node::passphrase;

/// Open encrypted disks with one passphrase: unlock-disks DISK=NAME...
///
/// Keys are derived in parallel, within memory and processors. A disk that cannot be opened does not keep the others closed. Exit codes are
/// those of cryptsetup: 1 wrong parameters, no LUKS, or another error, 2 wrong passphrase, 3 out of memory, 4 no such device, 5 device exists or
/// is busy.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The disks and the names they get in /dev/mapper. A disk is a LUKS UUID, LABEL=..., PARTUUID=... or a path, for example
    /// 1bd1f798-d105-4150-841b-f2751f419efc=VM_STORAGE_1.
    #[arg(required_unless_present = "crypttab")]
    disks: Vec<String>,
    /// Open the disks of this file too, but for those with the option noauto [default: /etc/crypttab].
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "/etc/crypttab")]
    crypttab: Option<PathBuf>,
    /// Read the passphrase from a file ("-": standard input), without one final newline. Several files are several passphrases.
    #[arg(long)]
    key_file: Vec<PathBuf>,
    /// Every byte of the key files counts, a final newline too, as with cryptsetup's --key-file.
    #[arg(long)]
    raw: bool,
    /// Take the passphrase from a credential that systemd gave this service.
    #[arg(long, conflicts_with = "key_file")]
    credential: Option<String>,
    /// Ask whoever answers systemd's password requests, even on a terminal.
    #[arg(long, conflicts_with_all = ["key_file", "credential"])]
    askpass: bool,
    /// Where these look for requests.
    #[arg(long, default_value = passphrase::ASK_DIR, hide = true)]
    ask_dir: PathBuf,
    /// Try the tokens of the headers before anything is asked: a TPM, a FIDO2 device, the kernel's keyring, clevis. What they do not open is
    /// opened with a passphrase, if there is one to be had.
    #[arg(long)]
    tokens: bool,
    /// How often to ask.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    tries: u32,
    /// Say what would be opened and what it costs, and open nothing.
    #[arg(long)]
    dry_run: bool,
    /// Only check the passphrase; needs no root.
    #[arg(long)]
    test_passphrase: bool,
    /// How much memory all key derivations may take at once, for example 1G [default: half of what is available].
    #[arg(long)]
    memory: Option<Bytes>,
    /// How many processors they may take [default: all, at most 8].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=8))]
    cpus: Option<u32>,
    /// Begin no key derivation after so many seconds.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// Say what is being done.
    #[arg(long, short)]
    verbose: bool,
}

/// What is to be opened.
#[derive(Debug, Default)]
struct Wanted {
    /// With what the command line says, or what is asked for.
    asked: Vec<MappingSpec>,
    /// The same, after their tokens have been tried.
    by_token: Vec<MappingSpec>,
    /// With key files of crypttab; those of one list have the same key.
    by_key_file: Vec<Vec<CrypttabEntry>>,
    /// Lines of crypttab with options that are not carried out.
    refused: Vec<String>,
}

fn main() -> ExitCode {
    // clap ends with 2 on wrong parameters, which is cryptsetup's wrong passphrase.
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    match run(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("unlock-disks: {error:#}");
            ExitCode::from(1)
        }
    }
}

/// The exit code of cryptsetup for an outcome.
fn code(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Opened { .. } | Outcome::AlreadyOpen => 0,
        Outcome::WrongKey | Outcome::NoToken { .. } => 2,
        Outcome::TooLarge { .. } => 3,
        Outcome::Failed(error) if matches!(**error, luks::Error::NoMemory { .. }) => 3,
        Outcome::Missing { .. } | Outcome::Ambiguous(_) => 4,
        Outcome::NameTaken { .. } | Outcome::OpenAs(_) | Outcome::Busy { .. } => 5,
        Outcome::Zombie { .. } | Outcome::Suspended => 5,
        Outcome::Failed(error) if error.is_busy() => 5,
        // What is on a device that is there and no LUKS, or a damaged header, is a wrong parameter to cryptsetup.
        _ => 1,
    }
}

/// The one of two exit codes that says more: a wrong passphrase is what asking again can mend.
fn worse(a: u8, b: u8) -> u8 {
    const RISING: [u8; 6] = [0, 1, 5, 4, 3, 2];
    let rank = |code: u8| RISING.iter().position(|c| *c == code);
    if rank(a) > rank(b) { a } else { b }
}

fn spec(text: &str) -> Result<MappingSpec> {
    let (disk, name) = text.rsplit_once('=').ok_or_else(|| anyhow!("{text:?}: write DISK=NAME"))?;
    let source = match disk.parse::<Uuid>() {
        Ok(uuid) => Source::Uuid(uuid),
        Err(_) => parse_source(disk)?,
    };
    Ok(MappingSpec::new(name.parse()?, source))
}

fn wanted(cli: &Cli) -> Result<Wanted> {
    let mut wanted = Wanted {
        asked: cli.disks.iter().map(|text| spec(text)).collect::<Result<_>>()?,
        ..Wanted::default()
    };
    let Some(file) = &cli.crypttab else { return Ok(wanted) };
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    for mut entry in parse_crypttab(&text)?.into_iter().filter(|entry| entry.is_auto()) {
        let unsupported = entry.unsupported();
        if !unsupported.is_empty() {
            let name = &entry.spec.name;
            wanted
                .refused
                .push(format!("{name}: not opened, unlock-disks has no {}", unsupported.join(", ")));
            continue;
        }
        // Where systemd looks for keys that the line does not name (crypttab(5)).
        let name = entry.spec.name.to_string();
        let usual = ["/etc/cryptsetup-keys.d", "/run/cryptsetup-keys.d"].map(PathBuf::from);
        let found = usual.iter().map(|dir| dir.join(format!("{name}.key"))).find(|path| path.exists());
        entry.key_file = entry.key_file.or(found);
        match (&entry.key_file, entry.tokens) {
            (Some(_), _) => {
                let same = wanted
                    .by_key_file
                    .iter_mut()
                    .find(|group| group.first().is_some_and(|one| has_same_key(one, &entry)));
                match same {
                    Some(group) => group.push(entry),
                    None => wanted.by_key_file.push(vec![entry]),
                }
            }
            (None, Tokens::Try) => wanted.by_token.push(entry.spec),
            (None, Tokens::PassOver) => wanted.asked.push(entry.spec),
        }
    }
    Ok(wanted)
}

fn has_same_key(a: &CrypttabEntry, b: &CrypttabEntry) -> bool {
    let key = |entry: &CrypttabEntry| (entry.key_file_offset, entry.key_file_size, entry.tokens);
    a.key_file == b.key_file && key(a) == key(b)
}

fn run(cli: &Cli) -> Result<u8> {
    let wanted = wanted(cli)?;
    let host = Host::live();
    let luks = Luks::on(&host)?;
    let mut budget = Budget::of(&host);
    if let Some(memory) = cli.memory {
        budget = Budget::new(memory, budget.lanes);
    }
    if let Some(cpus) = cli.cpus {
        budget.lanes = cpus;
    }
    let purpose = if cli.test_passphrase { Purpose::Check } else { Purpose::Open };
    let set = |specs: &[MappingSpec]| {
        UnlockSet::new(specs.iter().cloned())
            .with_budget(budget)
            .with_purpose(purpose)
            .with_timeout(Duration::from_secs(cli.timeout))
    };
    let mut worst = u8::from(!wanted.refused.is_empty());
    wanted.refused.iter().for_each(|line| eprintln!("{line}"));
    for group in &wanted.by_key_file {
        let Some(first) = group.first() else { continue };
        let specs: Vec<_> = group.iter().map(|entry| entry.spec.clone()).collect();
        let set = set(&specs).with_tokens(first.tokens);
        let code = match (cli.dry_run, first.read_key()) {
            (true, _) => show(&set, &luks)?,
            (false, Ok(secret)) => open(cli, &set, &luks, secret.as_slice())?,
            // A key file that is missing does not keep the other volumes closed.
            (false, Err(error)) => {
                let error = anyhow!(error);
                specs.iter().for_each(|spec| eprintln!("{}: not opened: {error:#}", spec.name));
                1
            }
        };
        worst = worse(worst, code);
    }
    let tokens = if cli.tokens { Tokens::Try } else { Tokens::PassOver };
    for (specs, tokens) in [(wanted.asked, tokens), (wanted.by_token, Tokens::Try)] {
        if specs.is_empty() {
            continue;
        }
        let set = |tokens| set(&specs).with_tokens(tokens);
        let code = match (cli.dry_run, tokens) {
            (true, _) => show(&set(tokens), &luks)?,
            (false, Tokens::PassOver) => ask_and_open(cli, set(tokens), &luks)?,
            (false, Tokens::Try) => match open(cli, &set(tokens), &luks, &[])? {
                // What no token opens is asked for, unless nobody is there to be asked.
                2 if can_ask(cli) => ask_and_open(cli, set(Tokens::PassOver), &luks)?,
                code => code,
            },
        };
        worst = worse(worst, code);
    }
    Ok(worst)
}

/// Says what would be done.
fn show(set: &UnlockSet, luks: &Luks) -> Result<u8> {
    let mut worst = 0;
    for one in set.plan(luks)? {
        match one {
            Ok(one) => {
                let slots: Vec<_> = one.keyslots().map(|slot| slot.number.to_string()).collect();
                let memory = Bytes(one.memory_kib().saturating_mul(1024));
                println!("{one}  # key slots {}, {memory} of memory", slots.join(", "));
            }
            Err(report) => worst = worse(worst, say(&report)),
        }
    }
    Ok(worst)
}

fn say(report: &Report) -> u8 {
    let code = code(&report.outcome);
    if code == 0 {
        println!("{}: {}", report.name, report.outcome);
    } else {
        eprintln!("{}: {}", report.name, report.outcome);
    }
    code
}

fn open(cli: &Cli, set: &UnlockSet, luks: &Luks, secrets: &[Secret]) -> Result<u8> {
    let mut worst = 0;
    set.run_with(luks, secrets, |event| {
        match event {
            Event::Asking { name, token } if cli.verbose => {
                println!("{name}: asking token {}, {}", token.number, token.kind);
            }
            Event::Deriving { name, keyslot } if cli.verbose => println!("{name}: trying key slot {keyslot}"),
            Event::Finished { report, .. } => worst = worse(worst, say(report)),
            _ => {}
        }
        ControlFlow::Continue(())
    })?;
    Ok(worst)
}

fn ask_and_open(cli: &Cli, set: UnlockSet, luks: &Luks) -> Result<u8> {
    // Nobody is asked for a passphrase that opens nothing.
    if set.plan(luks)?.iter().all(|one| one.is_err()) {
        return show(&set, luks);
    }
    if let Some(name) = &cli.credential {
        return open(cli, &set, luks, &[passphrase::credential(name)?]);
    }
    if !cli.key_file.is_empty() {
        let read = |path: &PathBuf| match (path.as_os_str() == "-", cli.raw) {
            (true, true) => Secret::read_raw("/dev/stdin"),
            (true, false) => Secret::read("/dev/stdin"),
            (false, true) => Secret::read_raw(path),
            (false, false) => Secret::read(path),
        };
        let secrets = cli.key_file.iter().map(read).collect::<std::result::Result<Vec<_>, _>>()?;
        return open(cli, &set, luks, &secrets);
    }
    // A typo costs a key derivation for each volume; one is enough to know.
    let stopping = set.clone().with_on_wrong_key(OnWrongKey::Stop);
    for tries_left in (0..cli.tries).rev() {
        let secret = ask(cli)?;
        let set = if tries_left > 0 { &stopping } else { &set };
        let code = open(cli, set, luks, &[secret])?;
        if code != 2 || tries_left == 0 {
            return Ok(code);
        }
    }
    Ok(2)
}

/// Whether there is a passphrase to be had.
fn can_ask(cli: &Cli) -> bool {
    !cli.key_file.is_empty()
        || cli.credential.is_some()
        || cli.askpass
        || cli.ask_dir.exists()
        || std::io::stdin().is_terminal()
}

fn ask(cli: &Cli) -> Result<Secret> {
    const QUESTION: &str = "Passphrase of the encrypted disks";
    if std::io::stdin().is_terminal() && !cli.askpass {
        return passphrase::prompt(QUESTION);
    }
    if cli.askpass || cli.ask_dir.exists() {
        return passphrase::ask(&cli.ask_dir, QUESTION, Duration::from_secs(cli.timeout));
    }
    bail!(
        "there is no terminal to ask on and nobody who answers password requests; use --key-file or --credential"
    )
}
