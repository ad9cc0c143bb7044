//! Tables for people.

use std::fmt;

/// The alignment of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// A table with a header. Each column is as wide as its longest cell.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    columns: [(&'static str, Side); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(columns: [(&'static str, Side); N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |text: &str| text.chars().count();
        let widths: [usize; N] = std::array::from_fn(|i| {
            self.rows.iter().map(|row| width(&row[i])).chain([width(self.columns[i].0)]).max().unwrap_or(0)
        });
        let header = self.columns.map(|(name, _)| name.to_owned());
        for cells in std::iter::once(&header).chain(&self.rows) {
            let padded = (0..N).map(|i| match self.columns[i].1 {
                Side::Left => format!("{:<1$}", cells[i], widths[i]),
                Side::Right => format!("{:>1$}", cells[i], widths[i]),
            });
            writeln!(f, "{}", padded.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new([("step", Side::Right), ("state", Side::Left), ("run", Side::Left)]);
        table.row(["10".into(), "published".into(), "a".into()]);
        table.row(["123000".into(), "".into(), "".into()]);
        assert_eq!(table.to_string(), "  step  state      run\n    10  published  a\n123000\n");
    }
}
