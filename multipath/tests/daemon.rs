//! The client against a daemon on a real socket, of both generations, well and badly behaved.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // It is a test.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use multipath::daemon::{Address, Columns, ReservationKey};
use multipath::fake::{Asker, FakeMultipathd, FakeServer, Generation, Mishap};
use multipath::{
    CheckerState, Command, Deadline, Error, GroupPhase, GroupState, MapName, MapState, Multipath, PathInfo,
    PathName, PathState, Queueing, Reply, Version,
};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const BOTH: [Generation; 2] = [Generation::V0_9_4, Generation::V0_14];

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

fn map() -> MapState {
    let path = |device: &str, number: &str| {
        PathInfo::new(device, number, PathState::Active)
            .with_target("iqn.2026-01.a:one")
            .with_checker("directio", CheckerState::Ready)
    };
    let group =
        GroupState::new(GroupPhase::Active, 50, "service-time 0", [path("sdb", "8:16"), path("sdc", "8:32")]);
    MapState::new("mpatha", "36001405a1b2c3d4e5f60718293a4b5c6", "dm-3")
        .with_product("LIO-ORG", "vmstor1")
        .with_queueing(Queueing::Retries(24))
        .with_group(group)
}

/// A daemon with one map, and a client on its socket.
fn daemon(generation: Generation) -> std::io::Result<(FakeMultipathd, FakeServer, Multipath)> {
    let daemon = FakeMultipathd::new().with_generation(generation).with_map(map());
    let server = daemon.serve()?;
    let maps = daemon.multipath().with_client(server.client());
    Ok((daemon, server, maps))
}

fn name(text: &str) -> MapName {
    text.parse().expect("a name")
}

fn path(text: &str) -> PathName {
    text.parse().expect("a path")
}

#[test]
fn maps_come_over_the_socket_as_they_are() -> Outcome {
    for generation in BOTH {
        let (_daemon, _server, maps) = daemon(generation)?;
        let list = maps.list()?;
        assert_eq!(list.len(), 1);
        let seen = &list[0];
        assert_eq!(
            (seen.name.as_str(), &seen.queueing, seen.working()),
            ("mpatha", &Queueing::Retries(24), 2)
        );
        assert_eq!(maps.get_by_name(&name("mpatha"))?.as_ref(), Some(seen));
        assert_eq!(maps.get_by_name(&name("dm-3"))?.as_ref(), Some(seen));
        assert_eq!(maps.get_by_name(&name("mpathz"))?, None);
        // By WWID too, although the old daemon does not know it by that.
        assert!(maps.get_by_name(&name("36001405a1b2c3d4e5f60718293a4b5c6"))?.is_some());
    }
    Ok(())
}

#[test]
fn an_empty_list_is_empty_and_not_ok() -> Outcome {
    let daemon =
        FakeMultipathd::new().with_answer("show paths", "ok\n").with_answer("show maps json", "ok\n");
    let server = daemon.serve()?;
    assert_eq!(server.client().text(&Command::ShowPaths, soon())?, "");
    assert_eq!(daemon.multipath().with_client(server.client()).list()?, []);
    Ok(())
}

#[test]
fn what_is_ordered_is_done() -> Outcome {
    for generation in BOTH {
        let (daemon, _server, maps) = daemon(generation)?;
        maps.fail_path(&path("sdb"))?;
        assert_eq!(maps.list()?[0].working(), 1);
        maps.reinstate_path(&path("sdb"))?;
        maps.disable_queueing(&name("mpatha"))?;
        assert_eq!(maps.list()?[0].queueing, Queueing::Off);
        maps.restore_queueing(&name("mpatha"))?;
        maps.suspend(&name("mpatha"))?;
        let seen = &maps.list()?[0];
        assert_eq!((seen.working(), &seen.queueing, seen.suspended), (2, &Queueing::Retries(24), true));
        maps.resume(&name("mpatha"))?;
        maps.resize(&name("mpatha"))?;
        maps.reload(&name("mpatha"))?;
        maps.switch_group(&name("mpatha"), std::num::NonZeroU32::MIN)?;
        maps.reconfigure(soon())?;
        assert!(maps.remove(&name("mpatha"))?);
        assert!(!maps.remove(&name("mpatha"))?);
        assert_eq!(maps.list()?, []);
        let asked = daemon.asked();
        assert!(asked.contains(&"switch map mpatha group 1".to_owned()), "{asked:?}");
    }
    Ok(())
}

