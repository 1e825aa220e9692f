//! What came out: a table on the terminal, `summary.tsv`, and a plot of each group.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

use crate::Goal;

/// One comparison: medians of both sides in the unit that stands in the name, less is better.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) goal: f64,
    /// `None` if it could not be run.
    pub(crate) medians: Option<(f64, f64)>,
}

impl Row {
    /// Of the runs of both sides.
    pub(crate) fn new(goal: &Goal, ours: &[f64], peer: &[f64]) -> Self {
        Self { medians: median(ours).zip(median(peer)), ..Self::failed(goal) }
    }

    /// One that could not be run.
    pub(crate) fn failed(goal: &Goal) -> Self {
        Self { name: goal.name.to_owned(), goal: goal.ratio, medians: None }
    }

    fn ratio(&self) -> Option<f64> {
        self.medians.filter(|(ours, _)| *ours > 0.0).map(|(ours, peer)| peer / ours)
    }

    pub(crate) fn ok(&self) -> bool {
        self.ratio().is_some_and(|ratio| ratio >= self.goal)
    }

    fn cells(&self) -> [String; 6] {
        let number = |n: Option<f64>| n.map_or_else(|| "-".to_owned(), |n| format!("{n:.2}"));
        [
            self.name.clone(),
            number(self.medians.map(|m| m.0)),
            number(self.medians.map(|m| m.1)),
            number(self.ratio()),
            format!("{:.2}", self.goal),
            if self.ok() { "yes" } else { "no" }.to_owned(),
        ]
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => sorted.get(middle.checked_sub(1)?).zip(sorted.get(middle)).map(|(a, b)| f64::midpoint(*a, *b)),
        _ => sorted.get(middle).copied(),
    }
}

const HEAD: [&str; 6] = ["name", "ours", "peer", "ratio", "goal", "ok"];

/// Writes `summary.tsv`.
pub(crate) fn summary(path: &Path, rows: &[Row]) -> Result<()> {
    let mut text = HEAD.join("\t") + "\n";
    rows.iter().for_each(|row| text.push_str(&(row.cells().join("\t") + "\n")));
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Prints the table.
pub(crate) fn table(rows: &[Row]) {
    let cells: Vec<[String; 6]> = rows.iter().map(Row::cells).collect();
    let widest = cells.iter().map(|row| row[0].len()).max().unwrap_or(0).max(4);
    let line = |[name, ours, peer, ratio, goal, ok]: &[String; 6]| {
        let mut text = format!("{name:<widest$}");
        for cell in [ours, peer, ratio, goal] {
            // Writing to a String cannot fail.
            let _ = write!(text, " {cell:>10}");
        }
        println!("{text} {ok:>4}");
    };
    line(&HEAD.map(str::to_owned));
    cells.iter().for_each(line);
}

/// Draws both medians of each row as bars.
pub(crate) fn plot(path: &Path, group: &str, rows: &[Row]) -> Result<()> {
    draw(path, group, rows).map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
}

fn draw(path: &Path, group: &str, rows: &[Row]) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let largest = rows.iter().filter_map(|row| row.medians).map(|(a, b)| a.max(b)).fold(1.0_f64, f64::max);
    let count = u32::try_from(rows.len())?;
    let area = SVGBackend::new(path, (1100, 110 + 70 * count)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("{group}: medians, shorter is better"), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .build_cartesian_2d(0.0..largest * 1.25, 0.0..f64::from(count))?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(WHITE)
        .x_desc("milliseconds")
        .draw()?;
    let colours = [RGBColor(31, 119, 180), RGBColor(255, 127, 14)];
    for (side, (colour, label)) in colours.iter().zip(["sankit", "Debian's tools"]).enumerate() {
        let colour = *colour;
        let bars = (1_u32..).zip(rows).map(|(place, row)| {
            // The first row on top; ours above the peer's.
            let top = f64::from(count - place) + if side == 0 { 0.68 } else { 0.40 };
            let length = row.medians.map_or(0.0, |(ours, peer)| if side == 0 { ours } else { peer });
            Rectangle::new([(0.0, top - 0.26), (length, top)], colour.filled())
        });
        chart
            .draw_series(bars)?
            .label(label)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled()));
    }
    let texts = (1_u32..).zip(rows).map(|(place, row)| {
        let figures = match (row.medians, row.ratio()) {
            (Some((ours, peer)), Some(ratio)) => format!("{ours:.1} against {peer:.1}, {ratio:.1} times"),
            _ => "could not be run".to_owned(),
        };
        let at = (largest * 0.005, f64::from(count - place) + 0.95);
        Text::new(format!("{}: {figures}", row.name), at, ("sans-serif", 14))
    });
    chart.draw_series(texts)?;
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}

/// How many milliseconds a piece of work takes.
pub(crate) fn timed(f: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = std::time::Instant::now();
    f()?;
    Ok(started.elapsed().as_secs_f64() * 1000.0)
}

/// Tells the host, from a guest, what one side took.
pub(crate) fn say(goal: &Goal, side: &str, value: f64) {
    println!("{}\t{side}\t{value}", goal.name);
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOAL: Goal = Goal { name: "a row, ms", ratio: 3.0 };

    #[test]
    fn a_row_is_judged_by_its_medians() {
        let row = Row::new(&GOAL, &[1.0, 9.0, 2.0, 3.0, 2.0], &[6.0, 6.0, 5.0, 90.0, 7.0]);
        assert_eq!(row.medians, Some((2.0, 6.0)));
        assert_eq!(row.cells()[1..], ["2.00", "6.00", "3.00", "3.00", "yes"]);
        assert!(!Row::new(&GOAL, &[2.0], &[5.9]).ok());
    }

    #[test]
    fn a_row_that_did_not_run_is_no() {
        let row = Row::failed(&GOAL);
        assert_eq!(row.cells(), ["a row, ms", "-", "-", "-", "3.00", "no"]);
        assert!(!Row::new(&GOAL, &[], &[1.0]).ok());
    }

    #[test]
    fn the_plot_shows_each_row() {
        let path = std::env::temp_dir().join(format!("bench-{}.svg", std::process::id()));
        plot(&path, "node", &[Row::new(&GOAL, &[1.0], &[4.0]), Row::failed(&GOAL)]).expect("is drawn");
        let text = std::fs::read_to_string(&path).expect("is there");
        std::fs::remove_file(&path).expect("is removed");
        assert!(text.contains("1.0 against 4.0, 4.0 times") && text.contains("could not be run"), "{text}");
    }
}
