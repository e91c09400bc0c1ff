//! Aligned columns: text with tabs in, text with spaces out.
//!
//! A cell ends with a tab; what follows a line's last tab belongs to no column. A column is a run of neighbouring lines that all
//! have a cell at that place, and is as wide as its widest cell. So a line without tabs ends the columns around it, and
//! `label:<tab>value` lines align without the values counting.

/// Least width of a column, padding included.
const MIN_WIDTH: usize = 5;
/// Blanks after a column's widest cell.
const PADDING: usize = 3;

/// Aligns `text`; lines lose their trailing blanks.
#[must_use]
pub fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    let mut writer = Writer {
        lines: &lines,
        widths: Vec::new(),
        out: String::new(),
    };
    writer.block(0, lines.len());
    writer.out
}

struct Writer<'a> {
    lines: &'a [Vec<&'a str>],
    widths: Vec<usize>,
    out: String,
}

impl Writer<'_> {
    /// Writes lines `from..to`, whose columns up to `widths.len()` are settled.
    fn block(&mut self, from: usize, to: usize) {
        let column = self.widths.len();
        let mut start = from;
        while start < to {
            let end = start + self.run(start, to, column);
            if end == start {
                self.line(start);
                start += 1;
                continue;
            }
            let widest = self.lines[start..end]
                .iter()
                .map(|line| width(line[column]))
                .max()
                .unwrap_or(0);
            self.widths.push(MIN_WIDTH.max(widest + PADDING));
            self.block(start, end);
            self.widths.pop();
            start = end;
        }
    }

    /// How many lines from `start` on have a tab-terminated cell in `column`.
    fn run(&self, start: usize, to: usize, column: usize) -> usize {
        self.lines[start..to]
            .iter()
            .take_while(|line| line.len() > column + 1)
            .count()
    }

    fn line(&mut self, index: usize) {
        let mut line = String::new();
        for (column, cell) in self.lines[index].iter().enumerate() {
            line.push_str(cell);
            if let Some(column_width) = self.widths.get(column) {
                line.extend(std::iter::repeat_n(
                    ' ',
                    column_width.saturating_sub(width(cell)),
                ));
            }
        }
        self.out.push_str(line.trim_end());
        self.out.push('\n');
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

/// A table of rows; every cell but the last of a row is a column.
#[derive(Default)]
pub struct Table {
    text: String,
}

impl Table {
    /// A table that begins with the row of column names.
    #[must_use]
    pub fn new(header: &[&str]) -> Self {
        let mut table = Self::default();
        table.row(header);
        table
    }

    /// Adds a row.
    pub fn row<S: AsRef<str>>(&mut self, cells: &[S]) {
        for (index, cell) in cells.iter().enumerate() {
            if index > 0 {
                self.text.push('\t');
            }
            // A tab or a line end inside a value would break the layout.
            self.text.extend(
                cell.as_ref()
                    .chars()
                    .map(|c| if c.is_control() { ' ' } else { c }),
            );
        }
        self.text.push('\n');
    }

    /// The aligned text.
    #[must_use]
    pub fn render(&self) -> String {
        align(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["ID", "NAME", "STATUS"]);
        table.row(&["7", "cart-0", "ready"]);
        table.row(&["21565", "a-much-longer-name", "waiting"]);
        expect![[r"
            ID      NAME                 STATUS
            7       cart-0               ready
            21565   a-much-longer-name   waiting
        "]]
        .assert_eq(&table.render());
    }

    #[test]
    fn a_column_is_at_least_five_wide() {
        let mut table = Table::new(&["A", "B"]);
        table.row(&["1", "2"]);
        assert_eq!(table.render(), "A    B\n1    2\n");
    }

    #[test]
    fn a_line_without_tabs_ends_the_columns() {
        let text =
            "Label:\tvalue\nMuch longer label:\tvalue\nAddresses:\n  192.0.2.1 (router)\nX:\ty\n";
        expect![[r"
            Label:               value
            Much longer label:   value
            Addresses:
              192.0.2.1 (router)
            X:   y
        "]]
        .assert_eq(&align(text));
    }

    #[test]
    fn shorter_rows_and_empty_cells() {
        let text = "A\tB\tC\n1\t\t3\n\t\tmore of C\nlong cell\tx\n";
        expect![[r"
            A           B    C
            1                3
                             more of C
            long cell   x
        "]]
        .assert_eq(&align(text));
    }

    #[test]
    fn control_characters_in_values_do_not_break_the_layout() {
        let mut table = Table::new(&["A", "B"]);
        table.row(&["x\ty\nz", "1"]);
        assert_eq!(table.render(), "A       B\nx y z   1\n");
    }

    #[test]
    fn width_counts_characters_not_bytes() {
        let mut table = Table::new(&["héé", "B"]);
        table.row(&["ab", "1"]);
        assert_eq!(table.render(), "héé   B\nab    1\n");
    }
}
