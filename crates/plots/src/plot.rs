//! Plots and their series.

use std::io::Write;
use std::path::Path;

use admiral_contract::files::replace;
use admiral_png::encode;
use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::drawing::IntoDrawingArea;

use crate::axis::Axis;
use crate::draw::{Drawing, DrawnSeries};
use crate::error::Error;

/// The width and the height of a plot in pixels.
const SIZE: (u32, u32) = (960, 600);

/// A plot of series of points.
#[derive(Debug, Clone, PartialEq)]
pub struct LinePlot {
    /// The title, above the plot.
    pub title: String,
    /// The name of the axis of x.
    pub x_label: String,
    /// The name of the axis of y.
    pub y_label: String,
    /// Whether the axis of x is logarithmic.
    pub log_x: bool,
    /// The series. More than one have a legend.
    pub series: Vec<Series>,
}

/// A series: a line through its points, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The name in the legend.
    pub name: String,
    /// The points (x, y). Those that cannot be drawn are left out, such as NaN for a missing value.
    pub points: Vec<(f64, f64)>,
    /// A label for each point, including those that are left out. An empty one is not drawn.
    pub labels: Option<Vec<String>>,
}

impl LinePlot {
    /// Returns the plot as a PNG file of 960 x 600 pixels.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Labels`], [`Error::Range`], [`Error::Draw`].
    pub fn png(&self) -> Result<Vec<u8>, Error> {
        let drawing = self.drawing()?;
        let (width, height) = SIZE;
        let mut pixels = vec![0; (width * height * 3) as usize];
        let drawn = drawing.draw(&BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area());
        drawn.map_err(|error| self.failure(error.to_string()))?;
        encode(&pixels, [height as usize, width as usize, 3]).map_err(|reason| self.failure(reason))
    }

    /// Returns the plot as an SVG file of 960 x 600 pixels. Its text is text, in the viewer's sans-serif font.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Labels`], [`Error::Range`], [`Error::Draw`].
    pub fn svg(&self) -> Result<String, Error> {
        let drawing = self.drawing()?;
        let mut text = String::new();
        let drawn = drawing.draw(&SVGBackend::with_string(&mut text, SIZE).into_drawing_area());
        drawn.map_err(|error| self.failure(error.to_string()))?;
        Ok(text)
    }

    /// Writes [`png`](Self::png) to a file: beside it first, then renamed. After an error, an older file is unchanged.
    ///
    /// # Errors
    /// Those of [`png`](Self::png), and [`Error::Write`].
    pub fn write_png(&self, path: &Path) -> Result<(), Error> {
        publish(path, &self.png()?)
    }

    /// Writes [`svg`](Self::svg) to a file: beside it first, then renamed. After an error, an older file is unchanged.
    ///
    /// # Errors
    /// Those of [`svg`](Self::svg), and [`Error::Write`].
    pub fn write_svg(&self, path: &Path) -> Result<(), Error> {
        publish(path, self.svg()?.as_bytes())
    }

    /// Returns what is drawn: the points that have a place, and the axes.
    pub(crate) fn drawing(&self) -> Result<Drawing<'_>, Error> {
        for Series { name, points, labels } in &self.series {
            if let Some(labels) = labels
                && labels.len() != points.len()
            {
                let (title, series) = (self.title.clone(), name.clone());
                return Err(Error::Labels { title, series, labels: labels.len(), points: points.len() });
            }
        }
        let has_place = |point: &(f64, f64)| self.has_place(point);
        let all = || self.series.iter().flat_map(|series| &series.points).copied().filter(has_place);
        if all().next().is_none() {
            return Err(Error::Empty { title: self.title.clone(), log_x: self.log_x });
        }
        let x = self.axis(all().map(|(x, _)| x), self.log_x)?;
        let y = self.axis(all().map(|(_, y)| y), false)?;
        let series = self.series.iter().map(|series| {
            let label = |index: usize| series.labels.as_ref().map_or("", |labels| labels[index].as_str());
            let placed = series.points.iter().enumerate().filter(|(_, point)| has_place(point));
            let points = placed.map(|(index, &(at_x, at_y))| (x.position(at_x), y.position(at_y), label(index)));
            DrawnSeries { name: &series.name, points: points.collect() }
        });
        let series = series.collect();
        Ok(Drawing { title: &self.title, names: [&self.x_label, &self.y_label], axes: [x, y], series })
    }

    /// Returns whether a point can be drawn.
    pub(crate) fn has_place(&self, &(x, y): &(f64, f64)) -> bool {
        x.is_finite() && y.is_finite() && (!self.log_x || x > 0.0)
    }

    fn axis(&self, values: impl Iterator<Item = f64> + Clone, is_log: bool) -> Result<Axis, Error> {
        let least = values.clone().fold(f64::INFINITY, f64::min);
        let most = values.fold(f64::NEG_INFINITY, f64::max);
        Axis::new(least, most, is_log).ok_or_else(|| Error::Range { title: self.title.clone(), least, most })
    }

    fn failure(&self, reason: String) -> Error {
        Error::Draw { title: self.title.clone(), reason }
    }
}

