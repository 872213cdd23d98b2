//! The report at the end of a run: an aligned table on standard output, and the same as JSON. Names the
//! machine and the command line, without which no figure means anything.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::fault::{Context, Outcome};
use crate::figures::Figure;

#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    /// What was asked for, in words.
    pub(crate) title: String,
    /// One group of figures, or one for each thing compared.
    pub(crate) groups: Vec<Group>,
    pub(crate) notes: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn print(&self) -> Outcome<()> {
        let mut text = format!("\n{}\n", self.title);
        for (key, value) in machine() {
            _ = writeln!(text, "  {key:<8} {value}");
        }
        text.push('\n');
        let tables = self.groups.chunk_by(|one, other| keys(one).eq(keys(other)));
        let tables: Vec<String> = tables
            .map(|groups| match groups {
                [group] if self.groups.len() == 1 => table(&group_rows(group, "")),
                [group] => table(&group_rows(group, &group.name)),
                groups => table(&comparison_rows(groups)),
            })
            .collect();
        text.push_str(&tables.join("\n"));
        for note in &self.notes {
            _ = writeln!(text, "\n{note}");
        }
        crate::say(&text)
    }

    pub(crate) fn write_json(&self, path: &Path) -> Outcome<()> {
        let machine: serde_json::Map<String, Value> =
            machine().into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
        let groups: Vec<Value> = self.groups.iter().map(group_json).collect();
        let all = json!({
            "scenario": self.scenario,
            "title": self.title,
            "machine": machine,
            "groups": groups,
            "notes": self.notes,
        });
        let text = serde_json::to_string_pretty(&all).context("cannot write JSON")?;
        fs::write(path, text + "\n").context(&format!("cannot write {}", path.display()))
    }
}

fn group_json(group: &Group) -> Value {
    let figures: Vec<Value> = group.figures.iter().map(Figure::json).collect();
    json!({ "name": group.name, "figures": figures })
}

/// What a group measures: groups that measure the same stand side by side.
fn keys(group: &Group) -> impl Iterator<Item = &'static str> {
    group.figures.iter().map(|figure| figure.key)
}

/// All samples of one group: a value, or minimum, median and maximum where there were rounds.
fn group_rows(group: &Group, name: &str) -> Vec<Vec<String>> {
    let rounds = group.figures.iter().map(|figure| figure.samples.len()).max().unwrap_or(0);
    let columns: &[&str] = if rounds > 1 { &["min", "median", "max"] } else { &["value"] };
    let mut heading = vec![name.to_owned()];
    heading.extend(columns.iter().map(|&cell| cell.to_owned()));
    let mut rows = vec![heading];
    for figure in &group.figures {
        let mut row = vec![figure.label.clone()];
        if rounds > 1 {
            row.extend([figure.min(), figure.median(), figure.max()].map(number));
        } else {
            row.push(number(figure.median()));
        }
        rows.push(row);
    }
    with_target_and_unit(rows, &group.figures)
}

/// Medians of several groups side by side.
fn comparison_rows(groups: &[Group]) -> Vec<Vec<String>> {
    let figures = groups.first().map(|group| group.figures.as_slice()).unwrap_or_default();
    let rounds = figures.iter().map(|figure| figure.samples.len()).max().unwrap_or(0);
    let what = if rounds > 1 { "median (min–max)" } else { "" };
    let mut heading = vec![what.to_owned()];
    heading.extend(groups.iter().map(|group| group.name.clone()));
    let mut rows = vec![heading];
    for figure in figures {
        let mut row = vec![figure.label.clone()];
        for group in groups {
            let same = group.figures.iter().find(|other| other.key == figure.key);
            row.push(same.map_or_else(
                || "–".to_owned(),
                |figure| {
                    let (least, most) = (number(figure.min()), number(figure.max()));
                    let spread =
                        if rounds > 1 { format!(" ({least}–{most})") } else { String::new() };
                    number(figure.median()) + &spread
                },
            ));
        }
        rows.push(row);
    }
    with_target_and_unit(rows, figures)
}

/// The last columns: targets only where there is one.
fn with_target_and_unit(mut rows: Vec<Vec<String>>, figures: &[Figure]) -> Vec<Vec<String>> {
    let any = figures.iter().any(|figure| figure.target.is_some());
    let lines = std::iter::once(None).chain(figures.iter().map(Some));
    for (row, figure) in rows.iter_mut().zip(lines) {
        if any {
            let target = figure.map(|figure| figure.target);
            row.push(match target {
                None => "target".to_owned(),
                Some(target) => {
                    target.map_or(String::new(), |target| format!("≤ {}", number(target)))
                }
            });
        }
        row.push(figure.map_or("unit", |figure| figure.unit).to_owned());
    }
    rows
}

/// First column to the left, the unit too, numbers to the right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        let mut line = String::from("  ");
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            _ = if column == 0 || column + 1 == columns {
                write!(line, "{cell:<width$}  ")
            } else {
                write!(line, "{cell:>width$}  ")
            };
        }
        _ = writeln!(text, "{}", line.trim_end());
        if at == 0 {
            let total = widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1);
            _ = writeln!(text, "  {}", "-".repeat(total));
        }
    }
    text
}

/// No more digits than a figure taken over loopback deserves.
fn number(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => "–".to_owned(),
        size if size >= 100.0 || size == 0.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn machine() -> Vec<(&'static str, String)> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let command: Vec<String> = std::env::args().skip(1).collect();
    vec![
        ("cpu", format!("{}, {cores} cores", model.map_or("unknown", |(_, name)| name.trim()))),
        ("kernel", kernel.trim().to_owned()),
        ("date", date),
        ("command", format!("ara-bench {}", command.join(" "))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let rows = [["", "value", "unit"], ["CPU per delivery", "4.25", "µs"], ["µ", "9", "B"]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|&cell| cell.to_owned()).collect()).collect();
        assert_eq!(
            table(&rows),
            "                    value  unit\n  \
             -----------------------------\n  \
             CPU per delivery   4.25  µs\n  \
             µ                     9  B\n"
        );
    }

    #[test]
    fn targets_stand_beside_their_figures() {
        let figures = vec![
            Figure::one("a", "A message", "B", 250.4).at_most(300.0),
            Figure::one("b", "Messages", "", 5.0),
        ];
        let rows = group_rows(&Group { name: "memory".to_owned(), figures }, "memory");
        assert_eq!(
            rows,
            [
                ["memory", "value", "target", "unit"],
                ["A message", "250", "≤ 300", "B"],
                ["Messages", "5", "", ""],
            ]
        );
    }

    #[test]
    fn numbers_are_short() {
        let shown = [12_345.6, 99.96, 1.239, 0.0123, 0.0, 3.0, f64::NAN].map(number);
        assert_eq!(shown, ["12346", "100.0", "1.24", "0.0123", "0", "3", "–"]);
    }
}
