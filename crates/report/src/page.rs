//! The page, and what it shows.

use admiral_goodput::Ledger;

use crate::curves::Curves;
use crate::escape::escape;
use crate::parts::{Incidents, Table};
use crate::pictures::Pictures;
use crate::sections;

/// What a page shows. A part that is missing has the reason in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The run's folder.
    pub run: String,
    /// The time of the report in seconds since 1970-01-01 in UTC.
    pub written: f64,
    /// Names and values for the top of the page.
    pub summary: Vec<(String, String)>,
    /// The curves.
    pub curves: Result<Curves, String>,
    /// The ledger of the run's time.
    pub ledger: Result<Ledger, String>,
    /// The incidents.
    pub incidents: Result<Incidents, String>,
    /// The sample grids.
    pub pictures: Result<Pictures, String>,
    /// The configuration, as YAML.
    pub configuration: Result<String, String>,
    /// The hosts.
    pub hosts: Result<Table, String>,
}

/// The sections: the anchor and the title.
const SECTIONS: [(&str, &str); 6] = [
    ("curves", "Curves"),
    ("time", "Time"),
    ("incidents", "Incidents"),
    ("samples", "Samples"),
    ("hosts", "Hosts"),
    ("configuration", "Configuration"),
];

impl Report {
    /// Returns the page.
    #[must_use]
    pub fn html(&self) -> String {
        let name = self.run.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
             style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
             <title>{} - Admiral</title>\n<style>\n{}</style>\n</head>\n<body>\n",
            escape(name),
            include_str!("style.css")
        );
        html += "<nav>";
        for (anchor, title) in SECTIONS {
            html += &format!("<a href=\"#{anchor}\">{title}</a>");
        }
        html += "</nav>\n<main>\n";
        html += &format!(
            "<header>\n<h1>{}</h1>\n<p class=\"path\">{}, report of {}</p>\n",
            escape(name),
            escape(&self.run),
            sections::time(self.written)
        );
        html += &sections::summary(&self.summary);
        html += "</header>\n";
        let incidents = self.incidents.as_ref().map(|incidents| incidents.list.as_slice()).unwrap_or_default();
        let bodies = [
            part(&self.curves, sections::curves),
            part(&self.ledger, |ledger| sections::ledger(ledger, incidents)),
            part(&self.incidents, sections::incidents),
            part(&self.pictures, sections::pictures),
            part(&self.hosts, sections::table),
            part(&self.configuration, |text| sections::configuration(text)),
        ];
        for ((anchor, title), body) in SECTIONS.into_iter().zip(bodies) {
            html += &format!("<section id=\"{anchor}\">\n<h2>{title}</h2>\n{body}</section>\n");
        }
        html + "</main>\n</body>\n</html>\n"
    }
}

/// Returns the body of a section, or why it is missing.
fn part<T>(part: &Result<T, String>, show: impl FnOnce(&T) -> String) -> String {
    match part {
        Ok(part) => show(part),
        Err(reason) => format!("<p class=\"missing\">Missing: {}</p>\n", escape(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::Incident;

    const HOSTILE: &str = "</pre></style><script>alert(1)</script><img src=x onerror='alert(2)'>\"&";

    fn hostile() -> Report {
        let text = || HOSTILE.to_owned();
        let incident = Incident {
            number: 1,
            detected: f64::NAN,
            verdict: text(),
            action: text(),
            steps_lost: Some(3),
            seconds_lost: Some(f64::INFINITY),
            last_lines: vec![text(); 3],
        };
        Report {
            run: format!("/runs/{HOSTILE}"),
            written: 1e300,
            summary: vec![(text(), text())],
            curves: Err(text()),
            ledger: Err(text()),
            incidents: Ok(Incidents { list: vec![incident], notes: vec![text()] }),
            pictures: Err(text()),
            configuration: Ok(text()),
            hosts: Ok(Table { columns: vec![text()], rows: vec![vec![text()]], notes: vec![text()] }),
        }
    }

    #[test]
    fn hostile_texts_stay_texts() {
        let html = hostile().html();
        for part in ["<script", "<img", "onerror='", "</pre></style>"] {
            assert!(!html.contains(part), "{part}: {html}");
        }
        assert!(html.matches("&lt;script&gt;alert(1)").count() >= 13);
        assert_eq!(html.matches("<style").count(), 1);
    }

    #[test]
    fn missing_parts_are_named() {
        let missing = || "nobody wrote it".to_owned();
        let report = Report {
            curves: Err(missing()),
            ledger: Err(missing()),
            incidents: Err(missing()),
            pictures: Err(missing()),
            configuration: Err(missing()),
            hosts: Err(missing()),
            ..hostile()
        };
        assert_eq!(report.html().matches("Missing: nobody wrote it").count(), SECTIONS.len());
    }
}
