//! The table as bars: one row for each combination, writing and reading side by side.

use std::path::Path;

use anyhow::{Result, anyhow};
use luks::bench::Queues;
use plotters::prelude::*;

use crate::Measured;

/// Draws all combinations into an SVG file.
pub(crate) fn draw(path: &Path, device: &str, measured: &[Measured]) -> Result<()> {
    bars(path, device, measured).map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
}

fn bars(path: &Path, device: &str, measured: &[Measured]) -> Result<(), Box<dyn std::error::Error>> {
    let speeds = measured.iter().flat_map(|m| [m.throughput.write, m.throughput.read]);
    let largest = speeds.fold(1.0_f64, f64::max);
    let count = u32::try_from(measured.len())?;
    let area = SVGBackend::new(path, (1100, 110 + 34 * count)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("dm-crypt over {device}: longer is better"), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        // Names at the left, bars at the right of 0.
        .build_cartesian_2d(-largest * 0.8..largest * 1.1, 0.0..f64::from(count))?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(WHITE)
        .x_desc("MiB/s")
        .draw()?;
    let colours = [(RGBColor(31, 119, 180), "write"), (RGBColor(255, 127, 14), "read")];
    for (side, (colour, label)) in colours.into_iter().enumerate() {
        let bars = (1_u32..).zip(measured).map(|(place, one)| {
            let top = f64::from(count - place) + if side == 0 { 0.85 } else { 0.47 };
            let length = if side == 0 { one.throughput.write } else { one.throughput.read };
            Rectangle::new([(0.0, top - 0.36), (length, top)], colour.filled())
        });
        chart
            .draw_series(bars)?
            .label(label)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled()));
    }
    let names = (1_u32..).zip(measured).map(|(place, one)| {
        let options = if one.way.queues == Queues::All { "default" } else { one.way.queues.options() };
        let name = format!("{}, {} B, {options}", one.way.cipher, one.way.sector_size);
        Text::new(
            name.replace("--perf-", ""),
            (-largest * 0.79, f64::from(count - place) + 0.65),
            ("sans-serif", 12),
        )
    });
    chart.draw_series(names)?;
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use luks::bench::{Cipher, Throughput, Way};

    #[test]
    fn each_combination_is_in_the_plot() {
        let one = |queues| Measured {
            way: Way::new(Cipher::ALL[0], 4096, queues),
            throughput: Throughput::new(900.0, 1100.0),
            rounds: vec![Throughput::new(900.0, 1100.0)],
        };
        let path = std::env::temp_dir().join(format!("crypt-bench-{}.svg", std::process::id()));
        draw(&path, "a disk", &[one(Queues::All), one(Queues::None)]).expect("is drawn");
        let text = std::fs::read_to_string(&path).expect("is there");
        std::fs::remove_file(&path).expect("is removed");
        assert!(
            text.contains("4096 B, default") && text.contains("no_read_workqueue no_write_workqueue"),
            "{text}"
        );
    }
}
