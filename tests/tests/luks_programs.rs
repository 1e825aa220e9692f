//! The programs of luks on a real kernel, beside cryptsetup: what they open, what they refuse and with which exit codes, a device measured, and
//! volumes that a TPM opens while nobody is there (swtpm behind the kernel's own driver).
#![allow(clippy::expect_used, clippy::print_stdout)] // It is a test.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::{Cmd, Kernel, Lab, Machine};

const PATIENCE: Duration = Duration::from_secs(600);
const PASSPHRASE: &str = "written on the inside of the skull";
const IDS: [&str; 2] = ["1bd1f798-d105-4150-841b-f2751f419efc", "d7fcdb2b-88fd-4d19-89f3-5bdf3ddcc456"];
const KEY: &str = "--key-file /run/keys/san";

struct Guest {
    machine: Machine,
    started: Instant,
    /// Its disks and logs, for as long as it runs.
    _lab: Lab,
}

impl Guest {
    fn boot(kernel: Kernel) -> Result<Self> {
        let programs = lab::programs(&[&[
            "-p",
            "sankit-examples",
            "--bin",
            "unlock-disks",
            "--bin",
            "luks-ls",
            "--bin",
            "crypt-bench",
        ]])?;
        let lab = Lab::new("luks-programs")?;
        for name in ["unlock-disks", "luks-ls", "crypt-bench"] {
            lab.install(&programs.join(name))?;
        }
        let mut machine = lab.machine("n1").root("tpm").kernel(kernel).memory(1024).cpus(2);
        for name in ["d0", "d1"] {
            machine = machine.disk(&lab.plain_disk(name, 64 << 20)?);
        }
        let guest = Self { machine: machine.boot()?, started: Instant::now(), _lab: lab };
        guest.run(
            "mkdir -p /run/keys; install /lab/bin/unlock-disks /lab/bin/luks-ls /lab/bin/crypt-bench /usr/local/bin/",
        )?;
        guest.machine.push("/run/keys/san", PASSPHRASE, 0o600)?;
        for (n, id) in IDS.iter().enumerate() {
            guest.run(&format!(
                "cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --uuid {id} {KEY} {}",
                disk(n)
            ))?;
        }
        Ok(guest)
    }

    fn say(&self, text: &str) {
        println!("[{:5.1} s] {text}", self.started.elapsed().as_secs_f64());
    }

    /// Exit code and all that was said.
    fn code(&self, script: &str) -> Result<(i32, String)> {
        let output = self.machine.run(Cmd::sh(&format!("{script} 2>&1")).deadline(PATIENCE))?;
        Ok((output.code, output.stdout.trim().to_owned()))
    }

    fn run(&self, script: &str) -> Result<String> {
        let (code, said) = self.code(script)?;
        ensure!(code == 0, "{script}: code {code}: {said}");
        Ok(said)
    }

    fn close(&self) -> Result<()> {
        self.run("for name in one two; do [ ! -e /dev/mapper/$name ] || cryptsetup close $name; done")
            .map(drop)
    }

    /// Both programs refuse with the same exit code.
    fn same(&self, expected: i32, ours: &str, theirs: &str) -> Result<()> {
        for script in [ours, theirs] {
            let (code, said) = self.code(script)?;
            ensure!(code == expected, "{script}: code {code} and not {expected}: {said}");
        }
        Ok(())
    }

    fn opens(&self) -> Result<()> {
        let [one, two] = IDS;
        let dry = self.run(&format!("unlock-disks --dry-run {one}=one {}=two", disk(1)))?;
        ensure!(dry.matches("cryptsetup open").count() == 2 && self.mappings()? == 0, "{dry}");
        self.run(&format!("unlock-disks {KEY} {one}=one {}=two", disk(1)))?;
        self.run("for name in one two; do cryptsetup status $name | grep -q 'is active'; done")?;
        self.run("echo here it is | dd of=/dev/mapper/one conv=fsync")?;
        let again = self.run(&format!("unlock-disks {one}=one {two}=two </dev/null"))?;
        ensure!(again.lines().count() == 2, "{again}");
        // Open under another name, a name that is taken, a wrong passphrase, no such disk.
        let theirs = |disk: &str, name: &str| format!("cryptsetup open {KEY} {disk} {name}");
        self.same(5, &format!("unlock-disks {KEY} {one}=other"), &theirs(&disk(0), "other"))?;
        self.same(5, &format!("unlock-disks {KEY} {}=one", disk(1)), &theirs(&disk(1), "one"))?;
        self.close()?;
        let wrong = "echo wrong >/run/keys/wrong;";
        self.same(
            2,
            &format!("{wrong} unlock-disks --key-file /run/keys/wrong {one}=one"),
            &format!("{wrong} cryptsetup open --key-file /run/keys/wrong {} one", disk(0)),
        )?;
        self.same(4, &format!("unlock-disks {KEY} /dev/none=one"), &theirs("/dev/none", "one"))?;
        ensure!(self.mappings()? == 0, "nothing is open after what was refused");
        let table = format!(
            "one UUID={one} /run/keys/san luks,discard\ntwo {} /run/keys/san luks,readonly\n",
            disk(1)
        );
        self.machine.push("/etc/crypttab", &table, 0o600)?;
        self.run("unlock-disks --crypttab")?;
        let flags = self.run("for name in one two; do cryptsetup status $name; done")?;
        ensure!(flags.contains("discards") && flags.contains("readonly"), "{flags}");
        ensure!(self.run("head -c 10 /dev/mapper/one")? == "here it is");
        let listed = self.run("luks-ls --mappings")?;
        ensure!(listed.contains(one) && listed.contains(two), "{listed}");
        self.close()?;
        self.say("opened, refused and closed as cryptsetup does");
        Ok(())
    }

