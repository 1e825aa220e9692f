//! The complete storage node, composed of the six crates: what the program `san-node` does, as a library, so that it can be tested on fakes.
//!
//! [`config`] reads `node.toml` and says what is wrong with it by line; [`node`] carries out the verbs; [`status`] prints one screen.

pub mod config;
pub mod drbd_view;
pub mod helper;
pub mod node;
pub mod passphrase;
pub mod status;
