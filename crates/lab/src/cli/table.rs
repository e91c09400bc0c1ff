//! Columns for people, in the manner of kubectl.

/// Rows under a header, columns as wide as their longest cell.
pub(super) fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = header.iter().map(|h| (*h).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let widths: Vec<usize> = (0..header.len())
        .map(|i| all.iter().map(|r| r[i].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}   "));
        cells.collect::<String>().trim_end().to_owned()
    };
    all.into_iter().map(|row| line(row) + "\n").collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let text = super::render(
            &["A", "LONG"],
            &[vec!["xyz".into(), "1".into()], vec!["é".into(), "2".into()]],
        );
        assert_eq!(text, "A     LONG\nxyz   1\né     2\n");
    }
}