#[test]
fn a_map_in_use_is_not_removed() -> Outcome {
    for generation in BOTH {
        let (daemon, _server, maps) = daemon(generation)?;
        daemon.hold("mpatha");
        let error = maps.remove(&name("mpatha")).expect_err("held");
        // The old daemon says "fail" and no more.
        assert_eq!(error.is_busy(), generation == Generation::V0_14, "{error}");
        assert_eq!(maps.list()?.len(), 1);
        daemon.release("mpatha");
        assert!(maps.remove(&name("mpatha"))?);
    }
    Ok(())
}

#[test]
fn refusals_are_told_apart() -> Outcome {
    for generation in BOTH {
        let (daemon, server, maps) = daemon(generation)?;
        let daemon = daemon.with_blacklisted("sdz").with_asker(Asker::Other);
        let client = server.client();
        assert_eq!(client.run(&Command::FailPath(path("sdb")), soon())?, Reply::NeedsRoot);
        assert_eq!(maps.list()?.len(), 1, "a question needs no root");
        let _daemon = daemon.with_asker(Asker::Root);
        assert_eq!(client.run(&Command::AddPath(path("sdz")), soon())?, Reply::Blacklisted);
        let error = maps.add_path(&path("sdz")).expect_err("excluded");
        assert!(error.to_string().contains("blacklist"), "{error}");
        let unknown = client.run(&Command::FailPath(path("sdy")), soon())?;
        let told = match generation {
            Generation::V0_14 => Reply::NotFound,
            _ => Reply::Failed(String::new()),
        };
        assert_eq!(unknown, told);
        assert_eq!(client.reservation_key(&name("mpatha"), soon())?, None);
        let expected = match generation {
            Generation::V0_14 => Version::new(0, 14, 3),
            _ => Version::new(0, 9, 4),
        };
        assert_eq!(client.version(soon())?, expected);
        assert!(client.state(soon())?.is_settled());
        assert_eq!(client.status(soon())?.paths, 2);
    }
    Ok(())
}

#[test]
fn a_busy_daemon_is_asked_again_until_the_deadline() -> Outcome {
    for generation in BOTH {
        let (daemon, server, maps) = daemon(generation)?;
        let daemon = daemon.with_mishap("show maps json", Mishap::Timeout(2));
        assert_eq!(maps.list()?.len(), 1);
        assert_eq!(daemon.asked().len(), 3);
        let _daemon = daemon.with_mishap("fail path sdb", Mishap::Timeout(u32::MAX));
        let deadline = Deadline::after(Duration::from_millis(200));
        let error = server.client().expect(&Command::FailPath(path("sdb")), deadline).expect_err("busy");
        assert!(error.is_retryable() && error.to_string().contains("a path may hang"), "{error}");
    }
    Ok(())
}

#[test]
fn a_silent_daemon_ends_at_the_deadline() -> Outcome {
    let (daemon, server, maps) = daemon(Generation::V0_9_4)?;
    let daemon = daemon
        .with_mishap("show daemon", Mishap::Late(Duration::from_secs(2)))
        .with_mishap("show status", Mishap::Half);
    let client = server.client();
    for question in [Command::ShowDaemon, Command::ShowStatus] {
        let started = Instant::now();
        let error = client.run(&question, Deadline::after(Duration::from_millis(150))).expect_err("silent");
        assert!(matches!(error, Error::TimedOut { .. }) && error.is_retryable(), "{error}");
        assert!(started.elapsed() < Duration::from_secs(1));
    }
    // Half an answer on the line is not the answer to the next question.
    assert_eq!(client.text(&Command::ShowMapsJson, soon())?, daemon_json(&daemon)?);
    assert_eq!(maps.list()?.len(), 1);
    Ok(())
}

fn daemon_json(daemon: &FakeMultipathd) -> Result<String, Error> {
    daemon.multipath().client().text(&Command::ShowMapsJson, soon())
}

