//! Line plots as PNG and SVG.
//!
//! A [`LinePlot`] has series of points, each drawn as a line with a mark at each point. Its files have the same bytes on
//! every machine: no font of the system is used, and no time is written.

mod axis;
mod draw;
mod error;
mod inline;
mod plot;

pub use error::Error;
pub use plot::{LinePlot, Series};
