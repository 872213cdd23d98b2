//! Answers of the API as tables for people.
//!
//! **Runs on**: main. **Owns**: nothing. **Never**: hides a member it does not know in an answer that it
//! shows whole.

use std::fmt;

use serde_json::Value;

/// Rows of cells, the first of them the head.
#[derive(Debug)]
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    /// The entries of a list, by these members of each.
    fn of(entries: Option<&Value>, columns: &[&str]) -> Self {
        let mut rows = vec![columns.iter().map(|name| name.to_uppercase()).collect::<Vec<_>>()];
        for entry in entries.and_then(Value::as_array).into_iter().flatten() {
            rows.push(columns.iter().map(|name| cell(entry.get(*name))).collect());
        }
        Self(rows)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.0 {
            let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            writeln!(formatter, "{}", padded.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// A value in a cell. A control character of a user's own name must not command the terminal.
fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

/// The members of an object, a row each.
pub(super) fn members(answer: &Value) -> Table {
    let members = answer.as_object().into_iter().flatten();
    Table(members.map(|(name, value)| vec![name.clone(), cell(Some(value))]).collect())
}

/// A list of connections.
pub(super) fn connections(answer: &Value) -> Table {
    const COLUMNS: [&str; 9] = [
        "connection_id",
        "tenant_id",
        "user_id",
        "transport",
        "age_seconds",
        "subscription_count",
        "sent_bytes",
        "outbox_bytes",
        "address",
    ];
    Table::of(answer.get("connections"), &COLUMNS)
}

/// A list of templates.
pub(super) fn templates(answer: &Value) -> Table {
    let columns = ["id", "name", "event_type", "default_priority", "default_ttl", "updated_at"];
    Table::of(answer.get("templates"), &columns)
}

/// What waits for a user.
pub(super) fn queue(answer: &Value) -> Table {
    let mut rows = vec![
        ["ID", "OCCURRED_AT", "EVENT_TYPE", "ATTEMPTS", "IN_FLIGHT"].map(str::to_owned).into(),
    ];
    for entry in answer.get("notifications").and_then(Value::as_array).into_iter().flatten() {
        let of = |name: &str| cell(entry.pointer(&format!("/notification/{name}")));
        let (attempts, in_flight) = (cell(entry.get("attempts")), cell(entry.get("in_flight")));
        rows.push(vec![of("id"), of("occurred_at"), of("event_type"), attempts, in_flight]);
    }
    Table(rows)
}

/// Totals, and the shards.
pub(super) fn top(stats: &Value) -> Table {
    let mut rows = Vec::new();
    for section in ["connections", "users", "channels", "messages", "queue", "ack"] {
        let members = stats.get(section).and_then(Value::as_object).into_iter().flatten();
        let shown = members.filter(|(_, value)| value.is_number() || value.is_boolean());
        let shown: Vec<_> =
            shown.map(|(name, value)| format!("{name}={}", cell(Some(value)))).collect();
        rows.push(vec![format!("{section:12}  {}", shown.join("  "))]);
    }
    rows.push(Vec::new());
    let columns =
        ["shard", "core", "connections", "users", "channels", "inbox_depth", "outbox_bytes"];
    rows.extend(Table::of(stats.get("shards"), &columns).0);
    Table(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_names_command_no_terminal() {
        let answer = serde_json::json!({ "templates": [
            { "id": "a", "name": null, "event_type": "long.event.type", "default_ttl": 5 },
            { "id": "bbbb", "name": "\u{1b}[2Jü", "event_type": "e", "default_priority": "High" },
        ]});
        assert_eq!(
            templates(&answer).to_string(),
            "ID    NAME   EVENT_TYPE       DEFAULT_PRIORITY  DEFAULT_TTL  UPDATED_AT\n\
             a     -      long.event.type  -                 5            -\n\
             bbbb  \u{fffd}[2Jü  e                High              -            -\n"
        );
    }
}
