//! Numbered still pictures in a folder, read as one recording: what viewers and
//! scanners leave where they cannot export a film.
//!
//! `liver_0001.png`, `liver_0002.png` and so on: all are named alike but for the
//! last number in the name, and no number is missing, since a hole would be a gap
//! that nobody could see. Other files in the folder are none of its business.
//! Called by the reader; archives ask which folders hold a series.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::domain::ContentHash;

/// From one frame to the next of a recording that does not say it, where the time
/// matters little or not at all: 25 a second.
pub const USUAL_INTERVAL: Duration = Duration::from_millis(40);

/// How a still picture is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Still {
    Png,
    Jpeg,
}

impl Still {
    /// By the first bytes of a file.
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        if head.starts_with(b"\x89PNG\r\n\x1a\n") {
            Some(Self::Png)
        } else if head.starts_with(&[0xFF, 0xD8, 0xFF]) {
            Some(Self::Jpeg)
        } else {
            None
        }
    }

    /// GStreamer's element for it, named so that every machine decodes alike.
    pub(super) fn decoder(self) -> &'static str {
        match self {
            Self::Png => "pngdec",
            Self::Jpeg => "jpegdec",
        }
    }

    /// Whether `tail`, the last bytes of a file, has the mark that ends such a
    /// picture: decoders fill up what is missing with grey.
    pub(super) fn ends_in(self, tail: &[u8]) -> bool {
        let mark: &[u8] = match self {
            Self::Png => b"IEND",
            Self::Jpeg => &[0xFF, 0xD9],
        };
        tail.windows(mark.len()).any(|bytes| bytes == mark)
    }
}

/// Why a folder is no series of pictures.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoSeries {
    /// The folder or a file in it cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There is no picture in it.
    #[error("there is no picture in it")]
    Empty,
    /// What is wrong with its pictures.
    #[error("{0}")]
    Unlike(String),
}

/// The pictures of one folder, in the order of their numbers.
#[derive(Clone, Debug)]
pub(super) struct Series {
    folder: PathBuf,
    /// What is before and behind the number in each name.
    prefix: String,
    suffix: String,
    /// Digits of the shortest number; it begins with zeros if need be.
    width: usize,
    /// The first one's number.
    pub(super) first: u32,
    /// How many there are, at least one.
    pub(super) count: u32,
    pub(super) still: Still,
}

/// The tail of a picture that is looked at for its end: cameras leave notes there.
pub(super) const TAIL: usize = 4096;

impl Series {
    /// The series in `folder`.
    pub(super) fn of(folder: &Path) -> Result<Self, NoSeries> {
        let mut pictures = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_file()
                && let Some(still) = still(&path)?
            {
                pictures.push((path, still));
            }
        }
        Self::of_pictures(folder, &pictures)
    }

    fn of_pictures(folder: &Path, pictures: &[(PathBuf, Still)]) -> Result<Self, NoSeries> {
        let unlike = |text: String| NoSeries::Unlike(text);
        let mut numbered = Vec::with_capacity(pictures.len());
        for (path, still) in pictures {
            let name = Name::of(path).ok_or_else(|| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                unlike(format!("`{name}` has no number"))
            })?;
            numbered.push((name, *still));
        }
        numbered.sort_by_key(|(name, _)| name.number);
        let Some((first, still)) = numbered.first() else {
            return Err(NoSeries::Empty);
        };
        let width = numbered.iter().map(|(name, _)| name.digits).min();
        let series = Self {
            folder: folder.to_owned(),
            prefix: first.prefix.to_owned(),
            suffix: first.suffix.to_owned(),
            width: width.unwrap_or(1),
            first: first.number,
            count: numbered.len() as u32,
            still: *still,
        };
        for (place, (name, still)) in (0_u32..).zip(&numbered) {
            let expected = series.name(place);
            if *still != series.still {
                return Err(unlike(format!("`{}` is coded otherwise", name.whole)));
            }
            if name.whole != expected {
                let whole = name.whole;
                let is_alike = (name.prefix, name.suffix) == (first.prefix, first.suffix);
                return Err(unlike(if !is_alike {
                    format!("`{}` and `{whole}` are not named alike", first.whole)
                } else if name.number > series.first + place {
                    format!("`{expected}` is missing before `{whole}`")
                } else {
                    format!("`{whole}` is not numbered as the others: `{expected}`")
                }));
            }
        }
        Ok(series)
    }

    /// The name of the picture at `place`, from 0.
    pub(super) fn name(&self, place: u32) -> String {
        let number = self.first.saturating_add(place);
        format!(
            "{}{number:0width$}{}",
            self.prefix,
            self.suffix,
            width = self.width
        )
    }

    /// The pictures' paths as a pattern for C's `printf`, of which the number is the
    /// only argument; `None` if the folder's path is not UTF-8.
    pub(super) fn pattern(&self) -> Option<String> {
        let plain = |text: &str| text.replace('%', "%%");
        let folder = std::path::absolute(&self.folder).ok()?;
        Some(format!(
            "{}/{}%0{}d{}",
            plain(folder.to_str()?),
            plain(&self.prefix),
            self.width,
            plain(&self.suffix)
        ))
    }

    /// The SHA-256 of the pictures' own, in order, or `None` if `cancelled` while
    /// reading.
    ///
    /// # Errors
    /// If one cannot be read, or breaks off before its end.
    pub(super) fn hash(
        &self,
        cancelled: impl Fn() -> bool,
    ) -> Result<Option<ContentHash>, NoSeries> {
        let mut digest = Sha256::new();
        digest.update(b"pictures\0");
        for place in 0..self.count {
            if cancelled() {
                return Ok(None);
            }
            let name = self.name(place);
            let bytes = std::fs::read(self.folder.join(&name))?;
            if !self
                .still
                .ends_in(&bytes[bytes.len().saturating_sub(TAIL)..])
            {
                return Err(NoSeries::Unlike(format!(
                    "`{name}` breaks off before its end"
                )));
            }
            digest.update(Sha256::digest(&bytes));
        }
        Ok(Some(ContentHash::from_digest(digest)))
    }
}