fn publish(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let written = replace(path, ".partial", |mut file| file.write_all(bytes).map(|()| file));
    written.map_err(|source| Error::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn series(name: &str, points: &[(f64, f64)]) -> Series {
        Series { name: name.into(), points: points.to_vec(), labels: None }
    }

    fn plot() -> LinePlot {
        let labelled = Series {
            labels: Some(["0", "1", "2.5", "5", "10"].map(String::from).to_vec()),
            ..series("conditional", &[(0.0, 14.0), (1.0, 9.5), (2.5, 8.1), (5.0, 11.2), (10.0, 19.7)])
        };
        LinePlot {
            title: "FID against the guidance scale".into(),
            x_label: "scale".into(),
            y_label: "FID".into(),
            log_x: false,
            series: vec![
                labelled,
                series("unconditional & guided", &[(0.0, 25.0), (1.0, 17.0), (2.5, 12.3), (5.0, 10.4), (10.0, 13.9)]),
            ],
        }
    }

    fn pixels(plot: &LinePlot) -> image::RgbImage {
        image::load_from_memory(&plot.png().unwrap()).unwrap().to_rgb8()
    }

    #[test]
    fn both_files_have_the_same_bytes_each_time() {
        let plot = plot();
        assert_eq!(plot.png().unwrap(), plot.png().unwrap());
        assert_eq!(plot.svg().unwrap(), plot.svg().unwrap());
        assert_eq!(pixels(&plot).dimensions(), SIZE);
    }

    #[test]
    fn an_svg_has_its_words_as_text() {
        let svg = plot().svg().unwrap();
        for word in ["FID against the guidance scale", "scale", "conditional", "unconditional &amp; guided", "2.5"] {
            assert!(svg.contains(&format!("\n{word}\n")), "{word}: {svg}");
        }
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
    }

    #[test]
    fn an_element_of_a_page_leaves_colours_to_the_page_and_shows_gaps() {
        let holes = series("a", &[(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 2.0), (4.0, 1.0)]);
        let plot = LinePlot {
            title: "a <\"b\">".into(),
            series: vec![holes, series("b", &[(0.0, 3.0), (4.0, 0.0)])],
            ..plot()
        };
        let svg = plot.inline_svg().unwrap();
        assert!(svg.contains("aria-label=\"a &lt;&quot;b&quot;&gt;\""), "{svg}");
        let line =
            |class: &str| svg.split(&format!("class=\"{class}\" d=\"")).nth(1).unwrap().split('"').next().unwrap();
        let moves = |class| (line(class).matches('M').count(), line(class).matches('L').count());
        assert_eq!([moves("line-0"), moves("line-1")], [(2, 2), (1, 1)], "{svg}");
        assert!(!svg.contains('#') && !svg.contains("rgb") && !svg.contains("style"), "{svg}");
        let empty = LinePlot { series: vec![series("a", &[(f64::NAN, 1.0)])], ..plot };
        assert!(matches!(empty.inline_svg(), Err(Error::Empty { .. })));
    }

    #[test]
    fn a_png_has_its_words_without_fonts_of_the_system() {
        // The title alone makes the difference.
        let (with, without) = (pixels(&plot()), pixels(&LinePlot { title: String::new(), ..plot() }));
        let dark = |image: &image::RgbImage| image.pixels().filter(|pixel| pixel.0.iter().all(|&v| v < 100)).count();
        assert!(dark(&with) > dark(&without) + 500, "{} {}", dark(&with), dark(&without));
    }

    #[test]
    fn points_without_a_place_are_left_out() {
        let clean = LinePlot { log_x: true, series: vec![series("a", &[(1.0, 2.0), (10.0, 3.0)])], ..plot() };
        let holes =
            [(1.0, 2.0), (f64::NAN, 1.0), (5.0, f64::NAN), (0.0, 9.0), (-1.0, 9.0), (2.0, f64::INFINITY), (10.0, 3.0)];
        let labels = Some(["", "x", "x", "x", "x", "x", ""].map(String::from).to_vec());
        let with_holes = LinePlot { series: vec![Series { labels, ..series("a", &holes) }], ..clean.clone() };
        assert_eq!(with_holes.svg().unwrap(), clean.svg().unwrap());
        assert_eq!(with_holes.png().unwrap(), clean.png().unwrap());
    }

    #[test]
    fn plots_without_points_and_with_few_labels_are_refused() {
        for series in [vec![], vec![series("a", &[])], vec![series("a", &[(f64::NAN, 1.0)])]] {
            let empty = LinePlot { series, ..plot() };
            assert!(matches!(empty.png(), Err(Error::Empty { .. })));
            assert!(matches!(empty.svg(), Err(Error::Empty { .. })));
        }
        let only_zero = LinePlot { log_x: true, series: vec![series("a", &[(0.0, 1.0)])], ..plot() };
        let message = only_zero.svg().unwrap_err().to_string();
        assert!(message.contains("positive in x"), "{message}");
        let few = Series { labels: Some(vec![String::new()]), ..series("a", &[(0.0, 1.0), (1.0, 1.0)]) };
        let message = LinePlot { series: vec![few], ..plot() }.png().unwrap_err().to_string();
        assert!(message.contains("1 labels for 2 points"), "{message}");
        let wide = LinePlot { series: vec![series("a", &[(-f64::MAX, 0.0), (f64::MAX, 0.0)])], ..plot() };
        assert!(matches!(wide.png(), Err(Error::Range { .. })));
    }

    #[test]
    fn a_failed_write_keeps_the_older_file() {
        let folder = tempfile::tempdir().unwrap();
        for (name, write) in [
            ("plot.png", LinePlot::write_png as fn(&LinePlot, &Path) -> Result<(), Error>),
            ("plot.svg", LinePlot::write_svg),
        ] {
            let path = folder.path().join(name);
            write(&plot(), &path).unwrap();
            let first = std::fs::read(&path).unwrap();
            write(&LinePlot { series: Vec::new(), ..plot() }, &path).unwrap_err();
            std::fs::create_dir(folder.path().join(format!("{name}.partial"))).unwrap();
            let error = write(&LinePlot { title: "new".into(), ..plot() }, &path).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), first);
        }
    }
}
