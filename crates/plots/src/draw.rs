//! Draws a plot on a backend of plotters.

use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::element::{Circle, EmptyElement, PathElement, Rectangle, Text, TriangleMarker};
use plotters::prelude::{DrawingArea, DrawingAreaErrorKind, DrawingBackend, IntoFont, LineSeries, ShapeStyle};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{BLACK, Color, FontStyle, RGBColor, TRANSPARENT, TextStyle, WHITE, register_font};

use crate::axis::Axis;

/// The letters of plots, so that they need no font of the system. `fonts/LICENSE` is its licence.
const FONT: &[u8] = include_bytes!("../fonts/DejaVuSans-subset.ttf");

/// The name of the font: in an SVG, the viewer's font of this kind.
const FAMILY: &str = "sans-serif";

/// Colours that people with any colour vision can tell apart (Okabe and Ito 2008), without yellow.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];

const GRID: RGBColor = RGBColor(220, 220, 220);
const TITLE_SIZE: u32 = 24;
const NAME_SIZE: u32 = 20;
const LABEL_SIZE: u32 = 17;
const MARK_SIZE: i32 = 4;
const MARGIN: i32 = 14;

/// The length of the line before a name of the legend, and the height of its rows, in pixels.
const LEGEND_LINE: i32 = 26;
const LEGEND_ROW: i32 = 26;

/// What is drawn, with positions in place of values.
pub(crate) struct Drawing<'a> {
    pub(crate) title: &'a str,
    /// The names of x and y.
    pub(crate) names: [&'a str; 2],
    /// The axes of x and y.
    pub(crate) axes: [Axis; 2],
    pub(crate) series: Vec<DrawnSeries<'a>>,
}

/// A series: x, y and the label of each point.
pub(crate) struct DrawnSeries<'a> {
    pub(crate) name: &'a str,
    pub(crate) points: Vec<(f64, f64, &'a str)>,
}

type Failure<DB> = DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>;

impl Drawing<'_> {
    /// Draws everything.
    ///
    /// # Errors
    /// What the backend cannot do.
    pub(crate) fn draw<DB: DrawingBackend>(&self, root: &DrawingArea<DB, Shift>) -> Result<(), Failure<DB>> {
        // The font is part of the program and valid. Without it, layout is refused below.
        let _ = register_font(FAMILY, FontStyle::Normal, FONT);
        root.fill(&WHITE)?;
        let legend = self.legend_width(root)?;
        let (width, _) = root.dim_in_pixel();
        let (plot, side) = root.split_horizontally(width as i32 - legend);
        let [x, y] = &self.axes;
        let mut chart = ChartBuilder::on(&plot)
            .caption(self.title, text(TITLE_SIZE))
            .margin(MARGIN)
            .x_label_area_size(56)
            .y_label_area_size(84)
            .build_cartesian_2d(x.clone(), y.clone())?;
        chart
            .configure_mesh()
            .x_desc(self.names[0])
            .y_desc(self.names[1])
            .axis_desc_style(text(NAME_SIZE))
            .label_style(text(LABEL_SIZE))
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let line = series.points.iter().map(|&(x, y, _)| (x, y));
            chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))?;
            let places = || series.points.iter().map(|&(x, y, _)| (x, y));
            // Each time that the colours repeat, the marks change.
            match index / COLOURS.len() % 3 {
                0 => chart.draw_series(places().map(|at| Circle::new(at, MARK_SIZE, colour.filled())))?,
                1 => chart.draw_series(places().map(|at| TriangleMarker::new(at, MARK_SIZE + 2, colour.filled())))?,
                _ => chart.draw_series(places().map(|at| EmptyElement::at(at) + square(colour)))?,
            };
            let style = text(LABEL_SIZE).color(&colour);
            let labels = series.points.iter().filter(|(.., label)| !label.is_empty());
            chart.draw_series(labels.map(|&(x, y, label)| {
                EmptyElement::at((x, y)) + Text::new(label.to_owned(), (MARK_SIZE + 3, -MARK_SIZE - 16), style.clone())
            }))?;
        }
        if legend > 0 {
            self.draw_legend(&side)?;
        }
        root.present()
    }

    /// Returns the width of the legend in pixels, 0 for a single series.
    fn legend_width<DB: DrawingBackend>(&self, root: &DrawingArea<DB, Shift>) -> Result<i32, Failure<DB>> {
        if self.series.len() < 2 {
            return Ok(0);
        }
        let mut widest = 0;
        for series in &self.series {
            widest = widest.max(root.estimate_text_size(series.name, &text(LABEL_SIZE))?.0);
        }
        let (width, _) = root.dim_in_pixel();
        Ok((widest as i32 + LEGEND_LINE + 3 * MARGIN).min(width as i32 / 2))
    }

    /// Draws the legend, a row for each series.
    fn draw_legend<DB: DrawingBackend>(&self, side: &DrawingArea<DB, Shift>) -> Result<(), Failure<DB>> {
        let style = text(LABEL_SIZE).pos(Pos::new(HPos::Left, VPos::Center));
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let y = MARGIN + TITLE_SIZE as i32 + LEGEND_ROW * (index as i32 + 1);
            side.draw(&PathElement::new(vec![(0, y), (LEGEND_LINE, y)], colour.stroke_width(2)))?;
            let at = (LEGEND_LINE / 2, y);
            match index / COLOURS.len() % 3 {
                0 => side.draw(&Circle::new(at, MARK_SIZE, colour.filled()))?,
                1 => side.draw(&TriangleMarker::new(at, MARK_SIZE + 2, colour.filled()))?,
                _ => side.draw(&(EmptyElement::at(at) + square(colour)))?,
            }
            side.draw(&Text::new(series.name.to_owned(), (LEGEND_LINE + MARGIN / 2, y), style.clone()))?;
        }
        Ok(())
    }
}

/// Returns a filled square around a point.
fn square(colour: RGBColor) -> Rectangle<(i32, i32)> {
    Rectangle::new([(-MARK_SIZE, -MARK_SIZE), (MARK_SIZE, MARK_SIZE)], ShapeStyle::from(colour).filled())
}

/// Returns black text of a size in pixels.
fn text(size: u32) -> TextStyle<'static> {
    (FAMILY, size).into_font().color(&BLACK)
}
