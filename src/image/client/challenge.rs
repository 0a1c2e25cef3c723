//! `WWW-Authenticate` (RFC 9110, section 11.6.1), as registries use it.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Longer headers than this are not read.
const MAX_HEADER: usize = 8 << 10;

/// What a registry asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Challenges {
    /// It takes a name and a password.
    pub(super) basic: bool,
    /// It takes a token from this server.
    pub(super) bearer: Option<Bearer>,
}

/// Where to get a token, and for what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) realm: String,
    pub(super) service: Option<String>,
    pub(super) scope: Option<String>,
}

impl Challenges {
    /// Reads all challenges of an answer; what is not understood is left out.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut all = Self::default();
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = value.to_str() else { continue };
            if text.len() <= MAX_HEADER {
                all.read(text);
            }
        }
        all.bearer = all.bearer.filter(|b| !b.realm.is_empty());
        all
    }

    fn read(&mut self, text: &str) {
        let mut rest = text;
        let mut in_bearer = false;
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            let (word, after) = token(rest);
            if word.is_empty() {
                return;
            }
            let trimmed = after.trim_start_matches([' ', '\t']);
            let Some(value) = trimmed.strip_prefix('=') else {
                // A word without a value begins a challenge.
                in_bearer = word.eq_ignore_ascii_case("bearer") && self.bearer.is_none();
                self.basic |= word.eq_ignore_ascii_case("basic");
                if in_bearer {
                    self.bearer = Some(Bearer::default());
                }
                rest = trimmed;
                continue;
            };
            let (value, after) = value_of(value.trim_start_matches([' ', '\t']));
            rest = after;
            if let Some(bearer) = self.bearer.as_mut().filter(|_| in_bearer) {
                match word.to_ascii_lowercase().as_str() {
                    "realm" => bearer.realm = value,
                    "service" => bearer.service = Some(value),
                    "scope" => bearer.scope = Some(value),
                    _ => {}
                }
            }
        }
    }
}

/// A token and what follows it.
fn token(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c.is_whitespace() || matches!(c, ',' | '=' | '"')).unwrap_or(text.len());
    text.split_at(end)
}

/// A value, quoted or not, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        // Unquoted values hold more than tokens may in practice: read up to the next comma.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Challenges {
        Challenges::of(&lines.iter().map(|l| (WWW_AUTHENTICATE, l.parse().unwrap())).collect())
    }

    #[test]
    fn a_bearer_challenge_is_read() {
        let all = read(&[
            r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#,
        ]);
        let bearer = all.bearer.unwrap();
        assert_eq!(bearer.realm, "https://auth.example/token");
        assert_eq!(bearer.service.as_deref(), Some("r.example"));
        assert_eq!(bearer.scope.as_deref(), Some("repository:a/b:pull,push"));
        assert!(!all.basic);
    }

    #[test]
    fn several_challenges_in_one_line_or_many_are_told_apart() {
        for lines in [
            &[r#"Basic realm="x", Bearer realm="http://y", service=z"#][..],
            &["bearer realm=http://y,service=z", "BASIC"],
        ] {
            let all = read(lines);
            assert!(all.basic, "{lines:?}");
            assert_eq!(all.bearer.unwrap().service.as_deref(), Some("z"), "{lines:?}");
        }
        let other = read(&[r#"Negotiate abc==, Basic realm="a\"b, Bearer realm=\"x\"""#]);
        assert_eq!(other, Challenges { basic: true, bearer: None });
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for text in ["", ",,,", "=", "\"", "Bearer", "Bearer realm=", r#"Bearer realm="""#, "Bearer scope=x"] {
            assert_eq!(read(&[text]).bearer, None, "{text}");
        }
    }
}
