//! Lists multipath maps with all that they lead through: as a tree, as JSON, or drawn.
#![allow(clippy::print_stdout, clippy::print_stderr)] // It is a program.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::Parser;
use multipath::{Health, Initiator, MapTopology, Route, Topology};
use plotters::coord::Shift;
use plotters::prelude::*;

/// List multipath maps: path groups, paths, sessions, portals, network cards, and how they fare. Exit code 1 if a map is not healthy.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// As JSON instead of a tree.
    #[arg(long)]
    json: bool,
    /// Draws it into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("multipath-ls: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all maps are healthy.
fn run(cli: &Cli) -> Result<bool> {
    let topology = Initiator::new()?.topology()?;
    if let Some(path) = &cli.svg {
        draw(path, &topology).map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))?;
    }
    match cli.json {
        true => println!("{}", topology.to_json()?),
        false => print!("{topology}"),
    }
    Ok(topology.maps.iter().all(|map| map.health == Health::Healthy))
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Width and height of a box, and the room between two columns and two rows.
const BOX: (i32, i32) = (200, 44);
const GAP: (i32, i32) = (40, 12);
/// Map, path, session, portal, card.
const COLUMNS: i32 = 5;
const MARGIN: i32 = 16;

/// Left edge and middle of the box at a place; rows may lie between two.
fn place(column: i32, row: f64) -> (i32, i32) {
    #[allow(clippy::cast_possible_truncation)] // A picture of some thousand rows at most.
    let down = (row * f64::from(BOX.1 + GAP.1)) as i32;
    (MARGIN + column * (BOX.0 + GAP.0), MARGIN + down + BOX.1 / 2)
}

fn colour(good: bool) -> RGBColor {
    if good { RGBColor(44, 120, 60) } else { RGBColor(190, 40, 40) }
}

/// A box with two lines of text.
fn node(area: &Area<'_>, at: (i32, i32), lines: [&str; 2], good: bool) -> Drawn {
    let (left, middle) = at;
    let corners = [(left, middle - BOX.1 / 2), (left + BOX.0, middle + BOX.1 / 2)];
    area.draw(&Rectangle::new(corners, colour(good).stroke_width(2)))?;
    for (line, down) in lines.into_iter().zip([-16, 3]) {
        // As much as fits into the box at this size.
        let text: String = line.chars().take(34).collect();
        area.draw(&Text::new(text, (left + 6, middle + down), ("sans-serif", 11)))?;
    }
    Ok(())
}

fn line(area: &Area<'_>, from: (i32, i32), to: (i32, i32), good: bool) -> Drawn {
    area.draw(&PathElement::new([(from.0 + BOX.0, from.1), to], colour(good).stroke_width(1)))?;
    Ok(())
}

/// Draws each map with a row for each path.
fn draw(path: &Path, topology: &Topology) -> Drawn {
    let rows: usize = topology.maps.iter().map(|map| map.routes.len().max(1)).sum();
    let size =
        (2 * MARGIN + COLUMNS * (BOX.0 + GAP.0), 2 * MARGIN + i32::try_from(rows.max(1))? * (BOX.1 + GAP.1));
    let area = SVGBackend::new(path, (size.0.try_into()?, size.1.try_into()?)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut row = 0_u32;
    for map in &topology.maps {
        row += draw_map(&area, map, row)?;
    }
    area.present()?;
    Ok(())
}

/// Draws a map from this row on; returns how many rows it took.
fn draw_map(
    area: &Area<'_>,
    map: &MapTopology,
    row: u32,
) -> std::result::Result<u32, Box<dyn std::error::Error>> {
    let rows = u32::try_from(map.routes.len().max(1))?;
    let at = place(0, f64::from(row) + f64::from(rows - 1) / 2.0);
    for (n, route) in (row..).zip(&map.routes) {
        let path = place(1, n.into());
        line(area, at, path, route.works())?;
        draw_route(area, route, n)?;
    }
    node(
        area,
        at,
        [&format!("{} {}", map.map.name, map.map.node), &map.health.to_string()],
        map.health == Health::Healthy,
    )?;
    Ok(rows)
}

/// Draws a path and its way to the right of it.
fn draw_route(area: &Area<'_>, route: &Route, row: u32) -> Drawn {
    let good = route.works();
    let path = &route.path;
    let name = format!("{} {}, group {}", path.device, path.number, route.group + 1);
    node(
        area,
        place(1, row.into()),
        [&name, &format!("{} {} {}", path.state, path.checker, path.device_state)],
        good,
    )?;
    let Some(iscsi) = route.iscsi() else { return Ok(()) };
    let portal = iscsi.portal.map_or_else(|| "no portal".to_owned(), |portal| portal.to_string());
    let local = iscsi.local.map_or_else(String::new, |local| format!("from {local}"));
    let nic = iscsi.nic.as_ref().map_or_else(|| "unknown card".to_owned(), |nic| nic.name.clone());
    let ports = iscsi.nic.as_ref().map_or_else(String::new, |nic| nic.ports.join(", "));
    let session = format!("session {} {}", iscsi.session, iscsi.phase);
    for (column, lines) in
        (2..).zip([[session.as_str(), iscsi.target.as_str()], [&portal, &local], [&nic, &ports]])
    {
        line(area, place(column - 1, row.into()), place(column, row.into()), good)?;
        node(area, place(column, row.into()), lines, good)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use multipath::{IscsiRoute, MapState, Nic, PathInfo, PathState, Transport};

    #[test]
    fn every_map_path_and_portal_is_in_the_picture() {
        let route = |device: &str, portal: &str, state| {
            let target = "iqn.2026-01.a:one".parse().expect("a name");
            let iscsi = IscsiRoute::new(3, target, portal.parse().ok(), Some(Nic::new("eth7")));
            Route::new(PathInfo::new(device, "8:16", state), 0)
                .with_transport(Transport::Iscsi(Box::new(iscsi)))
        };
        let routes = vec![
            route("sdb", "10.0.0.1:3260", PathState::Active),
            route("sdc", "[fd00::1]:3260", PathState::Failed),
        ];
        let map = MapTopology::new(MapState::new("mpatha", "36001405aa", "dm-0"), vec![], routes);
        let path = std::env::temp_dir().join(format!("multipath-ls-{}.svg", std::process::id()));
        draw(&path, &Topology::new([map])).expect("is drawn");
        let text = std::fs::read_to_string(&path).expect("is there");
        std::fs::remove_file(&path).expect("is removed");
        let wanted = [
            "mpatha dm-0",
            "degraded, 1 of 2",
            "sdb 8:16",
            "sdc 8:16",
            "10.0.0.1:3260",
            "[fd00::1]:3260",
            "eth7",
            "session 3",
        ];
        for word in wanted {
            assert!(text.contains(word), "{word} is not in {text}");
        }
    }
}
