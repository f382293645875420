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
    // No background, and colours that can be seen on a light one and on a dark one.
    const TEXT: RGBColor = RGBColor(128, 128, 128);
    const ERROR: RGBColor = RGBColor(46, 134, 222);
    const INTERVAL: RGBColor = RGBColor(46, 160, 67);
    const EVENT: RGBColor = RGBColor(224, 72, 72);
    let font = |size: u32| ("sans-serif", size).into_font().color(&TEXT);
    let root = SVGBackend::new(path, (1000, 480)).into_drawing_area();
    let end = points.iter().map(|point| point.at).fold(1.0, f64::max);
    let extreme = points.iter().map(|point| point.bound.max(point.error.abs())).fold(100.0, f64::max);
    // Room for the names of what happened.
    let top = squeezed(extreme).ceil() + 0.9;
    let mut chart = ChartBuilder::on(&root)
        .caption("A guest's clock through everything that happens to it: error, and the interval it states", font(17))
        .margin(10)
        .x_label_area_size(38)
        .y_label_area_size(62)
        .build_cartesian_2d(0.0..end, -top..top)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // some ten
    let labels = 2 * top as usize + 1;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_labels(labels)
        .y_label_formatter(&|height| nanos_at(*height))
        .label_style(font(12))
        .axis_desc_style(font(13))
        .axis_style(TEXT.mix(0.6))
        .bold_line_style(TEXT.mix(0.2))
        .light_line_style(TRANSPARENT)
        .draw()?;

    let bound = |sign: f64| move |point: &Point| (point.at, squeezed(sign * point.bound));
    let outline = points.iter().map(bound(1.0)).chain(points.iter().rev().map(bound(-1.0)));
    chart
        .draw_series([Polygon::new(outline.collect::<Vec<_>>(), INTERVAL.mix(0.25))])?
        .label("the interval that the page states")
        .legend(|(x, y)| Rectangle::new([(x, y - 4), (x + 16, y + 4)], INTERVAL.mix(0.25).filled()));
    let error = points.iter().map(|point| (point.at, squeezed(point.error)));
    chart
        .draw_series(LineSeries::new(error, ERROR))?
        .label("the error of its time")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], ERROR));
    for (row, mark) in marks.iter().filter(|mark| mark.at <= end).enumerate() {
        chart.draw_series([PathElement::new([(mark.at, -top), (mark.at, top)], EVENT.mix(0.6))])?;
        #[allow(clippy::cast_precision_loss)] // one of two
        let height = top - 0.05 - 0.4 * (row % 2) as f64;
        let name =
            Text::new(format!(" {}", mark.name), (mark.at, height), ("sans-serif", 13).into_font().color(&EVENT));
        chart.draw_series([name])?;
    }
    chart.configure_series_labels().label_font(font(13)).position(SeriesLabelPosition::LowerRight).draw()?;
    root.present()?;
    Ok(())
}

/// The height of so many nanoseconds: their logarithm, but a line through zero below ten. Errors of nanoseconds can be
/// seen so inside an interval of microseconds.
fn squeezed(nanos: f64) -> f64 {
    let magnitude = nanos.abs();
    let height = if magnitude < 10.0 { magnitude / 10.0 } else { magnitude.log10() };
    height.copysign(nanos)
}

/// What is at a height, where that is a power of ten.
fn nanos_at(height: f64) -> String {
    #[allow(clippy::cast_possible_truncation)] // some ten
    let power = height.abs().round() as i32;
    let sign = if height < 0.0 { "-" } else { "" };
    match power {
        0 => "0".to_owned(),
        1..=2 => format!("{sign}{} ns", 10f64.powi(power)),
        3..=5 => format!("{sign}{} us", 10f64.powi(power - 3)),
        6..=8 => format!("{sign}{} ms", 10f64.powi(power - 6)),
        _ => format!("{sign}{} s", 10f64.powi(power - 9)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_are_labelled_with_what_is_there() {
        for (nanos, label) in [(0.0, "0"), (100.0, "100 ns"), (-1e4, "-10 us"), (1e6, "1 ms"), (-1e9, "-1 s")] {
            assert_eq!(nanos_at(squeezed(nanos)), label);
        }
        assert!(squeezed(5.0) < squeezed(9.9) && squeezed(9.9) < squeezed(10.1) && squeezed(-20.0) < squeezed(-2.0));
    }
}
