//! Prints what the kernel has, one line a resource. `cargo run -p sankit-drbd --example status`
#![allow(clippy::print_stdout)]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for state in drbd::Drbd::new()?.list()? {
        let disks: Vec<_> =
            state.volumes.iter().map(|v| format!("{}={}", v.minor.path().display(), v.disk)).collect();
        println!("{} {} {} connected={}", state.name, state.role, disks.join(" "), state.is_connected());
        if let Some(progress) = state.resync() {
            println!("    sync {:.1} %, {} left", progress.done * 100.0, progress.left);
        }
    }
    Ok(())
}
