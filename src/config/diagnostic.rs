use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// One mistake in a file: where it is, what is wrong, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The key's path, such as `source[1].crop.width`; empty for the file.
    pub key: String,
    /// Byte range in the file's text.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What would be accepted, or what to do.
    pub help: String,
}

/// All mistakes of one file, found in one reading.
///
/// `Display` shows each with file, line, key, the line itself and the way out.
#[derive(Debug)]
pub struct ConfigError {
    file: PathBuf,
    text: String,
    diagnostics: Vec<Diagnostic>,
}

impl ConfigError {
    pub(super) fn new(file: &Path, text: &str, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
        Self {
            file: file.to_owned(),
            text: text.to_owned(),
            diagnostics,
        }
    }

    /// The mistakes in the order of the file.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Line of a byte offset, counted from 1.
    pub fn line(&self, offset: usize) -> usize {
        1 + self.text.as_bytes()[..offset.min(self.text.len())]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count()
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display().to_string();
        let text = without_passwords(&self.text);
        let renderer = Renderer::plain();
        for (position, diagnostic) in self.diagnostics.iter().enumerate() {
            if position > 0 {
                f.write_str("\n\n")?;
            }
            let title = match diagnostic.key.as_str() {
                "" => diagnostic.message.clone(),
                key => format!("`{key}`: {}", diagnostic.message),
            };
            let mut group = Level::ERROR.primary_title(&title).element(
                Snippet::source(&text)
                    .path(&file)
                    .annotation(AnnotationKind::Primary.span(diagnostic.span.clone())),
            );
            if !diagnostic.help.is_empty() {
                group = group.element(Level::HELP.message(&diagnostic.help));
            }
            f.write_str(&renderer.render(&[group]))?;
        }
        Ok(())
    }
}

/// `text` with stars, as many bytes, for what URLs in it say of users and
/// passwords: the line of a mistake is shown, wherever in it the mistake is.
fn without_passwords(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for (begin, _) in text.match_indices("://") {
        let begin = begin + "://".len();
        let rest = &text[begin..];
        let url = &rest[..rest.find(['"', '\'', '\n']).unwrap_or(rest.len())];
        if let Some(end) = url.rfind('@') {
            bytes[begin..begin + end].fill(b'*');
        }
        if let Some(at) = url.find("password=") {
            let from = at + "password=".len();
            let length = url[from..].find('&').unwrap_or(url.len() - from);
            bytes[begin + from..begin + from + length].fill(b'*');
        }
    }
    // Whole characters were replaced.
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_starred_and_nothing_moves() {
        let text =
            "a = 'ä'\nurl = \"postgres://u:pä@ss@h/d?password=s3c&x=1\" # x@y\nb = 'http://h/@'";
        let shown = without_passwords(text);
        assert_eq!(shown.len(), text.len());
        assert!(!shown.contains("ss@") && !shown.contains("s3c"), "{shown}");
        assert!(shown.contains("@h/d?password=***&x=1\" # x@y\n"), "{shown}");
    }
}
