//! Files of variables that containers write for others (`fileKeyRef`).
//!
//! ```text
//! # a comment
//! NAME='everything up to the next quote, line ends too'
//! NAME=the rest of the line, without the blanks around it
//! ```
//!
//! Quoted values are what Kubernetes asks for; the other form is that of its first release of this.

/// The largest file that is read, as on a kubelet.
pub const MAX_FILE: usize = 64 << 10;

/// The value of a key; of two that have it the first counts. `None`: there is no such key.
///
/// # Errors
/// The number of the line, from 1, that cannot be understood.
pub fn find(text: &str, key: &str) -> Result<Option<String>, usize> {
    let mut found = None;
    let (mut rest, mut line) = (text, 1);
    while !rest.is_empty() {
        let (this, next) = rest.split_once('\n').unwrap_or((rest, ""));
        let shown = this.trim();
        if shown.is_empty() || shown.starts_with('#') {
            (rest, line) = (next, line + 1);
            continue;
        }
        let (name, value) = this.split_once('=').ok_or(line)?;
        let name = name.trim();
        if name.is_empty() {
            return Err(line);
        }
        let value = if value.trim_start().starts_with('\'') {
            // From the opening quote on, over the ends of lines.
            let open = rest.split_once('\'').map(|(_, quoted)| quoted).ok_or(line)?;
            let (quoted, after) = open.split_once('\'').ok_or(line)?;
            let (tail, next) = after.split_once('\n').unwrap_or((after, ""));
            let tail = tail.trim();
            if !tail.is_empty() && !tail.starts_with('#') {
                return Err(line);
            }
            (rest, line) = (next, line + 1 + quoted.matches('\n').count());
            quoted.to_owned()
        } else {
            (rest, line) = (next, line + 1);
            value.trim().to_owned()
        };
        if name == key && found.is_none() {
            found = Some(value);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn values_are_quoted_or_the_rest_of_the_line() {
        let text =
            "# comment='x'\n\n  A='one'\nB = two # three \r\nC='a\nb=\"c\"\n' # comment\nD=\nE='$A' \nA='again'\n";
        for (key, value) in [
            ("A", Some("one")),
            ("B", Some("two # three")),
            ("C", Some("a\nb=\"c\"\n")),
            ("D", Some("")),
            ("E", Some("$A")),
            ("b", None),
            ("# comment", None),
        ] {
            assert_eq!(find(text, key), Ok(value.map(str::to_owned)), "{key}");
        }
        assert_eq!(find("", "A"), Ok(None));
    }

    #[test]
    fn a_line_that_cannot_be_understood_is_numbered() {
        for (text, line) in
            [("A='1'\nno", 2), ("='1'", 1), ("A='1'\n\nB='2", 3), ("A='1\n2'\nB='2'x", 3), ("A='1''2'", 1)]
        {
            assert_eq!(find(text, "Z"), Err(line), "{text}");
        }
    }
}
