//! The file of access tokens: who may look, and who may act. A token is shown
//! once, when it is made; the file holds its SHA-256 only.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::ids::{hex, random};
pub use crate::config::Role;

/// The file of tokens could not be read, written or understood.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The operating system refused.
    #[error("cannot use the tokens file {}: {error}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A line is none of ours.
    #[error("{}:{line}: expected a role, a SHA-256 and a name; make tokens with `hepaflow token add`", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// The name is there already, or is no name.
    #[error(
        "`{0}`: a token's name is one word of up to 64 letters, digits, dots or dashes, and no other token's"
    )]
    Name(String),
    /// There is no such token.
    #[error("there is no token named `{0}`; `hepaflow token list` shows them")]
    Unknown(String),
}

/// A token as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What its holder may do.
    pub role: Role,
    /// Whose it is, for people to read.
    pub name: String,
    digest: [u8; 32],
}

/// All tokens.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<Token>);

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// If it is not there, or holds a line that is no token.
    pub fn load(file: &Path) -> Result<Self, TokenError> {
        let text = std::fs::read_to_string(file).map_err(|error| TokenError::File {
            file: file.to_owned(),
            error,
        })?;
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|(number, line)| {
                token(line).ok_or_else(|| TokenError::Line {
                    file: file.to_owned(),
                    line: number + 1,
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Makes one more, and gives its secret, which is stored nowhere.
    ///
    /// # Errors
    /// If the name is taken or no word, or there is no randomness.
    pub fn add(&mut self, name: &str, role: Role) -> Result<String, TokenError> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@');
        let taken = self.0.iter().any(|token| token.name == name);
        if taken || name.is_empty() || name.len() > 64 || !name.chars().all(good) {
            return Err(TokenError::Name(name.to_owned()));
        }
        let mut secret = [0; 32];
        random(&mut secret).map_err(|error| TokenError::File {
            file: PathBuf::from("/dev/urandom"),
            error,
        })?;
        let secret = format!("hf_{}", hex(&secret));
        self.0.push(Token {
            role,
            name: name.to_owned(),
            digest: digest(&secret),
        });
        Ok(secret)
    }

    /// Takes one away.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn remove(&mut self, name: &str) -> Result<(), TokenError> {
        let before = self.0.len();
        self.0.retain(|token| token.name != name);
        if self.0.len() == before {
            return Err(TokenError::Unknown(name.to_owned()));
        }
        Ok(())
    }

    /// Writes the file, whole or not at all, for its owner to read only.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn save(&self, file: &Path) -> Result<(), TokenError> {
        let write = || {
            let next = file.with_extension("new");
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create(true).truncate(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut out = options.open(&next)?;
            writeln!(
                out,
                "# role, SHA-256 of the token, name; see `hepaflow token --help`"
            )?;
            for token in &self.0 {
                writeln!(out, "{} {} {}", token.role, hex(&token.digest), token.name)?;
            }
            out.sync_all()?;
            std::fs::rename(&next, file)
        };
        write().map_err(|error| TokenError::File {
            file: file.to_owned(),
            error,
        })
    }

    /// Whose secret this is. The secrets are 256 random bits, so that one hash
    /// is enough, and the time that comparing digests takes tells nothing.
    pub fn holder(&self, secret: &str) -> Option<&Token> {
        let digest = digest(secret);
        self.0.iter().find(|token| token.digest == digest)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Token> {
        self.0.iter()
    }
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

fn token(line: &str) -> Option<Token> {
    let mut words = line.split_ascii_whitespace();
    let (role, hash, name) = (words.next()?, words.next()?, words.next()?);
    let mut digest = [0; 32];
    if hash.len() != 64 || !hash.is_ascii() || words.next().is_some() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(hash.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(Token {
        role: role.parse().ok()?,
        name: name.to_owned(),
        digest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_again_and_its_secret_is_not_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        let mut tokens = Tokens::default();
        let secret = tokens.add("anna", Role::Operator).unwrap();
        tokens.add("screen-1", Role::Viewer).unwrap();
        tokens.save(&file).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            !text.contains(&secret) && !text.contains(&secret[3..]),
            "{text}"
        );

        let mut tokens = Tokens::load(&file).unwrap();
        let anna = tokens.holder(&secret).unwrap();
        assert_eq!((anna.name.as_str(), anna.role), ("anna", Role::Operator));
        assert!(tokens.holder(&secret[..secret.len() - 1]).is_none());
        assert!(tokens.holder("").is_none());
        tokens.remove("anna").unwrap();
        assert!(tokens.holder(&secret).is_none());
        assert!(tokens.remove("anna").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_reads_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        Tokens::default().save(&file).unwrap();
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_is_no_token_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        for line in [
            "viewer",
            "king 00 x",
            "viewer zz x",
            &format!("viewer {} a b", "0".repeat(64)),
        ] {
            std::fs::write(&file, format!("# first\n{line}\n")).unwrap();
            let error = Tokens::load(&file).unwrap_err().to_string();
            assert!(error.contains(":2:"), "{error}");
        }
        let mut tokens = Tokens::default();
        for name in ["", "a b", "a\nb", &"x".repeat(65)] {
            assert!(tokens.add(name, Role::Viewer).is_err(), "{name:?}");
        }
    }
}
