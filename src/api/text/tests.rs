//! Scalars as Kubernetes reads them; everything hostile stops at a limit.

use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn one(text: &str) -> Value {
    let mut documents = read(text.as_bytes()).unwrap();
    assert_eq!(documents.len(), 1, "{text}");
    documents.pop().unwrap().1.unwrap()
}

fn fault(text: &str) -> TextError {
    match read(text.as_bytes()) {
        Err(error) => error,
        Ok(documents) => documents.into_iter().find_map(|(_, d)| d.err()).expect("no fault"),
    }
}

#[test]
fn scalars_are_those_of_yaml_1_1() {
    for (text, value) in [
        ("0644", json!(420)),
        ("0o644", json!(420)),
        ("0x1F", json!(31)),
        ("0b11", json!(3)),
        ("-0x10", json!(-16)),
        ("-010", json!(-8)),
        ("+7", json!(7)),
        ("1_000", json!(1000)),
        ("0", json!(0)),
        ("-1", json!(-1)),
        ("08", json!(8.0)),
        ("1.5", json!(1.5)),
        (".5", json!(0.5)),
        ("1e3", json!(1000.0)),
        ("18446744073709551615", json!(u64::MAX)),
        ("on", json!(true)),
        ("Off", json!(false)),
        ("y", json!(true)),
        ("NO", json!(false)),
        ("~", json!(null)),
        ("Null", json!(null)),
        ("", json!(null)),
        ("\"0644\"", json!("0644")),
        ("'on'", json!("on")),
        ("!!str 1", json!("1")),
        ("!!int \"7\"", json!(7)),
        ("2001-01-01", json!("2001-01-01")),
        ("12:30:45", json!("12:30:45")),
        ("1.2.3", json!("1.2.3")),
        ("0x", json!("0x")),
        ("1Gi", json!("1Gi")),
        ("100m", json!("100m")),
        ("-", json!(null)),
        ("oN", json!("oN")),
        ("-+1", json!("-+1")),
        ("0x-1", json!("0x-1")),
        ("|\n   a\n   b\n", json!("a\nb\n")),
        (">\n   a\n   b\n", json!("a b\n")),
    ] {
        let expected = if text == "-" { json!([null]) } else { value };
        assert_eq!(one(&format!("v: {}\n", if text == "-" { "\n- " } else { text }))["v"], expected, "{text}");
    }
    assert!(matches!(fault("v: .nan"), TextError::Value { .. }));
    assert!(matches!(fault("v: !mine x"), TextError::Value { .. }));
    assert!(matches!(fault("v: !!int x"), TextError::Value { .. }));
}

#[test]
fn keys_become_strings_and_none_comes_twice() {
    assert_eq!(one("1: a\non: b\n"), json!({"1": "a", "true": "b"}));
    assert!(matches!(fault("a: 1\nb: 2\na: 3\n"), TextError::Duplicate { key, line: 3 } if key == "a"));
    assert!(matches!(fault("? [a]\n: 1\n"), TextError::Value { .. }));
    assert!(matches!(fault("{\"a\": {\"b\": 1, \"b\": 2}}"), TextError::Duplicate { key, .. } if key == "b"));
}

#[test]
fn aliases_and_merge_keys_are_written_out() {
    let text = "base: &b {x: 1, y: 2}\nuse: *b\nmerged:\n  <<: *b\n  x: 9\nmany: {<<: [*b, {y: 3, z: 4}]}\n";
    assert_eq!(
        one(text),
        json!({
            "base": {"x": 1, "y": 2}, "use": {"x": 1, "y": 2},
            "merged": {"x": 9, "y": 2}, "many": {"x": 1, "y": 2, "z": 4}
        })
        .pointer("")
        .map(|v| {
            // YAML 1.1 writes `y` for true.
            serde_json::from_str::<Value>(&v.to_string().replace("\"y\"", "\"true\"")).unwrap()
        })
        .unwrap()
    );
    assert!(matches!(fault("a: &a [*a]"), TextError::Value { .. } | TextError::Syntax { .. }));
    assert!(matches!(fault("a: &x 1\n---\nb: *x\n"), TextError::Syntax { .. } | TextError::Value { .. }));
}

