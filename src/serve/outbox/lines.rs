use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Read back from the end of a file, to find where its last whole line ends.
const STEP: u64 = 4096;

/// A file to which whole lines are appended.
///
/// A line is on disk before it counts as delivered. What a crash or a full disk
/// left of a last line is cut off before the next is written. The file may be
/// moved away at any time, as log rotation does; a new one is begun.
pub(super) struct JsonLines {
    path: PathBuf,
}

impl JsonLines {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    pub(super) fn append(&self, lines: &[String]) -> io::Result<()> {
        let is_new = !self.path.exists();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)?;
        let end = end_of_lines(&mut file)?;
        if end < file.metadata()?.len() {
            tracing::warn!(file = %self.path.display(), "the torn end of the last line is cut off");
            file.set_len(end)?;
        }
        file.seek(SeekFrom::Start(end))?;
        let text: String = lines
            .iter()
            .flat_map(|line| [line.as_str(), "\n"])
            .collect();
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_data());
        if let Err(error) = written {
            // Nobody shall read half of a line, or a line that comes again.
            file.set_len(end)?;
            return Err(error);
        }
        if is_new {
            let folder = self
                .path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(())
    }
}

/// The length of the whole lines.
fn end_of_lines(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    while end > 0 {
        let begin = end.saturating_sub(STEP);
        let mut bytes = vec![0; (end - begin) as usize];
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut bytes)?;
        if let Some(position) = bytes.iter().rposition(|&byte| byte == b'\n') {
            return Ok(begin + position as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_torn_last_line_is_cut_off_wherever_it_was_torn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let sink = JsonLines::new(&path);
        let long = "x".repeat(10_000);
        sink.append(&lines(&["{1}", &long])).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for torn in [0, 1, 3, 4, 5, 4100, 9000, whole.len() - 1, whole.len()] {
            std::fs::write(&path, &whole[..torn]).unwrap();
            sink.append(&lines(&["{2}"])).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let kept = whole[..torn].iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(text.lines().count(), kept + 1, "torn at {torn}");
            assert!(text.ends_with("{2}\n"));
        }
    }

    #[test]
    fn a_file_that_was_moved_away_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let sink = JsonLines::new(&path);
        sink.append(&lines(&["{1}"])).unwrap();
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        sink.append(&lines(&["{2}"])).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{2}\n");
    }
}
