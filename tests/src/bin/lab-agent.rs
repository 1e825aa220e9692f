//! The guest agent of the lab. It runs in the virtual machines, never on the host.

fn main() -> anyhow::Result<()> {
    lab::agent::main()
}
