//! Tables as `kubectl` and our own commands print them: columns begin where their titles begin.

/// A printed table.
#[derive(Debug)]
pub struct Table {
    titles: Vec<(usize, String)>,
    rows: Vec<String>,
}

impl Table {
    /// Reads a table: the first line has the titles, two spaces or more between them.
    ///
    /// # Panics
    /// If there is nothing.
    #[track_caller]
    pub fn of(text: &str) -> Table {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let head = lines.next().expect("a table has titles");
        let mut titles = Vec::new();
        let mut at = 0;
        for part in head.split("  ") {
            let title = part.trim();
            if !title.is_empty() {
                let lead = part.len() - part.trim_start().len();
                titles.push((at + lead, title.to_owned()));
            }
            at += part.len() + 2;
        }
        Table {
            titles,
            rows: lines.map(str::to_owned).collect(),
        }
    }

    /// The titles.
    pub fn titles(&self) -> Vec<&str> {
        self.titles
            .iter()
            .map(|(_, title)| title.as_str())
            .collect()
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// All cells of a column.
    #[track_caller]
    pub fn column(&self, title: &str) -> Vec<&str> {
        let at = self.titles.iter().position(|(_, t)| t == title);
        let at = at.unwrap_or_else(|| panic!("no column {title} in {:?}", self.titles()));
        let begin = self.titles[at].0;
        let end = self.titles.get(at + 1).map(|(end, _)| *end);
        let cell = |row: &'_ String| -> (usize, usize) {
            let end = end.unwrap_or(row.len()).min(row.len());
            (begin.min(end), end)
        };
        self.rows
            .iter()
            .map(|row| {
                let (begin, end) = cell(row);
                row.get(begin..end).unwrap_or_default().trim()
            })
            .collect()
    }

    /// The cell of the row whose first column is `name`.
    #[track_caller]
    pub fn cell(&self, name: &str, title: &str) -> &str {
        let first = self
            .titles
            .first()
            .map(|(_, t)| t.clone())
            .unwrap_or_default();
        let at = self.column(&first).iter().position(|cell| *cell == name);
        let at = at.unwrap_or_else(|| panic!("no row {name} in {self:#?}"));
        self.column(title)[at]
    }
}

#[test]
fn tables_are_read_by_their_titles() {
    let table = Table::of(
        "NAME     SECURITY IDENTITY   IPV4\ncurl     12                  10.0.0.1\nweb-pod                      10.0.0.2\n",
    );
    assert_eq!(table.titles(), ["NAME", "SECURITY IDENTITY", "IPV4"]);
    assert_eq!(table.cell("web-pod", "IPV4"), "10.0.0.2");
    assert_eq!(table.column("SECURITY IDENTITY"), ["12", ""]);
    assert_eq!(table.len(), 2);
}
