//! Parts of a page that other programs fill.

/// An incident of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Incident {
    /// Its number, from 1.
    pub number: u64,
    /// The time of the verdict in seconds since 1970-01-01 in UTC.
    pub detected: f64,
    /// What failed, in a sentence.
    pub verdict: String,
    /// What the launcher did.
    pub action: String,
    /// The number of steps that were done again, if it is known.
    pub steps_lost: Option<u64>,
    /// The time until the first new step in seconds, if it is known.
    pub seconds_lost: Option<f64>,
    /// The last lines of the rank that failed.
    pub last_lines: Vec<String>,
}

/// The incidents of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Incidents {
    /// The incidents, in the order of time.
    pub list: Vec<Incident>,
    /// What is not shown, for people.
    pub notes: Vec<String>,
}

/// A table of texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The rows, each with a text for each column.
    pub rows: Vec<Vec<String>>,
    /// Sentences below the table.
    pub notes: Vec<String>,
}
