//! Columns: as wide as their widest cell, three spaces apart, nothing after the last.

/// A table that is being filled.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
}

/// Characters as a terminal shows them, near enough: one column each.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// A cell as it may be printed: control characters of a hostile name or message must not reach the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

impl Table {
    /// A table with these titles.
    pub(crate) fn new<T: Into<String>>(titles: impl IntoIterator<Item = T>) -> Self {
        let mut table = Self::default();
        table.row(titles.into_iter().map(Into::into).collect());
        table
    }

    /// Adds a row; an empty cell is shown as kubectl shows it.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        let cells: Vec<String> =
            cells.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { clean(&cell) }).collect();
        for (column, cell) in cells.iter().enumerate() {
            match self.widths.get_mut(column) {
                Some(widest) => *widest = (*widest).max(width(cell)),
                None => self.widths.push(width(cell)),
            }
        }
        self.rows.push(cells);
    }

    /// Takes the rows out as lines; the widths stay, so that rows added later line up with those before.
    pub(crate) fn take(&mut self) -> String {
        let mut text = String::new();
        for row in self.rows.drain(..) {
            let last = row.len().saturating_sub(1);
            for (column, cell) in row.iter().enumerate() {
                text.push_str(cell);
                if column < last {
                    let widest = self.widths.get(column).copied().unwrap_or(0);
                    text.extend(std::iter::repeat_n(' ', widest.saturating_sub(width(cell)) + 3));
                }
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let mut table = Table::new(["NAME", "SIZE"]);
        table.row(vec!["a-long-name".into(), "1".into()]);
        table.row(vec!["ä".into(), String::new()]);
        assert_eq!(table.take(), "NAME          SIZE\na-long-name   1\nä             -\n");
        table.row(vec!["b".into(), "2".into()]);
        assert_eq!(table.take(), "b             2\n");
    }

    #[test]
    fn a_cell_cannot_move_the_cursor() {
        let mut table = Table::new(["NAME"]);
        table.row(vec!["\u{1b}[2Jx\ny".into()]);
        assert!(!table.take().contains('\u{1b}'));
    }
}
