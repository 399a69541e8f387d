//! What reaches the terminal: data on stdout, everything else on stderr, and no panic when either is closed.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use crate::error::CliError;

/// Writes data to stdout. A closed pipe is an error here, which [`crate::run`] turns into a silent end.
pub(crate) fn data(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(CliError::Output)
}

/// One line of data.
pub(crate) fn line(text: impl fmt::Display) -> Result<(), CliError> {
    data(format!("{text}\n").as_bytes())
}

/// One JSON value on a line of its own.
pub(crate) fn json(value: &Value) -> Result<(), CliError> {
    line(value)
}

/// One line for the person at the terminal. Nobody there to read it is no error.
pub(crate) fn note(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A note that only a person wants: scripts see silence for success.
pub(crate) fn confirm(text: impl fmt::Display) {
    if io::stderr().is_terminal() {
        note(text);
    }
}

/// The one line of an error: what happened, why, what to do next.
pub(crate) fn error(error: &CliError) {
    let text = one_line(&error.to_string());
    if io::stderr().is_terminal() && colours() {
        note(format_args!("\x1b[1;31mdyn:\x1b[0m {text}"));
    } else {
        note(format_args!("dyn: {text}"));
    }
}

fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// `text` with white space run together and other control characters escaped: what came from files, keys or nodes must
/// neither break the line nor command the terminal.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&printable(word));
    }
    line
}

/// `text` with control characters escaped.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            // Writing to a string cannot fail.
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A table without lines; `numbers` are the columns to align to the right.
pub(crate) fn table<const N: usize>(header: [&str; N], numbers: &[usize], rows: Vec<[String; N]>) -> String {
    let header = header.map(str::to_uppercase).to_vec();
    table_of(header, numbers, rows.into_iter().map(Vec::from).collect())
}

/// [`table`] with as many columns as there are headings, which are left as they are.
pub(crate) fn table_of(header: Vec<String>, numbers: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table.add_rows(rows.into_iter().map(|row| row.into_iter().map(|cell| one_line(&cell))));
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Bytes for people: `1.5 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut amount = count as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// A time in milliseconds since 1970 as `2026-01-31T12:00:00Z`.
pub(crate) fn utc(time_ms: u64) -> String {
    let seconds = time_ms / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's days-to-civil: years begin in March, so that the leap day is their last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A duration for people, in its two greatest units: `3h 5m`.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// `1 key`, `2 keys`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{s}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_and_commands_no_terminal() {
        assert_eq!(one_line(" a\n  b\tc\r\n"), "a b c");
        assert_eq!(one_line("key \u{1b}[2Jx"), "key \\u{1b}[2Jx");
        assert_eq!(printable("a b\0é"), "a b\\u{0}é");
    }

    #[test]
    fn bytes_have_the_unit_that_fits() {
        let shown = [0, 1023, 1024, 1536, 1 << 20, 5 << 30, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "5.0 GiB", "16384.0 PiB"]);
        assert_eq!((count(1, "key"), count(0, "key")), ("1 key".into(), "0 keys".into()));
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds * 1000 + 999), expected);
        }
        let shown = [999, 59_999, 61_000, 7_265_000, 90_000_000].map(duration);
        assert_eq!(shown, ["999ms", "59s", "1m 1s", "2h 1m", "1d 1h"]);
    }

    #[test]
    fn tables_align_numbers_and_trim_line_ends() {
        let rows = vec![["n1".into(), "5".into(), "x".into()], ["n22".into(), "500".into(), String::new()]];
        let table = table(["node", "keys", "note"], &[1], rows);
        assert_eq!(table, "NODE  KEYS  NOTE\nn1       5  x\nn22    500");
    }
}
