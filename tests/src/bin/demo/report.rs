//! The report: the picture of the chain, the plot of latency over time with the events in it, and the versions of all that took part.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::Event;
use crate::cluster::Cluster;
use crate::judge::Journal;

/// The picture of the chain, disk to hypervisor.
const CHAIN: &str = include_str!("chain.svg");

/// Names and versions of what took part.
pub(crate) fn versions(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let ask = |what: &str, script: &str| -> Result<(String, String)> {
        Ok((what.to_owned(), cluster.hv.sh(script)?.trim().replace('\n', ", ")))
    };
    Ok(vec![
        ask("kernel", "uname -r")?,
        ask("multipath-tools", "dpkg-query -W -f '${Version}' multipath-tools")?,
        ask("open-iscsi", "dpkg-query -W -f '${Version}' open-iscsi")?,
        ask("libcryptsetup", "dpkg-query -W -f '${Version}' libcryptsetup12")?,
        ("DRBD".to_owned(), cluster.nodes[0].sh("head -1 /proc/drbd")?.trim().to_owned()),
        ("LIO".to_owned(), cluster.nodes[0].sh("cat /sys/kernel/config/target/version")?.trim().to_owned()),
        ("sankit".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ])
}

/// Writes `index.html`, `chain.svg` and `latency.svg`; returns the page.
pub(crate) fn write(
    out: &Path,
    journals: &[Journal],
    moves: &[Event],
    kills: &[Event],
    versions: &[(String, String)],
    started: Instant,
) -> Result<PathBuf> {
    let plot = out.join("latency.svg");
    draw(&plot, journals, moves, kills, started)
        .map_err(|e| anyhow!("cannot draw {}: {e}", plot.display()))?;
    std::fs::write(out.join("chain.svg"), CHAIN)?;
    let row = |cells: &[&str]| {
        let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let events: String =
        moves.iter().chain(kills).map(|event| row(&[&event.what, &format!("{:.2} s", event.gap)])).collect();
    let versions: String = versions.iter().map(|(name, version)| row(&[name, version])).collect();
    let latency = std::fs::read_to_string(&plot)?;
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>sankit demo</title>\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1b2430}}\
         td{{padding:.2rem 1.5rem .2rem 0;border-bottom:1px solid #dde3ea}}h2{{margin-top:2.5rem}}svg{{max-width:100%;height:auto}}</style>\n\
         <h1>sankit demo</h1><p>Two storage nodes and a hypervisor: planned moves and power cuts of the serving node under two writers \
         (4&nbsp;KiB, O_DIRECT|O_SYNC, every 20&nbsp;ms).</p>\n<h2>The chain</h2>{CHAIN}\n<h2>Latency at the writers</h2>{latency}\n\
         <h2>How long the writer waited</h2><table>{events}</table>\n<h2>What took part</h2><table>{versions}</table></html>\n"
    );
    let path = out.join("index.html");
    std::fs::write(&path, page)?;
    Ok(path)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(path: &Path, journals: &[Journal], moves: &[Event], kills: &[Event], started: Instant) -> Drawn {
    let since = |at: Instant| at.saturating_duration_since(started).as_secs_f64();
    let points: Vec<Vec<(f64, f64)>> = journals
        .iter()
        .map(|j| j.acknowledged().map(|(at, _, _, nanos)| (since(at), seconds(nanos).max(1e-4))).collect())
        .collect();
    let times = points.iter().flatten().map(|(x, _)| *x);
    let (first, last) = times.fold((f64::MAX, 0.0_f64), |(a, b), x| (a.min(x), b.max(x)));
    let area = SVGBackend::new(path, (1000, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(first.min(last)..last.max(first + 1.0), (1e-3..20.0_f64).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("seconds")
        .y_desc("time of a write in seconds")
        .y_label_formatter(&|y| format!("{y}"))
        .draw()?;
    let blue = RGBColor(31, 119, 180);
    let orange = RGBColor(255, 127, 14);
    for ((series, colour), name) in points.iter().zip([blue, orange]).zip(["unit 1", "unit 2"]) {
        chart
            .draw_series(series.iter().map(|point| Circle::new(*point, 1, colour.filled())))?
            .label(name)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
    }
    for (events, colour, name) in
        [(moves, RGBColor(44, 160, 44), "planned move"), (kills, RGBColor(214, 39, 40), "power cut")]
    {
        let lines = events.iter().map(|e| {
            PathElement::new(vec![(since(e.at), 1e-3), (since(e.at), 20.0)], colour.stroke_width(2))
        });
        chart
            .draw_series(lines)?
            .label(name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // A picture.
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
