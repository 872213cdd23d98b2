//! What is rendered is what a naive renderer makes of it, and always JSON.
//!
//! Set-up: any JSON with variables in its strings, and any variables; the reference reads both into
//! trees, replaces, and writes the tree. Why it matters: clients parse what comes out of this.

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;
use crate::templates::pattern::Pattern;
use ara_shards::notification::Priority;

fn template(text: &str) -> Rc<Template> {
    let text = RawValue::from_string(text.to_owned()).unwrap();
    Rc::new(Template {
        id: "t".into(),
        name: None,
        event_type: "e".into(),
        pattern: Pattern::parse(text).unwrap(),
        default_priority: Priority::Normal,
        default_ttl: None,
        created_ms: 0,
        updated_ms: 0,
    })
}

fn render(text: &str, variables: &str) -> Result<String, RenderFault> {
    let rendered = Rendered::new(template(text), Bytes::from(variables.to_owned()))?;
    let mut bytes = b"before".to_vec();
    rendered.write_to(&mut bytes);
    assert_eq!(bytes.len(), 6 + rendered.len(), "its length is known before");
    Ok(String::from_utf8(bytes.split_off(6)).unwrap())
}

/// Why the reference gives nothing.
#[derive(Debug, PartialEq, Eq)]
enum Naive {
    Missing(Vec<String>),
    Invalid,
}

/// What `{{a.b}}` means in these variables.
fn look_up<'a>(variables: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(variables, |value, name| value.as_object()?.get(name))
}

/// The parts of a string: text, or the path of a variable.
fn parts(text: &str) -> Vec<Result<String, String>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let before = rest[..start].trim_end_matches('\\');
        let backslashes = start - before.len();
        parts.push(Ok(format!("{before}{}", "\\".repeat(backslashes / 2))));
        if backslashes % 2 == 1 {
            parts.push(Ok("{{".to_owned()));
            rest = &rest[start + 2..];
        } else {
            let end = start + rest[start..].find("}}").unwrap();
            parts.push(Err(rest[start + 2..end].trim_matches(' ').to_owned()));
            rest = &rest[end + 2..];
        }
    }
    parts.push(Ok(rest.to_owned()));
    parts.retain(|part| part.as_deref() != Ok(""));
    parts
}

