//! A text is taken apart where double braces stand in its strings, and nowhere else.
//!
//! Set-up: texts by hand. Why it matters: what is overlooked here is sent to people with its braces.

use super::*;

fn parse(text: &str) -> Result<Pattern, PatternFault> {
    Pattern::parse(RawValue::from_string(text.to_owned()).unwrap())
}

/// The pieces, with `<a>` for a value and `(a)` for text.
fn show(text: &str) -> String {
    let pattern = parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
    let name = |slot: u32| &*pattern.slots[slot as usize].path;
    let show = |piece: &Piece| {
        let literal = std::str::from_utf8(pattern.slice(&piece.literal)).unwrap();
        match piece.then {
            Then::Nothing => literal.to_owned(),
            Then::Value(slot) => format!("{literal}<{}>", name(slot)),
            Then::Text(slot) => format!("{literal}({})", name(slot)),
        }
    };
    pattern.pieces.iter().map(show).collect()
}

#[test]
fn double_braces_in_a_string_are_a_variable() {
    for (text, expected) in [
        (r#"1.10"#, "1.10"),
        (r#""{{a}}""#, "<a>"),
        (r#" "{{ a.b-c_1 }}" "#, "<a.b-c_1>"),
        (r#""x {{a}}{{b}}""#, r#""x (a)(b)""#),
        (r#""{{a}}{{a}}""#, r#""(a)(a)""#),
        (r#""{{a}} ""#, r#""(a) ""#),
        (
            r#"{"{{a}}": [1e400, "{{a}}", {"b" : "{{b}}"}]}"#,
            r#"{"{{a}}": [1e400, <a>, {"b" : <b>}]}"#,
        ),
        (r#""a } }} {b} { {""#, r#""a } }} {b} { {""#),
        // However a character is written.
        (r#""\u007b{a}\u007D""#, "<a>"),
        (r#""é\"{{a}}\n""#, r#""é\"(a)\n""#),
    ] {
        let text = text.trim_matches(' ');
        assert_eq!(show(text), expected, "{text}");
    }
}

#[test]
fn a_backslash_before_them_makes_them_braces() {
    for (text, expected) in [
        (r#""\\{{a}}""#, r#""{{a}}""#),
        (r#""x\\{{""#, r#""x{{""#),
        (r#""\\\\{{a}}""#, r#""\\(a)""#),
        (r#""\\\\\\{{a}}""#, r#""\\{{a}}""#),
        (r#""\u005c{{a}}""#, r#""{{a}}""#),
        (r#""\\{a} \\ \\\\""#, r#""\\{a} \\ \\\\""#),
        (r#""\\{{{{a}}""#, r#""{{(a)""#),
    ] {
        assert_eq!(show(text), expected, "{text}");
    }
}

#[test]
fn what_is_no_variable_is_refused_with_its_path() {
    for (text, path, problem) in [
        (r#""{{""#, "payload_template", PatternProblem::Unclosed),
        (r#""{{a}""#, "payload_template", PatternProblem::Unclosed),
        (r#"["{{a", "}}"]"#, "payload_template[0]", PatternProblem::Unclosed),
        (r#"{"a":[0,"{{}}"]}"#, "payload_template.a[1]", PatternProblem::BadName),
        (r#""{{ }}""#, "payload_template", PatternProblem::BadName),
        (r#""{{a b}}""#, "payload_template", PatternProblem::BadName),
        (r#""{{a.}}""#, "payload_template", PatternProblem::BadName),
        (r#""{{.a}}""#, "payload_template", PatternProblem::BadName),
        (r#""{{a\t}}""#, "payload_template", PatternProblem::BadName),
        (r#""{{{a}}}""#, "payload_template", PatternProblem::BadName),
        (r#""{{#each a}}""#, "payload_template", PatternProblem::BadName),
        (r#""{{é}}""#, "payload_template", PatternProblem::BadName),
    ] {
        let fault = parse(text).unwrap_err();
        assert_eq!((fault.path.as_str(), fault.problem), (path, problem), "{text}");
        assert!(fault.to_string().starts_with(&format!("`{path}` has ")), "{fault}");
    }
}

#[test]
fn a_pattern_has_its_bounds() {
    let names = |count: usize| format!(r#""{}""#, "{{a}}".repeat(count));
    assert!(parse(&names(PLACEHOLDERS_MAX)).is_ok());
    assert_eq!(parse(&names(PLACEHOLDERS_MAX + 1)).unwrap_err().problem, PatternProblem::TooMany);
    let long = |bytes: usize| format!(r#""{}""#, "x".repeat(bytes - 2));
    assert!(parse(&long(PATTERN_BYTES_MAX)).is_ok());
    assert_eq!(parse(&long(PATTERN_BYTES_MAX + 1)).unwrap_err().problem, PatternProblem::TooLong);
    let segments = |count: usize| format!(r#""{{{{{}}}}}""#, vec!["a"; count].join("."));
    assert!(parse(&segments(SEGMENTS_MAX)).is_ok());
    assert_eq!(parse(&segments(SEGMENTS_MAX + 1)).unwrap_err().problem, PatternProblem::BadName);
    let name = |bytes: usize| format!(r#""{{{{{}}}}}""#, "n".repeat(bytes));
    assert!(parse(&name(SEGMENT_BYTES_MAX)).is_ok());
    assert_eq!(parse(&name(SEGMENT_BYTES_MAX + 1)).unwrap_err().problem, PatternProblem::BadName);
}

#[test]
fn a_pattern_counts_with_what_it_takes() {
    let plain = parse(r#""text""#).unwrap().bytes();
    assert!((6..100).contains(&plain), "{plain}");
    let each = (parse(r#"["{{a}}","{{b}}"]"#).unwrap().bytes() - plain) / 2;
    let many: Vec<String> = (0..1000).map(|count| format!("\"{{{{v{count}}}}}\"")).collect();
    let many = parse(&format!("[{}]", many.join(","))).unwrap().bytes();
    assert!((each * 900..each * 1300).contains(&many), "{many} bytes, {each} each");
    assert!(each > size_of::<Slot>() + size_of::<Node>() + size_of::<Piece>());
}

#[test]
fn no_depth_of_a_text_costs_stack() {
    let depth = 30_000;
    let text = format!("{}\"{{{{a}}}}\"{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(parse(&text).unwrap().slots.len(), 1);
}
