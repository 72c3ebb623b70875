use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where results are kept: an SQLite file, or a PostgreSQL database.
///
/// `Display` and `Debug` never show a password.
///
/// ```
/// use hepaflow::config::StorePlace;
/// let place: StorePlace = "postgres://hepaflow:secret@db:5433/results".parse()?;
/// assert_eq!(place.to_string(), "postgres://db:5433/results");
/// assert!(!format!("{place:?}").contains("secret"));
/// assert_eq!("r.sqlite".parse::<StorePlace>()?.to_string(), "r.sqlite");
/// # Ok::<(), hepaflow::config::PlaceError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum StorePlace {
    /// An SQLite file, which need not exist yet.
    File(PathBuf),
    /// A database that exists.
    Postgres(PostgresUrl),
}

/// A URL of a PostgreSQL database, understood.
#[derive(Clone)]
pub struct PostgresUrl {
    text: String,
    config: Box<postgres::Config>,
    shown: String,
}

impl PartialEq for PostgresUrl {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// A text looks like a database's URL and is none. The text is not repeated: it
/// may hold a password.
#[derive(Debug, thiserror::Error)]
#[error(
    "this is no URL of a PostgreSQL database: write postgres://USER:PASSWORD@HOST:PORT/DATABASE, \
     with %40 and the like for special characters, and ?sslmode=require for TLS"
)]
pub struct PlaceError;

impl PostgresUrl {
    /// What the URL says, for a client.
    pub fn config(&self) -> &postgres::Config {
        &self.config
    }

    fn parse(text: &str) -> Result<Self, PlaceError> {
        let config: postgres::Config = text.parse().map_err(|_| PlaceError)?;
        let host = match config.get_hosts().first() {
            Some(postgres::config::Host::Tcp(host)) => host.clone(),
            Some(postgres::config::Host::Unix(folder)) => folder.display().to_string(),
            None => return Err(PlaceError),
        };
        let port = match config.get_ports().first() {
            None | Some(5432) => String::new(),
            Some(port) => format!(":{port}"),
        };
        let database = config
            .get_dbname()
            .or(config.get_user())
            .unwrap_or_default();
        Ok(Self {
            text: text.to_owned(),
            shown: format!("postgres://{host}{port}/{database}"),
            config: Box::new(config),
        })
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({})", self.shown)
    }
}

impl StorePlace {
    /// Whether `text` is meant as a URL and not as a path.
    pub(super) fn is_url(text: &str) -> bool {
        ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| text.starts_with(scheme))
    }
}

impl FromStr for StorePlace {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        if Self::is_url(text) {
            PostgresUrl::parse(text).map(Self::Postgres)
        } else {
            Ok(Self::File(text.into()))
        }
    }
}

impl fmt::Display for StorePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => file.display().fmt(f),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

impl From<PathBuf> for StorePlace {
    fn from(file: PathBuf) -> Self {
        Self::File(file)
    }
}

impl From<&Path> for StorePlace {
    fn from(file: &Path) -> Self {
        Self::File(file.to_owned())
    }
}

impl From<&PathBuf> for StorePlace {
    fn from(file: &PathBuf) -> Self {
        Self::File(file.clone())
    }
}

impl From<&StorePlace> for StorePlace {
    fn from(place: &StorePlace) -> Self {
        place.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown_whatever_is_wrong() {
        for text in [
            "postgres://u:p4ss@word@[::1/db",
            "postgres://u:p4ss@h:notaport/db",
            "postgresql://u:p4ss@h/db?sslmode=often",
            "postgres://",
        ] {
            let error = text.parse::<StorePlace>().unwrap_err().to_string();
            assert!(!error.contains("p4ss"), "{error}");
        }
    }

    #[test]
    fn a_socket_and_a_host_are_shown_as_they_were_given() {
        for (text, shown) in [
            (
                "postgres://u:x@/db?host=/run/pg&port=99",
                "postgres:///run/pg:99/db",
            ),
            ("postgresql://me@h", "postgres://h/me"),
        ] {
            let place: StorePlace = text.parse().unwrap();
            assert_eq!(place.to_string(), shown);
        }
    }
}
