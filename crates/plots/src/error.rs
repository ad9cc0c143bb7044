//! Why a plot cannot be drawn.

use std::path::PathBuf;

/// An error of drawing or writing a plot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No series has a point that can be drawn.
    #[error("the plot {title:?} has no point whose values are finite{}", if *.log_x { " and positive in x" } else { "" })]
    Empty {
        /// The plot's title.
        title: String,
        /// Whether the axis of x is logarithmic.
        log_x: bool,
    },
    /// A series does not have a label for each point.
    #[error("the series {series:?} of the plot {title:?} has {labels} labels for {points} points; give one for each")]
    Labels {
        /// The plot's title.
        title: String,
        /// The name of the series.
        series: String,
        /// The number of labels.
        labels: usize,
        /// The number of points.
        points: usize,
    },
    /// The values lie too far apart for an axis.
    #[error("the plot {title:?} cannot show values from {least:e} to {most:e} on one axis")]
    Range {
        /// The plot's title.
        title: String,
        /// The least value.
        least: f64,
        /// The largest value.
        most: f64,
    },
    /// The plot cannot be drawn or encoded.
    #[error("the plot {title:?} cannot be drawn: {reason}")]
    Draw {
        /// The plot's title.
        title: String,
        /// What the drawing library says.
        reason: String,
    },
    /// The file cannot be written.
    #[error("{} cannot be written: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}
