//! The rules every JSON shape from outside keeps, held against one shape at a time.
//!
//! Set-up: a sample with every field, and what reads it. Property: at every depth an unknown field
//! and a repeated one are refused by name, `null` is taken exactly where the field may be absent,
//! a value of another kind is told in the words of JSON, and the sample has every field there is,
//! so that a field added later is held against the rules too. Why: what a misspelt field was to
//! narrow would go to everybody.

use ara_shards::wire::json::{Fault, Problem};
use serde_json::{Map, Value};

/// What serde and serde_json would say.
const WORDS_OF_LIBRARIES: [&str; 14] = [
    "invalid type",
    "invalid value",
    "invalid length",
    "expected u64",
    "expected struct",
    "struct ",
    "unit variant",
    "unknown variant",
    "enum ",
    "sequence",
    "map",
    "floating point",
    "EOF",
    "integer",
];

/// One value of each kind there is.
const KINDS: [&str; 8] = ["{}", "[]", "[[]]", "[null]", r#""\ud800""#, "true", "1.5", "-1"];

enum Edit<'a> {
    Add,
    Repeat(&'a str),
    Drop(&'a str),
    Set(&'a str, &'a str),
}

/// Holds the rules against what `read` reads. The fields named in `any` take any JSON.
pub(crate) fn examine(sample: &str, any: &[&str], read: impl Fn(&str) -> Result<(), Fault>) {
    let sample: Value = serde_json::from_str(sample).unwrap();
    read(&sample.to_string()).expect("the sample is taken");
    let mut objects = Vec::new();
    find_objects(&sample, "", any, &mut objects);
    for (place, object) in &objects {
        let edited = |edit: Edit<'_>| read(&render(&sample, "", place, &edit));
        let path = |name: &str| join(place, name);

        let fault = edited(Edit::Add).unwrap_err();
        assert_eq!(fault.field(), Some(path("not.a field").as_str()));
        let Problem::Unknown(known) = fault.problem() else { panic!("{fault}") };
        let mut known = known.to_vec();
        known.sort_unstable();
        let names: Vec<&String> = object.keys().collect();
        assert_eq!(names, known, "the sample has every field of `{place}`");

        for name in object.keys() {
            let fault = edited(Edit::Repeat(name)).unwrap_err();
            assert_eq!((fault.field(), fault.problem()), (Some(&*path(name)), Problem::Repeated));
            let (null, absent) = (edited(Edit::Set(name, "null")), edited(Edit::Drop(name)));
            if any.contains(&name.as_str()) {
                continue;
            }
            assert_eq!(null.is_ok(), absent.is_ok(), "`null` is as good as no `{}`", path(name));
            for kind in KINDS {
                let Err(fault) = edited(Edit::Set(name, kind)) else { continue };
                let sentence = fault.to_string();
                assert!(sentence.contains(name), "{sentence}");
                assert!(fault.position().is_some(), "{sentence}");
                for words in WORDS_OF_LIBRARIES {
                    assert!(!sentence.contains(words), "{sentence}");
                }
            }
        }
    }
}

fn join(place: &str, name: &str) -> String {
    if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") }
}

/// Every object that is read, with its path.
fn find_objects<'a>(
    value: &'a Value,
    place: &str,
    any: &[&str],
    found: &mut Vec<(String, &'a Map<String, Value>)>,
) {
    let Value::Object(object) = value else { return };
    found.push((place.to_owned(), object));
    for (name, value) in object.iter().filter(|(name, _)| !any.contains(&name.as_str())) {
        find_objects(value, &join(place, name), any, found);
    }
}

/// The value with the object at `place` edited.
fn render(value: &Value, here: &str, place: &str, edit: &Edit<'_>) -> String {
    let Value::Object(object) = value else { return value.to_string() };
    let mut members = Vec::new();
    for (name, value) in object {
        let member = |value: &str| format!("{}:{value}", Value::from(name.as_str()));
        let nested = render(value, &join(here, name), place, edit);
        match edit {
            Edit::Drop(dropped) if here == place && dropped == name => {}
            Edit::Set(set, raw) if here == place && set == name => members.push(member(raw)),
            Edit::Repeat(repeated) if here == place && repeated == name => {
                members.extend([member(&nested), member(&nested)]);
            }
            _ => members.push(member(&nested)),
        }
    }
    if matches!(edit, Edit::Add) && here == place {
        members.push(r#""not.a field":null"#.to_owned());
    }
    format!("{{{}}}", members.join(","))
}
