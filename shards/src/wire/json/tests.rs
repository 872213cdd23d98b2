//! One reader for every shape: what it takes, and what it says about the rest.
//!
//! Set-up: structs with every kind of field in use, tables, and arbitrary text. Property: nothing
//! is taken that the grammar of JSON or the rules of the reader forbid, and a fault stands where it
//! is. Why: its sentences go to people who cannot see this program.

use proptest::prelude::*;

use super::*;

#[derive(Debug, PartialEq, Deserialize)]
struct Outer<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
    number: Option<u64>,
    truth: Option<bool>,
    list: Option<Vec<String>>,
    choice: Option<Choice>,
    inner: Option<Inner>,
}

#[derive(Debug, PartialEq, Deserialize)]
enum Choice {
    One,
    Two,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Inner {
    #[serde(rename = "type")]
    kind: String,
}

fn refused(text: &str) -> Fault {
    read::<Outer<'_>>(text.as_bytes(), Unknown::Refused).map(drop).unwrap_err()
}

#[test]
fn every_kind_of_field_is_read() {
    let text = "\u{feff} {\"text\":\"a\\u00e9\\n\",\"number\":18446744073709551615,\"truth\":false,\
                \"list\":[ \"b\" , \"\\\"\" ],\"choice\":\"Two\",\"inner\":{\"type\":\"t\"}}\r\n";
    let read: Outer<'_> = read(text.as_bytes(), Unknown::Refused).unwrap();
    let expected = Outer {
        text: "aé\n".into(),
        number: Some(u64::MAX),
        truth: Some(false),
        list: Some(vec!["b".to_owned(), "\"".to_owned()]),
        choice: Some(Choice::Two),
        inner: Some(Inner { kind: "t".to_owned() }),
    };
    assert_eq!(read, expected);
}

#[test]
fn null_is_absent() {
    let nulls = r#"{"text":"","number":null,"truth":null,"list":null,"choice":null,"inner":null}"#;
    let absent = r#"{"text":""}"#;
    let read = |text| read_text::<Outer<'_>>(text, Unknown::Refused).unwrap();
    assert_eq!(read(nulls), read(absent));
}

#[test]
fn unknown_fields_are_ignored_at_every_depth_on_request_and_repeated_ones_never() {
    let text = r#"{"new":[{}],"text":"","inner":{"new":1,"type":"t","new":2}}"#;
    assert!(read_text::<Outer<'_>>(text, Unknown::Ignored).is_ok());
    let twice = r#"{"text":"","inner":{"type":"t","type":"t"}}"#;
    let fault = read_text::<Outer<'_>>(twice, Unknown::Ignored).unwrap_err();
    assert_eq!((fault.field(), fault.problem()), (Some("inner.type"), Problem::Repeated));
}

#[test]
fn each_fault_has_its_sentence_and_its_place() {
    for (text, sentence, position) in [
        ("", "there is no JSON: it is empty", (1, 1)),
        (" \n ", "there is no JSON: it is empty", (1, 1)),
        ("{\n", "malformed JSON: it ends too early, at line 2, column 1", (2, 1)),
        (r#"{"text":"a"#, "malformed JSON: it ends too early, at line 1, column 10", (1, 10)),
        (
            "{\"text\":\n  oops}",
            "malformed JSON at line 2, column 3: `o` cannot stand there",
            (2, 3),
        ),
        (
            r#"{"text":"a",}"#,
            "malformed JSON at line 1, column 13: `}` cannot stand there",
            (1, 13),
        ),
        (
            r#"{"text":"a"} x"#,
            "malformed JSON at line 1, column 14: `x` cannot stand there",
            (1, 14),
        ),
        ("[]", "the JSON must be an object, not an array", (1, 1)),
        ("\"text\"", "the JSON must be an object, not a string", (1, 1)),
        ("null", "the JSON must be an object, not null", (1, 1)),
        ("\n {}", "`text` is missing", (1, 1)),
        ("{\"text\":\n null}", "`text` must be a string, not null", (2, 2)),
        ("{\"text\":\"\",\n\"text\":\"\"}", "`text` is given twice", (2, 8)),
        (
            r#"{"text":"","inner":{"typo":1}}"#,
            "unknown field `inner.typo`; known here: `type`",
            (1, 28),
        ),
        (r#"{"text":"","inner":{}}"#, "`inner.type` is missing", (1, 20)),
        (r#"{"text":"","inner":["t"]}"#, "`inner` must be an object, not an array", (1, 20)),
        (
            r#"{"text":"","number":-1}"#,
            "`number` must be a whole number, 0 or more, not a negative number",
            (1, 21),
        ),
        (
            r#"{"text":"","number":1.0}"#,
            "`number` must be a whole number, 0 or more, not a number with a fraction or an exponent",
            (1, 21),
        ),
        (
            r#"{"text":"","number":18446744073709551616}"#,
            "`number` must be a whole number, 0 or more, not a number over 18446744073709551615",
            (1, 21),
        ),
        (r#"{"text":"","truth":"true"}"#, "`truth` must be true or false, not a string", (1, 20)),
        (r#"{"text":"","list":{}}"#, "`list` must be an array, not an object", (1, 19)),
        (r#"{"text":"","list":["a", 7]}"#, "`list[1]` must be a string, not a number", (1, 25)),
        (r#"{"text":"","choice":"one"}"#, "`choice` must be one of `One`, `Two`", (1, 21)),
        (r#"{"text":"","choice":{"One":1}}"#, "`choice` must be a string, not an object", (1, 21)),
        (
            r#"{"text":"\udc00"}"#,
            "`text` must be a string without half of a surrogate pair",
            (1, 9),
        ),
    ] {
        let fault = refused(text);
        assert_eq!((&*fault.to_string(), fault.position()), (sentence, Some(position)), "{text}");
    }
}

#[test]
fn other_encodings_are_named() {
    let wide = |mark: &[u8], order: fn(u16) -> [u8; 2]| {
        let units: Vec<u8> = r#"{"text":"a"}"#.encode_utf16().flat_map(order).collect();
        [mark, &units].concat()
    };
    for (bytes, name) in [
        (wide(b"\xff\xfe", u16::to_le_bytes), "UTF-16"),
        (wide(b"\xfe\xff", u16::to_be_bytes), "UTF-16"),
        (wide(b"", u16::to_le_bytes), "UTF-16"),
        (wide(b"", u16::to_be_bytes), "UTF-16"),
        (b"\0\0\xfe\xff\0\0\0{".to_vec(), "UTF-32"),
        (b"{\0\0\0\"\0\0\0".to_vec(), "UTF-32"),
    ] {
        let fault = read::<Outer<'_>>(&bytes, Unknown::Refused).unwrap_err();
        assert_eq!(fault.problem(), Problem::Encoding(name), "{bytes:?}");
    }
    let latin1 = b"{\"text\":\n\"caf\xe9\"}";
    let fault = read::<Outer<'_>>(latin1, Unknown::Refused).unwrap_err();
    let sentence = "JSON must be in UTF-8, not in another encoding at line 2, column 5";
    assert_eq!(fault.to_string(), sentence);
}

#[test]
fn a_strangers_name_is_cut_and_harmless() {
    let fault = refused(&format!(r#"{{"\u001b[2J{}":1}}"#, "€".repeat(500)));
    let sentence = fault.to_string();
    assert!(sentence.len() < 400 && !sentence.contains('\u{1b}'), "{sentence}");
}

#[test]
fn depth_costs_no_stack() {
    let deep = "[".repeat(1 << 19);
    for text in [
        format!(r#"{{"text":{deep}"#),
        format!(r#"{{"text":{deep}{}}}"#, "]".repeat(1 << 19)),
        format!(r#"{{"other":{deep}{}}}"#, "]".repeat(1 << 19)),
        deep.clone(),
    ] {
        refused(&text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever comes: what is taken is one object of JSON, and a fault says something and stands
    /// within the text.
    #[test]
    fn arbitrary_text_is_never_a_surprise(text in prop_oneof![
        ".{0,60}",
        r#"[{}\[\]":, a-z\\0-9\n]{0,60}"#,
        r#"\{"text":("a"|"\\\\ud800"|1|null)(,"(text|number|list|inner|x\n)":[{}\[\]":,a-z0-9\n]{0,20})?\}?"#,
    ]) {
        for unknown in [Unknown::Refused, Unknown::Ignored] {
            match read_text::<Outer<'_>>(&text, unknown) {
                Ok(_) => {
                    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                    prop_assert!(value.is_object(), "{}", text);
                }
                Err(fault) => {
                    let sentence = fault.to_string();
                    prop_assert!(!sentence.is_empty() && sentence.len() < 500);
                    let (line, column) = fault.position().unwrap();
                    let line = text.split('\n').nth(line - 1);
                    prop_assert!((1..=line.unwrap().len() + 1).contains(&column), "{} {}", text, sentence);
                }
            }
        }
    }

    /// Strings come out as serde_json alone would read them.
    #[test]
    fn a_string_is_read_as_it_was_written(text: String) {
        let json = serde_json::json!({ "text": text, "list": [text] }).to_string();
        let read: Outer<'_> = read_text(&json, Unknown::Refused).unwrap();
        prop_assert_eq!(&read.text, &text);
        prop_assert_eq!(read.list.unwrap(), [text]);
    }
}

#[test]
fn the_members_of_an_object_are_shown_with_their_bytes() {
    let text = r#" {"a" : 1.50, "\u0062":{ "c":[] },"a":null} "#;
    let mut found = Vec::new();
    members(text, |name, value| found.push((name.to_owned(), value.get()))).unwrap();
    assert_eq!(found, [("a".into(), "1.50"), ("b".into(), r#"{ "c":[] }"#), ("a".into(), "null")]);
    for other in ["[]", "1", "null", ""] {
        assert!(members(other, |_, _| panic!("{other}")).is_err());
    }
}
