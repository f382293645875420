// SPDX-License-Identifier: MIT OR Apache-2.0
//! The clock's error over the demo, as a picture.

use std::path::Path;

use anyhow::anyhow;
use plotters::prelude::*;

/// One comparison with the machine's clock.
pub(super) struct Point {
    /// Seconds since the start.
    pub(super) at: f64,
    /// How far the page's time is ahead, in nanoseconds.
    pub(super) error: f64,
    /// The page's own bound, in ± nanoseconds.
    pub(super) bound: f64,
    /// Whether the machine's clock was inside the interval.
    pub(super) inside: bool,
}

/// When something happened.
pub(super) struct Mark {
    pub(super) at: f64,
    pub(super) name: &'static str,
}

pub(super) fn draw(path: &Path, points: &[Point], marks: &[Mark]) -> anyhow::Result<()> {
    try_draw(path, points, marks).map_err(|error| anyhow!("{}: cannot draw: {error}", path.display()))
}

fn try_draw(path: &Path, points: &[Point], marks: &[Mark]) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, (1000, 500)).into_drawing_area();
    root.fill(&WHITE)?;
    let end = points.iter().map(|point| point.at).fold(1.0, f64::max);
    let extreme = points.iter().map(|point| point.bound.max(point.error.abs())).fold(100.0, f64::max) * 1.15;
    let mut chart = ChartBuilder::on(&root)
        .caption("error of the page's time against the machine's clock, and its interval", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..end, -extreme..extreme)?;
    chart.configure_mesh().x_desc("seconds").y_desc("nanoseconds").light_line_style(WHITE).draw()?;

    let upper = points.iter().map(|point| (point.at, point.bound));
    let lower = points.iter().rev().map(|point| (point.at, -point.bound));
    let interval = Polygon::new(upper.chain(lower).collect::<Vec<_>>(), BLUE.mix(0.15));
    chart
        .draw_series([interval])?
        .label("interval")
        .legend(|(x, y)| Rectangle::new([(x, y - 4), (x + 16, y + 4)], BLUE.mix(0.15).filled()));
    let error = points.iter().map(|point| (point.at, point.error));
    chart
        .draw_series(LineSeries::new(error, BLUE))?
        .label("error")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLUE));
    for (row, mark) in marks.iter().filter(|mark| mark.at <= end).enumerate() {
        chart.draw_series([PathElement::new([(mark.at, -extreme), (mark.at, extreme)], RED.mix(0.5))])?;
        #[allow(clippy::cast_precision_loss)] // a handful
        let height = extreme * (0.95 - 0.08 * (row % 4) as f64);
        chart.draw_series([Text::new(
            format!(" {}", mark.name),
            (mark.at, height),
            ("sans-serif", 13).into_font().color(&RED),
        )])?;
    }
    chart
        .configure_series_labels()
        .border_style(BLACK.mix(0.3))
        .background_style(WHITE)
        .position(SeriesLabelPosition::LowerRight)
        .draw()?;
    root.present()?;
    Ok(())
}
