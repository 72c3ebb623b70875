use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::value::{Datetime, Offset};

use super::Diagnostic;

/// A value together with where it stands in the file, so that a mistake found
/// later (a file that does not exist) can still point at its line.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Byte range of the value in the file.
    pub span: Range<usize>,
}

/// What a key may hold: how to read it, and how to say what was expected.
pub(super) trait Accept: Sized {
    /// Completes the sentence "expected ...".
    const EXPECTED: &'static str;
    fn accept(value: &DeValue<'_>) -> Option<Self>;
}

impl Accept for String {
    const EXPECTED: &'static str = "a text in quotes, not empty";
    fn accept(value: &DeValue<'_>) -> Option<Self> {
        value
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    }
}

impl Accept for Vec<String> {
    const EXPECTED: &'static str = "a list of texts in quotes, none of them empty";
    fn accept(value: &DeValue<'_>) -> Option<Self> {
        value
            .as_array()?
            .iter()
            .map(|entry| String::accept(entry.get_ref()))
            .collect()
    }
}

impl Accept for BTreeMap<String, String> {
    const EXPECTED: &'static str = "names and what they are, such as { \"anna\" = \"operator\" }";
    fn accept(value: &DeValue<'_>) -> Option<Self> {
        let pairs = value.as_table()?.iter();
        pairs
            .map(|(name, value)| {
                let name = name.get_ref().clone().into_owned();
                Some((name, String::accept(value.get_ref())?))
            })
            .collect()
    }
}

impl Accept for bool {
    const EXPECTED: &'static str = "true or false";
    fn accept(value: &DeValue<'_>) -> Option<Self> {
        value.as_bool()
    }
}

impl Accept for u32 {
    const EXPECTED: &'static str = "a whole number, 0 or more";
    fn accept(value: &DeValue<'_>) -> Option<Self> {
        let integer = value.as_integer()?;
        Self::from_str_radix(integer.as_str(), integer.radix()).ok()
    }
}

/// A whole number from 1 to 65536: sizes of queues, windows, pools.
#[derive(Clone, Copy)]
pub(super) struct Count(pub(super) usize);

impl Accept for Count {
    const EXPECTED: &'static str = "a whole number from 1 to 65536";
    fn accept(value: &DeValue<'_>) -> Option<Self> {
        let number = u32::accept(value)? as usize;
        (1..=65_536).contains(&number).then_some(Self(number))
    }
}

impl Accept for Duration {
    const EXPECTED: &'static str = "a time such as \"200ms\", \"10s\" or \"2min\"";
    fn accept(value: &DeValue<'_>) -> Option<Self> {
        humantime::parse_duration(value.as_str()?)
            .ok()
            .filter(|time| !time.is_zero())
    }
}

/// Frames a second, as the time from one to the next.
#[derive(Clone, Copy)]
pub(super) struct FrameRate(pub(super) Duration);

impl Accept for FrameRate {
    const EXPECTED: &'static str = "frames a second, a number from 1 to 1000 such as 25 or 29.97";
    fn accept(value: &DeValue<'_>) -> Option<Self> {
        let rate: f64 = match value {
            DeValue::Float(float) => float.as_str().parse().ok()?,
            other => u32::accept(other)?.into(),
        };
        let is_sane = (1.0..=1000.0).contains(&rate);
        is_sane.then(|| Self(Duration::from_secs_f64(1.0 / rate)))
    }
}

impl Accept for SystemTime {
    const EXPECTED: &'static str =
        "a date and time with its offset, such as 2026-11-26T08:30:00+01:00";
    fn accept(value: &DeValue<'_>) -> Option<Self> {
        instant(value.as_datetime()?)
    }
}

/// The time of day that `text` names, as a pipeline file would write it:
/// `2026-11-26T08:30:00+01:00`. `None` if it is no such time, or lacks its offset.
pub fn clock_time(text: &str) -> Option<SystemTime> {
    instant(&text.parse().ok()?)
}

fn instant(time: &Datetime) -> Option<SystemTime> {
    let minutes = match time.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => minutes,
    };
    let offset = Duration::from_secs(60 * u64::from(minutes.unsigned_abs()));
    let (date, time) = (time.date?, time.time?);
    let second = time.second.unwrap_or(0);
    // Neither a sign nor a fraction: what lies between two seconds is no matter here.
    let text = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{second:02}Z",
        date.year, date.month, date.day, time.hour, time.minute
    );
    let there = humantime::parse_rfc3339(&text).ok()?;
    if minutes < 0 {
        there.checked_add(offset)
    } else {
        there.checked_sub(offset)
    }
}

impl Accept for SocketAddr {
    const EXPECTED: &'static str = "an address and port such as \"127.0.0.1:9464\"";
    fn accept(value: &DeValue<'_>) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

/// A table being read: hands out typed values, notes every mistake, and at the
/// end reports the keys that nobody asked for.
pub(super) struct Section<'a> {
    table: &'a DeTable<'a>,
    /// The table's own place, to point at when a key is missing.
    span: Range<usize>,
    path: String,
    known: RefCell<Vec<&'static str>>,
    mistakes: &'a RefCell<Vec<Diagnostic>>,
}

impl<'a> Section<'a> {
    pub(super) fn new(
        table: &'a DeTable<'a>,
        span: Range<usize>,
        path: impl Into<String>,
        mistakes: &'a RefCell<Vec<Diagnostic>>,
    ) -> Self {
        Self {
            table,
            span,
            path: path.into(),
            known: RefCell::default(),
            mistakes,
        }
    }

    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    fn key_path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Notes a mistake about `key` at `span`.
    pub(super) fn mistake(
        &self,
        key: &str,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.mistakes.borrow_mut().push(Diagnostic {
            key: self.key_path(key),
            span,
            message: message.into(),
            help: help.into(),
        });
    }