    fn mappings(&self) -> Result<usize> {
        Ok(self.run("luks-ls --mappings")?.lines().count())
    }

    fn measures(&self) -> Result<()> {
        let (code, said) = self.code(&format!("crypt-bench --only-device --millis 10 {}", disk(0)))?;
        ensure!(code != 0 && said.contains("would be lost"), "{said}");
        self.run(&format!("luks-ls --uuid {} | grep -q {}", disk(0), IDS[0]))?;
        // Article 1's test: aes-cbc-essiv over dm-zero, and beside it what else there is.
        let said = self.run("crypt-bench --zero --only-device --millis 10 --svg /run/plot.svg")?;
        let rows = said.lines().filter(|line| line.contains("aes-")).count();
        // Three ciphers, two sector sizes, six kinds of queues; and a line of advice for each of the first six.
        ensure!(rows == 36 + 6, "{rows} lines: {said}");
        ensure!(said.contains("aes-cbc-essiv:sha256 256") && said.contains("on this machine:"), "{said}");
        self.run("grep -q '^<svg' /run/plot.svg && grep -q 'aes-cbc-essiv' /run/plot.svg")?;
        ensure!(self.run("dmsetup ls")?.contains("No devices"), "something is left");
        self.say("measured over dm-zero, and a device in use refused");
        Ok(())
    }

    /// A TPM 2 in software behind `/dev/tpm0`; it lives as long as the machine.
    fn tpm(&self) -> Result<()> {
        self.run("modprobe tpm_vtpm_proxy; mkdir /run/tpm")?;
        self.run("setsid swtpm chardev --vtpm-proxy --tpm2 --tpmstate dir=/run/tpm >/run/tpm/log 2>&1 </dev/null &")?;
        self.run(
            "for n in $(seq 300); do [ -c /dev/tpmrm0 ] && exit 0; sleep 0.2; done; cat /run/tpm/log; exit 1",
        )?;
        self.say("a TPM is there");
        Ok(())
    }

    fn tokens(&self) -> Result<()> {
        let [one, two] = IDS;
        self.tpm()?;
        let (code, said) = self.code(&format!("unlock-disks --tokens {one}=one </dev/null"))?;
        ensure!(code == 2 && said.contains("it has none"), "code {code}: {said}");
        self.run(&format!(
            "PASSWORD=\"$(cat /run/keys/san)\" systemd-cryptenroll --tpm2-device=auto --tpm2-pcrs=7 {}",
            disk(0)
        ))?;
        self.run(&format!(
            "clevis luks bind -y -k /run/keys/san -d {} tpm2 '{{\"pcr_bank\":\"sha256\",\"pcr_ids\":\"7\"}}'",
            disk(1)
        ))?;
        self.say("bound by systemd-cryptenroll and by clevis");
        let said = self.run(&format!("unlock-disks --verbose --tokens {one}=one {two}=two </dev/null"))?;
        ensure!(said.contains("systemd-tpm2") && said.contains("clevis"), "{said}");
        self.run("for name in one two; do cryptsetup status $name | grep -q 'is active'; done")?;
        ensure!(self.run("head -c 10 /dev/mapper/one")? == "here it is");
        self.close()?;
        self.say("both opened by their tokens");
        // Another firmware than it was bound to: the tokens yield nothing, and a passphrase is asked for, if there is one.
        self.run(
            "tpm2_pcrextend -T device:/dev/tpmrm0 7:sha256=$(head -c 32 /dev/zero | sha256sum | cut -c 1-64)",
        )?;
        let (code, said) = self.code(&format!("unlock-disks --tokens {one}=one {two}=two </dev/null"))?;
        ensure!(code == 2 && said.matches("no token opens it").count() == 2, "code {code}: {said}");
        ensure!(said.contains("token 0 of type systemd-tpm2 yields no key"), "{said}");
        ensure!(self.mappings()? == 0);
        self.run(&format!("unlock-disks --tokens {KEY} {one}=one {two}=two </dev/null"))?;
        ensure!(self.mappings()? == 2);
        self.close()?;
        self.say("refused by a TPM in another state, opened by the passphrase beside it");
        Ok(())
    }
}

fn disk(n: usize) -> String {
    format!("/dev/disk/by-id/virtio-d{n}")
}

fn scenario(kernel: Kernel) -> Result<()> {
    let guest = Guest::boot(kernel)?;
    guest.say(&guest.run("uname -r")?);
    guest.opens()?;
    guest.measures()?;
    guest.tokens()
}

#[test]
fn the_programs_open_measure_and_refuse_on_both_kernels_and_a_tpm_opens_volumes() -> Result<()> {
    scenario(Kernel::V6_1)?;
    scenario(Kernel::V6_12)
}