fn naive(value: &Value, variables: &Value, faults: &mut (Vec<String>, bool)) -> Value {
    match value {
        Value::String(text) => {
            let parts = parts(text);
            if let [Err(path)] = &parts[..] {
                return look_up(variables, path).cloned().unwrap_or_else(|| {
                    faults.0.push(path.clone());
                    Value::Null
                });
            }
            let text = parts.into_iter().map(|part| match part {
                Ok(text) => text,
                Err(path) => match look_up(variables, &path) {
                    Some(Value::String(text)) => text.clone(),
                    Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
                    Some(_) => {
                        faults.1 = true;
                        String::new()
                    }
                    None => {
                        faults.0.push(path);
                        String::new()
                    }
                },
            });
            Value::String(text.collect())
        }
        Value::Array(values) => {
            values.iter().map(|value| naive(value, variables, faults)).collect()
        }
        Value::Object(members) => {
            let members = members.iter();
            let members =
                members.map(|(name, value)| (name.clone(), naive(value, variables, faults)));
            Value::Object(members.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

fn reference(text: &Value, variables: &Value) -> Result<Value, Naive> {
    let mut faults = (Vec::new(), false);
    let value = naive(text, variables, &mut faults);
    let (mut missing, invalid) = faults;
    missing.sort();
    missing.dedup();
    match (missing.is_empty(), invalid) {
        (true, false) => Ok(value),
        (true, true) => Err(Naive::Invalid),
        (false, _) => Err(Naive::Missing(missing)),
    }
}

fn any_string() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => prop::sample::select(vec![
            "{{a}}", "{{ b }}", "{{a.b}}", "{{a.c}}", "{{b.a.c}}", "{{c}}", "{{a.b.c}}",
        ]).prop_map(str::to_owned),
        1 => Just("\\{{x}}".to_owned()),
        1 => Just("\\\\{{a}}".to_owned()),
        3 => "[a\"\\\\/\n\u{0}é😀 }]{0,3}",
    ];
    // What stands alone is a value.
    prop_oneof![
        1 => prop::sample::select(vec!["{{a}}", "{{b}}", "{{a.b}}", "{{c}}"]).prop_map(str::to_owned),
        2 => prop::collection::vec(part, 0..4).prop_map(|parts| parts.concat()),
    ]
}

fn any_value(
    text: impl Strategy<Value = String> + Clone + 'static,
) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        4 => text.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let name =
            prop::sample::select(vec!["a", "b", "c", "é\"", "{{a}}"]).prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name, inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_variables() -> impl Strategy<Value = Value> {
    let value = || any_value("[a-z\"\\\\\né{}]{0,4}".boxed());
    let name = prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(str::to_owned);
    prop::collection::btree_map(name, value(), 0..4)
        .prop_map(|members| Value::Object(members.into_iter().collect()))
}

proptest! {
    #[test]
    fn it_is_what_a_naive_renderer_makes(text in any_value(any_string().boxed()), variables in any_variables()) {
        let (pretty, plain) = (serde_json::to_string_pretty(&text).unwrap(), variables.to_string());
        let expected = reference(&text, &variables);
        match render(&pretty, &plain) {
            Ok(json) => {
                let found: Value = serde_json::from_str(&json).unwrap();
                prop_assert_eq!(Ok(found), expected);
            }
            Err(RenderFault::Missing(names)) => {
                let names = names.into_iter().map(String::from).collect();
                prop_assert_eq!(Err(Naive::Missing(names)), expected);
            }
            Err(RenderFault::Invalid { place, .. }) => {
                prop_assert!(place.is_some());
                prop_assert_eq!(Err(Naive::Invalid), expected);
            }
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }

    /// Bytes, not values: nothing of either is written anew.
    #[test]
    fn what_fills_a_place_keeps_its_bytes(
        value in prop::sample::select(vec![
            "1.50", "-0", "1e400", "123456789012345678901234567890", r#""\u0041\/""#, "{\"b\" : 1 }", "[ ]", "null",
        ]),
    ) {
        let json = render(r#"{"a" :"{{x}}",  "n":1.10}"#, &format!("{{\"x\" : {value} }}")).unwrap();
        prop_assert_eq!(json, format!(r#"{{"a" :{value},  "n":1.10}}"#));
    }
}

#[test]
fn variables_that_are_no_object_or_say_something_twice_are_refused() {
    for text in ["[]", "1", "null", "\"x\""] {
        assert_eq!(render("1", text), Err(RenderFault::NotAnObject), "{text}");
    }
    let twice = |text: &str| {
        let Err(RenderFault::Invalid { variable, problem, .. }) =
            render("[\"{{a}}\",\"{{b.c}}\"]", text)
        else {
            panic!("{text}")
        };
        assert_eq!(problem, VariableProblem::Repeated, "{text}");
        variable.into_string()
    };
    assert_eq!(twice(r#"{"a":1,"b":{"c":1},"\u0061":2}"#), "a");
    assert_eq!(twice(r#"{"a":1,"b":{"c":1},"b":{}}"#), "b");
    assert_eq!(twice(r#"{"a":1,"b":{"c":1,"c":1}}"#), "c");
    // Of what nobody asks for nobody looks.
    assert_eq!(render("\"{{a}}\"", r#"{"z":1,"a":1,"z":2}"#).unwrap(), "1");
}

#[test]
fn half_of_a_surrogate_pair_is_a_value_and_no_text() {
    let half = r#"{"a":"x\ud83d"}"#;
    assert_eq!(render("\"{{a}}\"", half).unwrap(), r#""x\ud83d""#);
    let Err(RenderFault::Invalid { problem, .. }) = render(r#""{{a}}\ude00""#, half) else {
        panic!()
    };
    assert_eq!(problem, VariableProblem::HalfPair);
    assert_eq!(render("\"{{a}}.\"", r#"{"a":"\ud83d\ude00"}"#).unwrap(), r#""\ud83d\ude00.""#);
}

#[test]
fn no_depth_of_the_variables_costs_stack() {
    let depth = 30_000;
    let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let json = render("{\"a\":\"{{a}}\"}", &format!("{{\"unused\":{deep},\"a\":{deep}}}")).unwrap();
    assert_eq!(json, format!("{{\"a\":{deep}}}"));
    let objects = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    assert!(render("\"{{a.a.a.a.a.a.a.a}}\"", &objects).is_ok());
}

#[test]
fn a_length_that_cannot_be_is_a_length() {
    let text = format!("\"{}\"", "{{a}}".repeat(1000));
    let rendered = Rendered::new(
        template(&text),
        Bytes::from(format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20))),
    );
    assert_eq!(rendered.unwrap().len(), 2 + (1000 << 20));
}
