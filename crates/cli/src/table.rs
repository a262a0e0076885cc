//! A table on a terminal, which leaves columns out rather than break its lines.

use std::io::{self, Write};

use crate::terminal::{self, Output, Tone};

/// The columns between two columns of a table.
const GAP: usize = 2;

/// On which side the cells of a column are aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) heading: &'static str,
    pub(crate) align: Align,
    /// If the table is too wide, the columns with the highest of these numbers are left out first.
    /// Those with 0 stay.
    pub(crate) drop: u8,
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl Cell {
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: None }
    }

    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone: Some(tone) }
    }
}

/// Rows of cells under headings.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(columns: &[Column]) -> Self {
        let headings = columns.iter().map(|column| Cell::toned(column.heading, Tone::Heading)).collect();
        Self { columns: columns.to_vec(), rows: vec![headings] }
    }

    /// Adds a row, which has a cell for each column.
    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// Prints the table to `out`, which writes to `output`. On a terminal it is at most as wide as
    /// that, unless the columns that always stay are wider.
    pub(crate) fn print(&self, out: &mut impl Write, output: Output) -> io::Result<()> {
        let width_max = if output.is_terminal() { output.width() } else { usize::MAX };
        let kept = self.columns_within(width_max);
        for row in &self.rows {
            let mut line = String::new();
            for &(at, width) in &kept {
                let Some(cell) = row.get(at) else { continue };
                if !line.is_empty() {
                    line.push_str(&" ".repeat(GAP));
                }
                let padding = " ".repeat(width - terminal::columns(&cell.text));
                let text = cell.tone.map_or_else(|| cell.text.clone(), |tone| output.paint(tone, &cell.text));
                match self.columns[at].align {
                    Align::Left => line.extend([text, padding]),
                    Align::Right => line.extend([padding, text]),
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    /// Returns the columns that stay, each with its width.
    fn columns_within(&self, width_max: usize) -> Vec<(usize, usize)> {
        let width_of = |at: usize| {
            let texts = self.rows.iter().filter_map(|row| row.get(at));
            texts.map(|cell| terminal::columns(&cell.text)).max().unwrap_or(0)
        };
        let mut kept: Vec<_> = (0..self.columns.len()).map(|at| (at, width_of(at))).collect();
        loop {
            let width = kept.iter().map(|(_, width)| width + GAP).sum::<usize>() - GAP;
            let next = kept.iter().map(|&(at, _)| self.columns[at].drop).max().filter(|&drop| drop > 0);
            match next {
                Some(drop) if width > width_max => kept.retain(|&(at, _)| self.columns[at].drop != drop),
                _ => return kept,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_left_out_until_the_rest_fits() {
        let column = |heading, drop| Column { heading, align: Align::Left, drop };
        let mut table = Table::new(&[column("NAME", 0), column("A", 2), column("B", 1)]);
        table.push(["日本語", "1234567", "x"].map(Cell::plain).into());
        let kept = |width| table.columns_within(width);
        assert_eq!(kept(usize::MAX), [(0, 6), (1, 7), (2, 1)]);
        assert_eq!(kept(18), [(0, 6), (1, 7), (2, 1)]);
        assert_eq!(kept(17), [(0, 6), (2, 1)]);
        assert_eq!(kept(8), [(0, 6)]);
        assert_eq!(kept(0), [(0, 6)], "a name is never cut");
    }

    #[test]
    fn cells_are_aligned_in_lines_without_trailing_spaces() {
        let column = |heading, align| Column { heading, align, drop: 0 };
        let mut table = Table::new(&[column("N", Align::Right), column("NAME", Align::Left)]);
        table.push(["1000", "日本"].map(Cell::plain).into());
        table.push(["7", "x"].map(Cell::plain).into());
        let mut out = Vec::new();
        table.print(&mut out, Output::Out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "   N  NAME\n1000  日本\n   7  x\n");
    }
}