/// Whether `folder` holds numbered pictures, or what was meant to be some: then it is
/// a recording, and what is wrong with it is told when it is read.
pub fn holds_series(folder: &Path) -> bool {
    matches!(Series::of(folder), Ok(_) | Err(NoSeries::Unlike(_)))
}

/// Whether these pictures of one folder look like one recording: two or more, named
/// alike but for a number.
pub fn are_series(pictures: &[PathBuf]) -> bool {
    let affixes = |path: &'_ PathBuf| {
        let name = Name::of(path)?;
        Some((name.prefix.to_owned(), name.suffix.to_owned()))
    };
    let first = pictures.first().and_then(affixes);
    let mut others = pictures.iter().skip(1).map(affixes);
    first.is_some() && pictures.len() > 1 && others.all(|other| other == first)
}

/// How the file at `path` is coded, if it is a picture.
fn still(path: &Path) -> io::Result<Option<Still>> {
    let mut head = Vec::new();
    File::open(path)?.take(8).read_to_end(&mut head)?;
    Ok(Still::of(&head))
}

/// A file's name, taken apart at its last number.
#[derive(Debug)]
struct Name<'a> {
    whole: &'a str,
    prefix: &'a str,
    /// How many digits the number has.
    digits: usize,
    number: u32,
    suffix: &'a str,
}

impl<'a> Name<'a> {
    fn of(path: &'a Path) -> Option<Self> {
        let whole = path.file_name().and_then(OsStr::to_str)?;
        // The extension's digits count nothing: `.jp2`.
        let stem = path.file_stem().and_then(OsStr::to_str)?;
        let end = stem.rfind(|c: char| c.is_ascii_digit())? + 1;
        let (before, _) = stem.split_at(end);
        let begin = before.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| {
            at + before[at..].chars().next().map_or(1, char::len_utf8)
        });
        let number: i32 = before[begin..].parse().ok()?;
        Some(Self {
            whole,
            prefix: &whole[..begin],
            digits: end - begin,
            number: u32::try_from(number).ok()?,
            suffix: &whole[end..],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(names: &[&str]) -> Result<Series, String> {
        let pictures: Vec<_> = names
            .iter()
            .map(|name| (PathBuf::from(name), Still::Png))
            .collect();
        Series::of_pictures(Path::new("/50% of it"), &pictures).map_err(|error| error.to_string())
    }

    #[test]
    fn pictures_are_in_the_order_of_their_last_number() {
        for (names, pattern, first) in [
            (
                &["10.png", "9.png", "11.png", "8.png"][..],
                "/50%% of it/%01d.png",
                8,
            ),
            (
                &["a1_099.png", "a1_100.png", "a1_098.png"],
                "/50%% of it/a1_%03d.png",
                98,
            ),
            (&["f99_%.jpg", "f100_%.jpg"], "/50%% of it/f%02d_%%.jpg", 99),
            (&["7 ü.png"], "/50%% of it/%01d ü.png", 7),
            (&["Leber-ö0.png"], "/50%% of it/Leber-ö%01d.png", 0),
        ] {
            let series = series(names).unwrap();
            assert_eq!(series.pattern().as_deref(), Some(pattern));
            assert_eq!((series.first, series.count), (first, names.len() as u32));
        }
    }

    #[test]
    fn what_is_no_series_says_which_picture_does_not_fit() {
        for (names, complaint) in [
            (&["1.png", "3.png"][..], "`2.png` is missing before `3.png`"),
            (&["liver.png", "2.png"], "`liver.png` has no number"),
            (
                &["a1.png", "b2.png"],
                "`a1.png` and `b2.png` are not named alike",
            ),
            (
                &["01.png", "2.png"],
                "`01.png` is not numbered as the others: `1.png`",
            ),
            (&["1.png", "01.png"], "not numbered"),
            (&["99999999999.png"], "has no number"),
            (&[], "no picture"),
        ] {
            let error = series(names).unwrap_err();
            assert!(error.contains(complaint), "{names:?}: {error}");
        }
        let coded = [("1.png", Still::Png), ("2.png", Still::Jpeg)];
        let coded = coded.map(|(name, still)| (PathBuf::from(name), still));
        let error = Series::of_pictures(Path::new("/"), &coded).unwrap_err();
        assert!(error.to_string().contains("`2.png` is coded otherwise"));
    }
}
