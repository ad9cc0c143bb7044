//! The sections of the page.

use std::fmt::Write as _;

use admiral_goodput::{Account, Day, Ledger, Table as LedgerTable};
use admiral_plots::{LinePlot, Series};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use crate::curves::{Curves, FIRST};
use crate::escape::{cut, escape};
use crate::parts::{Incident, Incidents, Table};
use crate::pictures::Pictures;
use crate::timeline::{bar, class, timeline};

/// The newest incidents are shown, and lines and texts are cut.
const MAX_INCIDENTS: usize = 200;
const MAX_LINE: usize = 400;
const MAX_ROWS: usize = 1000;
/// The largest number of days that are listed.
const MAX_DAYS: usize = 400;

/// Formats a time in UTC: `2026-11-30 12:05:00`.
pub(crate) fn time(seconds: f64) -> String {
    let time = Timestamp::from_second(seconds as i64).map(|time| time.strftime("%Y-%m-%d %H:%M:%S").to_string());
    time.unwrap_or_else(|_| "unknown time".to_owned())
}

fn date(day: &Day) -> String {
    time(day.number as f64 * 86_400.0).chars().take(10).collect()
}

fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        1e-2..1e6 => {
            let decimals = if value.abs() < 10.0 { 4 } else { 1 };
            let text = format!("{value:.decimals$}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => format!("{value:.3e}"),
    }
}

fn notes(notes: &[String]) -> String {
    notes.iter().map(|note| format!("<p class=\"note\">{}</p>\n", escape(&cut(note, MAX_LINE)))).collect()
}

