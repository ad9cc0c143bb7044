//! Time as pictures: the accounts of the ledger over the life of a run, and as bars.

use std::fmt::Write as _;

use admiral_goodput::{Account, Ledger, Seconds};

use crate::escape::escape;
use crate::parts::Incident;

/// The number of columns of the time line. Each shows the shares of its part of the time.
const COLUMNS: usize = 480;
const WIDTH: f64 = 960.0;
/// The height of the columns, and the space above them for incidents and below for times.
const HEIGHT: f64 = 120.0;
const ABOVE: f64 = 26.0;
const BELOW: f64 = 24.0;
/// The largest number of incidents with a mark.
const MAX_MARKS: usize = 100;

/// Returns the class of an account in the style sheet.
pub(crate) fn class(account: Account) -> &'static str {
    match account {
        Account::Productive => "steps",
        Account::Redone => "redone",
        Account::StartProgram => "start-program",
        Account::StartData => "start-data",
        Account::StartRestore => "start-restore",
        Account::StartWarmUp => "start-step",
        Account::DataWait => "data",
        Account::StragglerWait => "straggler",
        Account::Exchange => "exchange",
        Account::Checkpoint => "save",
        Account::Sampling => "sampling",
        Account::Evaluation => "evaluation",
        Account::FailureDetection => "detection",
        Account::FailureShutdown => "shutdown",
        Account::FailureRestart => "restart",
        Account::Preflight => "preflight",
        Account::Down => "down",
        Account::Preempted => "preempted",
    }
}

/// Returns a bar in which each account has the width of its share.
pub(crate) fn bar(seconds: &Seconds) -> String {
    let total = seconds.total();
    let mut text = String::from("<div class=\"bar\">");
    for (account, seconds) in seconds.iter().filter(|(_, seconds)| *seconds > 0.0) {
        let share = 100.0 * seconds / total;
        let name = account.words();
        let _ = write!(
            text,
            "<span class=\"a-{}\" style=\"width:{share:.3}%\" title=\"{name}: {share:.1} %\"></span>",
            class(account)
        );
    }
    text + "</div>"
}

/// Returns the seconds of each account in each of the columns.
fn columns(ledger: &Ledger, start: f64, end: f64) -> Vec<Seconds> {
    let width = (end - start) / COLUMNS as f64;
    let mut columns = vec![Seconds::default(); COLUMNS];
    for span in &ledger.spans {
        let column = |time: f64| (((time - start) / width).floor().max(0.0) as usize).min(COLUMNS - 1);
        for (index, seconds) in columns.iter_mut().enumerate().take(column(span.end) + 1).skip(column(span.start)) {
            let from = span.start.max(start + index as f64 * width);
            let to = span.end.min(start + (index + 1) as f64 * width);
            seconds[span.account] += (to - from).max(0.0);
        }
    }
    columns
}

/// Returns the time line of a run as an `svg` element, with a mark for each incident. `time` formats a time. `None` if there
/// is no time to show.
pub(crate) fn timeline(ledger: &Ledger, incidents: &[Incident], time: impl Fn(f64) -> String) -> Option<String> {
    let (start, end) = (ledger.spans.first()?.start, ledger.spans.last()?.end);
    if !(start.is_finite() && end.is_finite() && end > start) {
        return None;
    }
    let all = ABOVE + HEIGHT + BELOW;
    let mut text =
        format!("<svg class=\"timeline\" viewBox=\"0 0 {WIDTH} {all}\" role=\"img\" aria-label=\"time line\">\n");
    let columns = columns(ledger, start, end);
    let mut tops = vec![0.0; COLUMNS];
    let width = WIDTH / COLUMNS as f64;
    for account in Account::ALL {
        let mut path = String::new();
        for (index, seconds) in columns.iter().enumerate().filter(|(_, seconds)| seconds[account] > 0.0) {
            let height = HEIGHT * seconds[account] / seconds.total();
            tops[index] += height;
            let (x, y) = (index as f64 * width, ABOVE + HEIGHT - tops[index]);
            let _ = write!(path, "M{x:.1} {y:.2}h{width:.1}v{height:.2}h-{width:.1}z");
        }
        if !path.is_empty() {
            let name = account.words();
            let _ = writeln!(text, "<path class=\"a-{}\" d=\"{path}\"><title>{name}</title></path>", class(account));
        }
    }
    for incident in incidents.iter().filter(|incident| (start..=end).contains(&incident.detected)).take(MAX_MARKS) {
        let x = WIDTH * (incident.detected - start) / (end - start);
        let (label, bottom) = (x.clamp(8.0, WIDTH - 8.0), ABOVE + HEIGHT);
        let _ = writeln!(
            text,
            "<g class=\"mark\"><title>{}</title><path d=\"M{x:.1} {}V{bottom}\"/><text x=\"{label:.1}\" y=\"14\" \
             text-anchor=\"middle\">{}</text></g>",
            escape(&incident.verdict),
            ABOVE - 6.0,
            incident.number
        );
    }
    for (share, anchor) in [(0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end")] {
        let label = escape(&time(start + share * (end - start)));
        let _ = writeln!(
            text,
            "<text class=\"label\" x=\"{}\" y=\"{}\" text-anchor=\"{anchor}\">{label}</text>",
            share * WIDTH,
            all - 6.0
        );
    }
    Some(text + "</svg>\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use admiral_goodput::Span;

    use super::*;

    #[test]
    fn each_account_has_a_colour_of_its_own_in_both_schemes() {
        let style = include_str!("style.css");
        let mut colours = Vec::new();
        for account in Account::ALL {
            let class = class(account);
            let rule = format!(".a-{class} {{ background: var(--{class}); fill: var(--{class}); }}");
            assert_eq!(style.matches(&rule).count(), 1, "{rule}");
            let name = format!("--{class}: ");
            let values = style.split(&name).skip(1).map(|rest| rest.split(';').next().unwrap());
            colours.push(values.collect::<Vec<_>>());
        }
        for scheme in 0..2 {
            let mut used: Vec<&str> = colours.iter().map(|values| values[scheme]).collect();
            used.sort_unstable();
            used.dedup();
            assert_eq!(used.len(), Account::ALL.len(), "{colours:?}");
        }
    }

    #[test]
    fn columns_divide_the_time_without_loss() {
        let span = |start, end, account| Span { start, end, account, ranks: 1, gpus: 0 };
        let spans = vec![
            span(1000.0, 1300.0, Account::Productive),
            span(1300.0, 1300.1, Account::Checkpoint),
            span(1300.1, 5000.0, Account::Down),
        ];
        let ledger = Ledger { spans, ..Ledger::default() };
        let columns = columns(&ledger, 1000.0, 5000.0);
        let sum = |account: Account| columns.iter().map(|seconds| seconds[account]).sum::<f64>();
        for (account, seconds) in [(Account::Productive, 300.0), (Account::Checkpoint, 0.1), (Account::Down, 3699.9)] {
            assert!((sum(account) - seconds).abs() < 1e-6, "{account:?}: {}", sum(account));
        }
        assert!(columns.iter().all(|seconds| (seconds.total() - 4000.0 / 480.0).abs() < 1e-6));
        let svg = timeline(&ledger, &[], |_| "<now>".into()).unwrap();
        assert_eq!(svg.matches("&lt;now&gt;").count(), 5);
        assert_eq!(timeline(&Ledger::default(), &[], |_| String::new()), None);
    }
}