#[test]
fn documents_keep_their_numbers_and_empty_ones_are_left_out() {
    let documents = read(b"---\n---\na: 1\n---\n# nothing\n---\nb: 2\nb: 3\n---\nc: 4\n").unwrap();
    let numbers: Vec<_> = documents.iter().map(|(n, d)| (*n, d.is_ok())).collect();
    assert_eq!(numbers, [(2, true), (4, false), (5, true)]);
    let json = read(b"{\"a\": 1}\n{\"b\": 2}").unwrap();
    assert_eq!(json.len(), 2);
    assert_eq!(read(b"{a: 1, b: [x]}").unwrap()[0].1, Ok(json!({"a": 1, "b": ["x"]})));
    assert!(read(b"").unwrap().is_empty());
    assert!(read(b"# only a comment\n").unwrap().is_empty());
}

#[test]
fn a_broken_text_gives_nothing_of_what_precedes() {
    for text in
        ["a: 1\n---\nb: [1, 2\n", "a: 1\n---\nb: \"x\n", "{\"a\": 1} {\"b\": ", "a: 1\n b: 2\n", "a: *nowhere\n"]
    {
        assert!(matches!(read(text.as_bytes()), Err(TextError::Syntax { .. })), "{text}");
    }
}

#[test]
fn a_byte_order_mark_is_fine_and_other_encodings_are_named() {
    assert_eq!(one("\u{feff}a: 1\n"), json!({"a": 1}));
    assert_eq!(one("\u{feff}{\"a\": 1}"), json!({"a": 1}));
    assert_eq!(read(b"a: \xff\n"), Err(TextError::Encoding { at: 3 }));
    assert_eq!(read(b"a: \0\n"), Err(TextError::Nul { at: 3 }));
    let utf16: Vec<u8> = "\u{feff}a: 1".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(matches!(read(&utf16), Err(TextError::Encoding { .. } | TextError::Nul { .. })));
}

#[test]
fn size_is_limited_at_the_byte() {
    let mut text = vec![b' '; MAX_FILE];
    text[..5].copy_from_slice(b"a: 1\n");
    assert!(read(&text).is_ok());
    text.push(b' ');
    assert_eq!(read(&text), Err(TextError::Large));
}

#[test]
fn an_alias_bomb_stops_at_the_limit() {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let list = vec![format!("*a{}", i - 1); 10].join(", ");
        writeln!(laughs, "a{i}: &a{i} [{list}]").unwrap();
    }
    assert!(matches!(read(laughs.as_bytes()), Err(TextError::Limit { .. })));
    let wide = format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 100].join(", "));
    assert!(matches!(read(wide.as_bytes()), Err(TextError::Limit { .. })));
}

#[test]
fn depth_and_count_are_limited() {
    let nested = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
    assert!(read(format!("a: {}", nested(MAX_DEPTH - 2)).as_bytes()).is_ok());
    assert!(read(format!("a: {}", nested(MAX_DEPTH + 2)).as_bytes()).is_err());
    assert!(read(format!("{{\"a\": {}}}", nested(100_000)).as_bytes()).is_err());
    let mut block = String::new();
    for i in 0..200 {
        writeln!(block, "{}a:", " ".repeat(i)).unwrap();
    }
    assert!(read(block.as_bytes()).is_err());
    let mut chain = String::from("a0: &a0 [x]\n");
    for i in 1..500 {
        writeln!(chain, "a{i}: &a{i} [*a{}]", i - 1).unwrap();
    }
    assert!(matches!(read(chain.as_bytes()), Err(TextError::Limit { .. })));
    let many = format!("[{}]", vec!["1"; MAX_VALUES - 1].join(","));
    assert!(read(many.as_bytes()).is_ok());
    let more = format!("[{}]", vec!["1"; MAX_VALUES].join(","));
    assert!(matches!(read(more.as_bytes()), Err(TextError::Limit { .. })));
    let json = format!("{{\"a\": [{}]}}", vec!["1"; MAX_VALUES].join(","));
    assert!(read(json.as_bytes()).is_err());
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop_oneof![Just("on"), Just("0644"), Just("1e3"), Just("~"), Just("<<"), Just("a: b"), Just("- x")]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-z<.]{1,6}", inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(\\PC|[\\n :&*\\-\\[\\]{}\"'|>!%#?,]){0,200}") {
        let _ = read(text.as_bytes());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
    }

    #[test]
    fn what_is_written_as_json_reads_back_as_json_and_as_yaml(value in any_value()) {
        let document = json!({ "v": value });
        let text = serde_json::to_string(&document).unwrap();
        prop_assert_eq!(&read(text.as_bytes()).unwrap()[0].1, &Ok(document.clone()));
        // The same text after a document marker is YAML's flow style.
        prop_assert_eq!(&yaml::read(&format!("---\n{text}\n")).unwrap()[0].1, &Ok(document));
    }
}
