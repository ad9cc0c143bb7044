//! Metrics and their values.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// What the values of a family are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value that goes up and down.
    Gauge,
    /// A total that grows, and starts again at a lower value when the program or the run does.
    Counter,
}

/// The base unit of the values of a family. It is the end of the family's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// A share of a whole, from 0 to 1.
    Ratio,
}

impl Unit {
    /// Returns the unit as names end in it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
            Self::Ratio => "ratio",
        }
    }
}

/// A family of metrics: values of one name, which differ by their labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// The name without unit and without `_total`, for example `admiral_data_wait`. Only letters, digits and `_`.
    pub base: Cow<'static, str>,
    /// What the value is, in a sentence.
    pub help: Cow<'static, str>,
    /// The unit, if it has one.
    pub unit: Option<Unit>,
    /// The kind.
    pub kind: Kind,
}

impl Family {
    /// Returns a gauge without a unit.
    #[must_use]
    pub const fn gauge(base: &'static str, help: &'static str) -> Self {
        Self { base: Cow::Borrowed(base), help: Cow::Borrowed(help), unit: None, kind: Kind::Gauge }
    }

    /// Returns a gauge with a unit.
    #[must_use]
    pub const fn gauge_in(base: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { base: Cow::Borrowed(base), help: Cow::Borrowed(help), unit: Some(unit), kind: Kind::Gauge }
    }

    /// Returns a counter without a unit.
    #[must_use]
    pub const fn counter(base: &'static str, help: &'static str) -> Self {
        Self { base: Cow::Borrowed(base), help: Cow::Borrowed(help), unit: None, kind: Kind::Counter }
    }

    /// Returns the name with the unit: the name of the family in OpenMetrics.
    #[must_use]
    pub fn name(&self) -> String {
        match self.unit {
            Some(unit) => format!("{}_{}", self.base, unit.name()),
            None => self.base.clone().into_owned(),
        }
    }

    /// Returns the name of the values: that of the family, with `_total` for a counter.
    #[must_use]
    pub fn sample_name(&self) -> String {
        match self.kind {
            Kind::Gauge => self.name(),
            Kind::Counter => self.name() + "_total",
        }
    }
}

/// Returns `text` as part of the name of a metric or label: every character but ASCII letters and digits becomes `_`.
#[must_use]
pub fn metric_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// The names and values of labels.
type Labels = Vec<(String, String)>;

/// The values of a family.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Values {
    pub(crate) family: Family,
    pub(crate) values: BTreeMap<Labels, f64>,
}

/// A table of metrics. Families are ordered by name, values by their labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// The labels that all values have.
    pub(crate) common: Labels,
    pub(crate) families: BTreeMap<String, Values>,
}

impl Table {
    /// Creates an empty table. All its values have the labels `common`.
    #[must_use]
    pub fn new(common: &[(&str, &str)]) -> Self {
        Self { common: owned(common), families: BTreeMap::new() }
    }

    /// Sets the value of a family without labels.
    pub fn set(&mut self, family: &Family, value: f64) {
        self.set_with(family, &[], value);
    }

    /// Sets the value of a family with these labels, whose names consist of letters, digits and `_`. If the table has a
    /// family of that name and another kind, nothing changes: one name cannot have two kinds.
    pub fn set_with(&mut self, family: &Family, labels: &[(&str, &str)], value: f64) {
        let new = || Values { family: family.clone(), values: BTreeMap::new() };
        let values = self.families.entry(family.name()).or_insert_with(new);
        if values.family.kind == family.kind {
            values.values.insert(owned(labels), value);
        }
    }

    /// Removes all values of a family.
    pub fn clear(&mut self, family: &Family) {
        self.families.remove(&family.name());
    }

    /// Returns the value of a family with these labels, if there is one.
    #[must_use]
    pub fn get(&self, family: &Family, labels: &[(&str, &str)]) -> Option<f64> {
        self.families.get(&family.name())?.values.get(&owned(labels)).copied()
    }
}

fn owned(labels: &[(&str, &str)]) -> Labels {
    labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_in_the_unit_and_total() {
        let waits = Family { unit: Some(Unit::Seconds), ..Family::counter("waits", "Waits.") };
        assert_eq!((waits.name().as_str(), waits.sample_name().as_str()), ("waits_seconds", "waits_seconds_total"));
        assert_eq!(Family::gauge("loss", "The loss.").sample_name(), "loss");
        assert_eq!(metric_name("evaluation/ema 0.99/fid@5"), "evaluation_ema_0_99_fid_5");
    }

    #[test]
    fn a_name_has_one_kind() {
        let mut table = Table::new(&[]);
        let (gauge, counter) = (Family::gauge("x", "As a gauge."), Family::counter("x", "As a counter."));
        table.set(&gauge, 1.0);
        table.set(&counter, 2.0);
        assert_eq!(table.get(&gauge, &[]), Some(1.0));
        table.clear(&gauge);
        table.set(&counter, 2.0);
        assert_eq!(table.get(&counter, &[]), Some(2.0));
    }
}
