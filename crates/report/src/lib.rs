//! A report of a run as one self-contained HTML page: curves, incidents, the ledger of time, samples, configuration and
//! hosts.
//!
//! The page makes no request: plots are SVG, images are `data:` URIs, and there is no script. Its policy
//! (`Content-Security-Policy`) forbids all others. Every text is escaped, because file names, log lines and verdicts may be
//! chosen by somebody else. Memory and the size of the page are bounded.

mod curves;
mod escape;
mod page;
mod parts;
mod pictures;
mod sections;
mod timeline;

pub use curves::Curves;
pub use page::Report;
pub use parts::{Incident, Incidents, Table};
pub use pictures::Pictures;