#[test]
fn a_restarted_daemon_is_found_again_and_no_order_is_given_twice() -> Outcome {
    let (daemon, server, maps) = daemon(Generation::V0_9_4)?;
    assert_eq!(maps.list()?.len(), 1);
    server.hang_up();
    assert_eq!(maps.list()?.len(), 1, "a kept connection that died is replaced");
    server.hang_up();
    maps.fail_path(&path("sdb"))?;
    assert_eq!(daemon.asked().iter().filter(|c| *c == "fail path sdb").count(), 1);
    // A question whose answer was cut off is asked again, an order is not: it may have been carried out.
    let daemon =
        daemon.with_mishap("show daemon", Mishap::Cut).with_mishap("reinstate path sdb", Mishap::Cut);
    assert!(maps.client().state(soon())?.is_settled());
    let error = maps.reinstate_path(&path("sdb")).expect_err("cut off");
    assert!(matches!(error, Error::Connection { .. }), "{error}");
    assert_eq!(daemon.asked().iter().filter(|c| *c == "reinstate path sdb").count(), 1);
    drop(server);
    assert!(matches!(maps.list(), Err(Error::NoDaemon(_))));
    Ok(())
}

#[test]
fn threads_share_a_client() -> Outcome {
    let (_daemon, server, _maps) = daemon(Generation::V0_14)?;
    let client = server.client();
    let all = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let client = client.clone();
                scope.spawn(move || {
                    (0..20).all(|_| client.text(&Command::ShowMapsJson, soon()).is_ok_and(|t| t.len() > 100))
                })
            })
            .collect();
        threads.into_iter().all(|thread| thread.join().is_ok_and(|fine| fine))
    });
    assert!(all);
    Ok(())
}

#[test]
fn a_socket_in_the_file_system_serves_too() -> Outcome {
    let path = std::env::temp_dir().join(format!("sankit-multipathd-{}", std::process::id()));
    let address: Address = path.to_str().ok_or("a path")?.parse()?;
    let daemon = FakeMultipathd::new().with_map(map());
    let server = daemon.serve_at(address.clone())?;
    let client = multipath::Client::at(address.clone());
    assert_eq!(daemon.multipath().with_client(client.clone()).list()?.len(), 1);
    drop(server);
    assert!(matches!(client.version(soon()), Err(Error::NoDaemon(_))));
    assert!(!path.exists());
    Ok(())
}

#[test]
fn a_command_that_is_too_long_is_not_sent() -> Outcome {
    let (daemon, server, _maps) = daemon(Generation::V0_14)?;
    let paths = (0..100).map(|n| path(&format!("sd{n}"))).collect();
    let error = server
        .client()
        .run(&Command::SetReservationPaths(name("mpatha"), paths), soon())
        .expect_err("too long");
    assert!(error.to_string().contains("511 bytes"), "{error}");
    assert!(daemon.asked().is_empty());
    let format = "%n".repeat(150).parse()?;
    let long = Command::ShowMapsFormat(Columns::Raw, format);
    assert!(long.to_string().len() < 512 && server.client().run(&long, soon()).is_ok());
    let key = Command::SetReservationKey(name("mpatha"), ReservationKey::new(0x1234));
    assert_eq!(server.client().run(&key, soon())?, Reply::Ok);
    assert_eq!(daemon.asked().last().map(String::as_str), Some("setprkey map mpatha key 0x1234"));
    Ok(())
}

/// The fake is as strict as the daemon, or a client that passes here would fail there.
#[test]
fn the_server_drops_what_multipathd_drops() -> Outcome {
    let (_daemon, server, _maps) = daemon(Generation::V0_9_4)?;
    let Address::Abstract(name) = server.address().clone() else { panic!("an abstract name") };
    let connect = || UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name)?);
    let mut framed = 513_usize.to_ne_bytes().to_vec();
    framed.extend([b'x'; 513]);
    let empty = 0_usize.to_ne_bytes().to_vec();
    for bytes in [&framed, &empty, &vec![1, 0, 0]] {
        let mut stream = connect()?;
        stream.write_all(bytes)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let end = stream.read(&mut [0; 8]);
        let dropped = match &end {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        };
        assert!(dropped, "{end:?}");
    }
    Ok(())
}
