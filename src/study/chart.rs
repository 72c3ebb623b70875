//! Line charts as SVG, drawn by `plotters`.
//!
//! Axes and text are pure black on nothing, and series take the colours of
//! [`COLOURS`]: a page may paint both anew by attribute selectors, which is how
//! the report follows a dark screen. The legend lies on white, to be painted likewise.

use std::ops::Range;

use plotters::prelude::*;

/// Colours that people with any colour vision tell apart (Okabe and Ito), one a
/// series.
pub const COLOURS: [&str; 7] = [
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F",
];

/// One line of a chart.
#[derive(Clone, Debug)]
pub struct Series {
    /// In the legend; without it the line is not in it.
    pub name: Option<String>,
    /// Which of [`COLOURS`], counted round.
    pub colour: usize,
    /// Thin and pale, for what is only compared with.
    pub is_faint: bool,
    /// Draws a dot at every point as well.
    pub has_dots: bool,
    /// In order of x.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// A plain line with a name.
    pub fn line(name: impl Into<String>, colour: usize, points: Vec<(f64, f64)>) -> Self {
        Self {
            name: Some(name.into()),
            colour,
            is_faint: false,
            has_dots: false,
            points,
        }
    }

    /// A faint line without a name.
    pub fn faint(colour: usize, points: Vec<(f64, f64)>) -> Self {
        Self {
            name: None,
            colour,
            is_faint: true,
            has_dots: false,
            points,
        }
    }
}

/// A chart to be drawn.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    /// Pixels across and down.
    pub size: (u32, u32),
    /// What x is.
    pub x_label: &'a str,
    /// What y is.
    pub y_label: &'a str,
    /// From and to.
    pub x: Range<f64>,
    /// From and to.
    pub y: Range<f64>,
    /// Lines, drawn in order.
    pub series: &'a [Series],
}

impl Chart<'_> {
    /// The chart as an `<svg>` element; points that are not finite are left out.
    /// Empty if the ranges are.
    pub fn to_svg(&self) -> String {
        let mut text = String::new();
        let area = SVGBackend::with_string(&mut text, self.size).into_drawing_area();
        // Writing to a string does not fail; an empty range gives an empty chart.
        let drawn = self.draw(&area);
        drop(area);
        if drawn.is_err() {
            return String::new();
        }
        text
    }

    fn draw(
        &self,
        area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let range = |range: &Range<f64>| {
            let fine = range.start.is_finite() && range.end.is_finite() && range.start < range.end;
            if fine { range.clone() } else { 0.0..1.0 }
        };
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(38)
            .y_label_area_size(48)
            .build_cartesian_2d(range(&self.x), range(&self.y))?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .axis_style(BLACK.mix(0.6))
            .x_desc(self.x_label)
            .y_desc(self.y_label)
            .label_style(("sans-serif", 12))
            .axis_desc_style(("sans-serif", 13))
            .x_labels(6)
            .y_labels(6)
            .draw()?;
        let mut has_legend = false;
        for series in self.series {
            let colour = colour(series.colour);
            let style = ShapeStyle {
                color: colour.mix(if series.is_faint { 0.3 } else { 1.0 }),
                filled: false,
                stroke_width: if series.is_faint { 1 } else { 2 },
            };
            let points = series.points.iter().copied();
            let points: Vec<_> = points
                .filter(|(x, y)| x.is_finite() && y.is_finite())
                .collect();
            if series.has_dots {
                let dots = points.iter().map(|&at| Circle::new(at, 3, colour.filled()));
                chart.draw_series(dots)?;
            }
            let drawn = chart.draw_series(LineSeries::new(points, style))?;
            if let Some(name) = &series.name {
                has_legend = true;
                drawn.label(name.clone()).legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3))
                });
            }
        }
        if has_legend {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::LowerRight)
                .label_font(("sans-serif", 12))
                // Lines may run below it.
                .background_style(WHITE.mix(0.85))
                .margin(6)
                .draw()?;
        }
        area.present()?;
        Ok(())
    }
}

fn colour(number: usize) -> RGBColor {
    let text = COLOURS[number % COLOURS.len()];
    let part = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap_or_default();
    RGBColor(part(1), part(3), part(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_shows_its_lines_and_bears_nonsense() {
        let line = Series::line("3D-CNN <", 0, vec![(0.0, 0.0), (f64::NAN, 1.0), (1.0, 1.0)]);
        let chart = Chart {
            size: (300, 200),
            x_label: "x",
            y_label: "y",
            x: 0.0..1.0,
            y: 0.0..1.0,
            series: &[line],
        };
        let svg = chart.to_svg();
        assert!(svg.starts_with("<svg") && svg.contains(COLOURS[0]), "{svg}");
        assert!(svg.contains("3D-CNN &lt;"), "{svg}");
        assert!(!svg.contains("NaN"));
        let empty = Chart {
            x: 1.0..1.0,
            y: f64::NAN..0.0,
            ..chart
        };
        assert!(empty.to_svg().starts_with("<svg"));
    }
}
