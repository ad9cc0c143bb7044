//! Plots as SVG elements within a page, whose style sheet sets their colours.

use std::fmt::Write as _;

use crate::axis::Axis;
use crate::error::Error;
use crate::plot::LinePlot;

/// The size of the plot in units, which are pixels if the page shows it in this width.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 260.0;
/// The space for labels: above, right, below, left.
const MARGINS: [f64; 4] = [12.0, 16.0, 28.0, 62.0];
/// Two labels of the axis of x are at least this far apart.
const LABEL_WIDTH: f64 = 56.0;

impl LinePlot {
    /// Returns the plot as an `svg` element. Its parts have the classes `grid`, `label`, and `line-0`, `line-1` and so on
    /// for the series, by which a style sheet sets their colours. The title is its name for screen readers. It has no
    /// legend, no marks, and no labels of points. A point that cannot be drawn interrupts the line.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Labels`], [`Error::Range`].
    pub fn inline_svg(&self) -> Result<String, Error> {
        let drawing = self.drawing()?;
        let mut text = format!(
            "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            escape(&self.title)
        );
        write_axes(&mut text, &drawing.axes);
        for (index, series) in self.series.iter().enumerate() {
            let place = |&(x, y): &(f64, f64)| self.has_place(&(x, y)).then(|| on_page(&drawing.axes, x, y));
            let path = path(series.points.iter().map(place));
            let _ = writeln!(text, "<path class=\"line-{index}\" d=\"{path}\"/>");
        }
        text.push_str("</svg>\n");
        Ok(text)
    }
}

/// Returns text as it may stand in XML, in an attribute too.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn on_page([x_axis, y_axis]: &[Axis; 2], x: f64, y: f64) -> [f64; 2] {
    [x_on_page(x_axis, x_axis.position(x)), y_on_page(y_axis, y_axis.position(y))]
}

fn share(axis: &Axis, position: f64) -> f64 {
    let [low, high] = axis.range;
    (position - low) / (high - low)
}

fn x_on_page(axis: &Axis, position: f64) -> f64 {
    let [_, right, _, left] = MARGINS;
    left + share(axis, position) * (WIDTH - left - right)
}

fn y_on_page(axis: &Axis, position: f64) -> f64 {
    let [above, _, below, _] = MARGINS;
    HEIGHT - below - share(axis, position) * (HEIGHT - above - below)
}

fn write_axes(text: &mut String, [x_axis, y_axis]: &[Axis; 2]) {
    let [above, right, below, left] = MARGINS;
    let bottom = HEIGHT - below;
    for &tick in every_other(&y_axis.ticks) {
        let y = y_on_page(y_axis, tick);
        let _ = writeln!(text, "<path class=\"grid\" d=\"M{left} {y:.1}H{}\"/>", WIDTH - right);
        let label = escape(&y_axis.label(tick));
        let _ = writeln!(
            text,
            "<text class=\"label\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            left - 6.0,
            y + 4.0
        );
    }
    let mut free_from = f64::NEG_INFINITY;
    for &tick in &x_axis.ticks {
        let x = x_on_page(x_axis, tick);
        let _ = writeln!(text, "<path class=\"grid\" d=\"M{x:.1} {above}V{bottom}\"/>");
        if x < free_from {
            continue;
        }
        free_from = x + LABEL_WIDTH;
        let label = escape(&x_axis.label(tick));
        let _ = writeln!(
            text,
            "<text class=\"label\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            bottom + 18.0
        );
    }
}

/// Returns all ticks, or each second one if there are many.
fn every_other(ticks: &[f64]) -> impl Iterator<Item = &f64> {
    ticks.iter().step_by(if ticks.len() > 7 { 2 } else { 1 })
}

/// Returns the data of a path through the points. A missing point interrupts it.
fn path(points: impl Iterator<Item = Option<[f64; 2]>>) -> String {
    let mut data = String::new();
    let mut is_broken = true;
    for point in points {
        if let Some([x, y]) = point {
            let _ = write!(data, "{}{x:.1} {y:.1}", if is_broken { 'M' } else { 'L' });
        }
        is_broken = point.is_none();
    }
    data
}
