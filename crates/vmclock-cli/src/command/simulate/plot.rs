// SPDX-License-Identifier: MIT OR Apache-2.0
//! The clock's error over a run, and the interval around it, as a picture.

use std::path::Path;

use anyhow::anyhow;
use plotters::prelude::*;

use vmclock_sim::Point;

/// More points than this would not be seen.
const SHOWN: usize = 4_000;

pub(super) fn draw(path: &Path, caption: &str, points: &[Point]) -> anyhow::Result<()> {
    try_draw(path, caption, points).map_err(|error| anyhow!("{error}"))
}

fn try_draw(path: &Path, caption: &str, points: &[Point]) -> Result<(), Box<dyn std::error::Error>> {
    // Of each stretch the worst, so that nothing is hidden.
    let stretch = points.len().div_ceil(SHOWN).max(1);
    let worst =
        |points: &[Point]| points.iter().copied().reduce(|a, b| if b.error.abs() > a.error.abs() { b } else { a });
    let points: Vec<Point> = points.chunks(stretch).filter_map(worst).collect();
    let root = SVGBackend::new(path, (1000, 500)).into_drawing_area();
    root.fill(&WHITE)?;
    let end = points.iter().map(|point| point.hours).fold(1.0, f64::max);
    let extreme = points.iter().map(|point| point.bound.max(point.error.abs())).fold(100.0, f64::max) * 1.1 / 1e3;
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("{caption}: error and interval"), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..end, -extreme..extreme)?;
    chart.configure_mesh().x_desc("hours").y_desc("microseconds").light_line_style(WHITE).draw()?;
    let upper = points.iter().map(|point| (point.hours, point.bound / 1e3));
    let lower = points.iter().rev().map(|point| (point.hours, -point.bound / 1e3));
    chart.draw_series([Polygon::new(upper.chain(lower).collect::<Vec<_>>(), BLUE.mix(0.15))])?;
    chart.draw_series(LineSeries::new(points.iter().map(|point| (point.hours, point.error / 1e3)), BLUE))?;
    root.present()?;
    Ok(())
}