    fn get(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.borrow_mut().push(key);
        self.table.get(key)
    }

    /// The value of `key`, if it is there and right.
    pub(super) fn optional<T: Accept>(&self, key: &'static str) -> Option<Located<T>> {
        let value = self.get(key)?;
        let read = T::accept(value.get_ref());
        if read.is_none() {
            let found = match value.get_ref() {
                DeValue::Integer(integer) => integer.to_string(),
                DeValue::String(text) => format!("\"{text}\""),
                other => format!("a value of type {}", other.type_str()),
            };
            self.mistake(
                key,
                value.span(),
                format!("found {found}"),
                format!("expected {}", T::EXPECTED),
            );
        }
        Some(Located {
            value: read?,
            span: value.span(),
        })
    }

    /// The value of `key`; a mistake if it is missing.
    pub(super) fn required<T: Accept>(&self, key: &'static str) -> Option<Located<T>> {
        if !self.table.contains_key(key) {
            self.known.borrow_mut().push(key);
            self.mistake(
                key,
                self.span(),
                "this key is missing",
                format!("add `{key} = ...`: expected {}", T::EXPECTED),
            );
            return None;
        }
        self.optional(key)
    }

    /// The value of `key`, or `default` where it is missing or wrong.
    pub(super) fn or<T: Accept>(&self, key: &'static str, default: T) -> T {
        self.optional(key).map_or(default, |located| located.value)
    }

    /// Whether `key` is there at all.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Lets `keys` pass unread.
    pub(super) fn allow(&self, keys: &[&'static str]) {
        self.known.borrow_mut().extend(keys);
    }

    /// One of a few words.
    pub(super) fn one_of(&self, key: &'static str, words: &[&'static str]) -> Option<&'static str> {
        let text = self.optional::<String>(key)?;
        let found = words.iter().copied().find(|&word| word == text.value);
        if found.is_none() {
            let listed = words
                .iter()
                .map(|word| format!("\"{word}\""))
                .collect::<Vec<_>>();
            self.mistake(
                key,
                text.span,
                format!("\"{}\" is not known here", text.value),
                format!("expected one of {}", listed.join(", ")),
            );
        }
        found
    }

    /// A table below this one, such as `[window]` or `crop = { .. }`.
    pub(super) fn table(&self, key: &'static str) -> Option<Section<'a>> {
        let value = self.get(key)?;
        let Some(table) = value.get_ref().as_table() else {
            let help = format!("expected a table: write `[{key}]` and its keys below it");
            self.mistake(key, value.span(), "this is not a table", help);
            return None;
        };
        Some(Section::new(
            table,
            value.span(),
            self.key_path(key),
            self.mistakes,
        ))
    }

    /// Tables that may be given many times, such as `[[source]]`.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let rows = value
            .get_ref()
            .as_array()
            .map_or(&[][..], |rows| rows.as_ref());
        let sections: Vec<_> = rows
            .iter()
            .enumerate()
            .filter_map(|(position, row)| {
                let path = format!("{}[{position}]", self.key_path(key));
                let table = row.get_ref().as_table()?;
                Some(Section::new(table, row.span(), path, self.mistakes))
            })
            .collect();
        if rows.is_empty() || sections.len() < rows.len() {
            let help = format!("expected one or more tables, each begun by `[[{key}]]`");
            self.mistake(key, value.span(), "this is not a list of tables", help);
        }
        sections
    }

    /// A table that may be given once, as `[model]`, or many times, as `[[model]]`.
    pub(super) fn one_or_more(&self, key: &'static str) -> Vec<Section<'a>> {
        let value = self.table.get(key).map(Spanned::get_ref);
        match value.and_then(|value| value.as_array()) {
            Some(_) => self.tables(key),
            None => self.table(key).into_iter().collect(),
        }
    }

    /// Ends the reading: a key that nobody asked for is a mistake, with the
    /// likeliest word that was meant.
    pub(super) fn finish(self) {
        let known = self.known.take();
        let known: HashSet<_> = known.into_iter().collect();
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if known.contains(name) {
                continue;
            }
            let mut accepted: Vec<_> = known.iter().copied().collect();
            accepted.sort_unstable();
            let nearest = accepted
                .iter()
                .map(|word| (strsim::damerau_levenshtein(name, word), *word))
                .min()
                .filter(|(distance, word)| *distance <= 2.max(word.len() / 3));
            let meant = nearest.map_or(String::new(), |(_, word)| {
                format!("did you mean `{word}`? ")
            });
            let help = format!("{meant}accepted here: {}", accepted.join(", "));
            self.mistake(name, key.span(), "this key is not known here", help);
        }
    }
}