pub(crate) fn summary(rows: &[(String, String)]) -> String {
    let mut text = String::from("<dl class=\"summary\">\n");
    for (name, value) in rows {
        let (name, value) = (escape(name), escape(&cut(value, MAX_LINE)));
        let _ = writeln!(text, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    text + "</dl>\n"
}

pub(crate) fn curves(curves: &Curves) -> String {
    let is_first = |name: &&str| FIRST.contains(name);
    let first = FIRST.into_iter().filter(|name| curves.get(name).is_some());
    let others: Vec<&str> = curves.names().filter(|name| !is_first(name)).collect();
    let mut text =
        format!("<div class=\"plots\">\n{}</div>\n", first.map(|name| plot(curves, name)).collect::<String>());
    if !others.is_empty() {
        let plots: String = others.iter().map(|name| plot(curves, name)).collect();
        let _ = writeln!(
            text,
            "<details><summary>{} more curves</summary>\n<div class=\"plots\">\n{plots}</div>\n</details>",
            others.len()
        );
    }
    text + &notes(&curves.notes)
}

fn plot(curves: &Curves, name: &str) -> String {
    let Some(curve) = curves.get(name) else { return String::new() };
    let points = curve.points().collect();
    let plot = LinePlot {
        title: format!("{name} by step"),
        x_label: String::new(),
        y_label: String::new(),
        log_x: false,
        series: vec![Series { name: name.to_owned(), points, labels: None }],
    };
    let last = curve.last().map(number).unwrap_or_default();
    let body =
        plot.inline_svg().unwrap_or_else(|error| format!("<p class=\"missing\">{}</p>", escape(&error.to_string())));
    format!("<figure><figcaption>{} <b>{last}</b></figcaption>\n{body}</figure>\n", escape(name))
}

pub(crate) fn ledger(ledger: &Ledger, incidents: &[Incident]) -> String {
    let table = LedgerTable::of(ledger);
    let total = table.all.wall_clock.total();
    let ratios = table.all.ratios();
    let mut text = format!(
        "<p><b>{:.1} %</b> of {} were steps that count (ETTR). Scheduling goodput {:.1} %, runtime goodput {:.1} %. \
         Failures: {}, checkpoints: {}.</p>\n",
        100.0 * ratios.ettr,
        if total < 7200.0 { format!("{:.1} minutes", total / 60.0) } else { format!("{:.1} hours", total / 3600.0) },
        100.0 * ratios.scheduling_goodput,
        100.0 * ratios.runtime_goodput,
        ledger.failures,
        ledger.saves
    );
    text += &timeline(ledger, incidents, time).unwrap_or_default();
    text +=
        "<p class=\"note\">Shares of time from the first to the last event, in UTC. The numbers are incidents.</p>\n";
    let used: Vec<Account> = table.all.wall_clock.iter().filter(|part| part.1 > 0.0).map(|part| part.0).collect();
    text += "<div class=\"scroll\"><table>\n<thead><tr><th>account</th><th>share</th><th>hours</th><th>rank-hours</th>\
             <th>GPU-hours</th></tr></thead>\n<tbody>\n";
    for &account in &used {
        let seconds = table.all.wall_clock[account];
        let _ = writeln!(
            text,
            "<tr><td><i class=\"key a-{}\"></i>{}</td><td>{:.2} %</td><td>{:.3}</td><td>{:.3}</td><td>{:.3}</td></tr>",
            class(account),
            account.words(),
            100.0 * seconds / total,
            seconds / 3600.0,
            table.all.ranks[account] / 3600.0,
            table.all.gpus[account] / 3600.0
        );
    }
    text += "</tbody></table></div>\n<h3>By day</h3>\n";
    let skipped = table.days.len().saturating_sub(MAX_DAYS);
    if skipped > 0 {
        let _ = writeln!(text, "<p class=\"note\">The first {skipped} days are left out.</p>");
    }
    text += "<div class=\"scroll\"><table class=\"days\">\n<thead><tr><th>day (UTC)</th><th>hours</th><th>steps</th>\
             <th>failures</th><th>down</th><th class=\"wide\">shares</th></tr></thead>\n<tbody>\n";
    for day in table.days.iter().skip(skipped) {
        let of_day = day.wall_clock.total();
        let shares = day.shares();
        let _ = writeln!(
            text,
            "<tr><td>{}</td><td>{:.2}</td><td>{:.1} %</td><td>{:.1} %</td><td>{:.1} %</td><td>{}</td></tr>",
            date(day),
            of_day / 3600.0,
            100.0 * shares.steps,
            100.0 * shares.failures,
            100.0 * shares.down,
            bar(&day.wall_clock)
        );
    }
    text + "</tbody></table></div>\n"
}

pub(crate) fn incidents(incidents: &Incidents) -> String {
    let Incidents { list, notes: missing } = incidents;
    if list.is_empty() && missing.is_empty() {
        return "<p>There was no incident.</p>\n".to_owned();
    }
    let skipped = list.len().saturating_sub(MAX_INCIDENTS);
    let mut text = String::new();
    if skipped > 0 {
        let _ = writeln!(text, "<p class=\"note\">The first {skipped} incidents are left out.</p>");
    }
    text += "<ol class=\"incidents\">\n";
    for incident in list.iter().skip(skipped) {
        let verdict = escape(&cut(&incident.verdict, MAX_LINE));
        let action = escape(&cut(&incident.action, MAX_LINE));
        let cost = match (incident.steps_lost, incident.seconds_lost) {
            (Some(steps), Some(seconds)) => format!("; {steps} steps done again, {seconds:.1} s lost"),
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "<li value=\"{}\"><p><time>{}</time> {verdict}</p><p class=\"note\">{action}{cost}</p>",
            incident.number,
            time(incident.detected)
        );
        if !incident.last_lines.is_empty() {
            let lines: Vec<String> = incident.last_lines.iter().map(|line| escape(&cut(line, MAX_LINE))).collect();
            let _ =
                writeln!(text, "<details><summary>its last lines</summary><pre>{}</pre></details>", lines.join("\n"));
        }
        text += "</li>\n";
    }
    text + "</ol>\n" + &notes(missing)
}

pub(crate) fn pictures(pictures: &Pictures) -> String {
    let mut text = String::new();
    for (tag, images) in &pictures.series {
        let _ = writeln!(text, "<h3>{}</h3>\n<div class=\"pictures\">", escape(&cut(tag, MAX_LINE)));
        for (step, png) in images {
            let _ = writeln!(
                text,
                "<figure><img alt=\"samples of step {step}\" src=\"data:image/png;base64,{}\"><figcaption>step \
                 {step}</figcaption></figure>",
                STANDARD.encode(png)
            );
        }
        text += "</div>\n";
    }
    text + &notes(&pictures.notes)
}

pub(crate) fn table(table: &Table) -> String {
    let cells = |tag: &str, cells: &[String]| -> String {
        cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(&cut(cell, MAX_LINE)))).collect()
    };
    let mut text =
        format!("<div class=\"scroll\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n", cells("th", &table.columns));
    for row in table.rows.iter().take(MAX_ROWS) {
        let _ = writeln!(text, "<tr>{}</tr>", cells("td", row));
    }
    text += "</tbody></table></div>\n";
    if table.rows.len() > MAX_ROWS {
        let _ = writeln!(text, "<p class=\"note\">{} rows are left out.</p>", table.rows.len() - MAX_ROWS);
    }
    text + &notes(&table.notes)
}

pub(crate) fn configuration(text: &str) -> String {
    format!("<details><summary>all fields</summary><pre>{}</pre></details>\n", escape(text))
}
