use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::Peer;

/// The processes of a group, and which of them this one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    index: usize,
    hosts: Vec<String>,
}

/// A host file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The file could not be read.
    #[error("cannot read the host file {}: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file, or the numbers that go with it, are wrong.
    #[error("{} has mistakes:\n  {}", file.display(), mistakes.join("\n  "))]
    Mistakes {
        /// The file.
        file: PathBuf,
        /// All of them, each with its line and the way out.
        mistakes: Vec<String>,
    },
}

impl Hosts {
    /// Reads a host file: one `host:port` a line, in the order of the processes;
    /// empty lines and what follows a `#` are left out.
    ///
    /// # Errors
    /// If it cannot be read or has mistakes: all of them are reported.
    pub fn load(file: &Path, processes: usize, index: usize) -> Result<Self, HostError> {
        let text = std::fs::read_to_string(file).map_err(|error| HostError::Read {
            file: file.to_owned(),
            error,
        })?;
        Self::parse(&text, processes, index).map_err(|mistakes| HostError::Mistakes {
            file: file.to_owned(),
            mistakes,
        })
    }

    /// The same, from the file's text.
    ///
    /// # Errors
    /// Every mistake, one text each.
    pub fn parse(text: &str, processes: usize, index: usize) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut seen = HashMap::new();
        let mut hosts = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let host = line.split('#').next().unwrap_or_default().trim();
            if host.is_empty() {
                continue;
            }
            if let Err(problem) = check(host) {
                mistakes.push(format!("line {number}: `{host}` {problem}"));
            } else if let Some(first) = seen.insert(host.to_owned(), number) {
                mistakes.push(format!(
                    "line {number}: `{host}` is on line {first} already; \
                     each process has an address of its own"
                ));
            }
            hosts.push(host.to_owned());
        }
        if hosts.len() != processes {
            mistakes.push(format!(
                "it names {} processes, and -n says {processes}: give one line to each",
                hosts.len()
            ));
        }
        if index >= processes {
            mistakes.push(format!(
                "-p {index} is not there: of {processes} processes the last is {}",
                processes.saturating_sub(1)
            ));
        }
        if mistakes.is_empty() {
            Ok(Self { index, hosts })
        } else {
            Err(mistakes)
        }
    }

    /// Which process this one is.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many processes there are, at least one.
    pub fn processes(&self) -> usize {
        self.hosts.len()
    }

    /// The process with number `index`.
    pub fn peer(&self, index: usize) -> Peer {
        let host = self.hosts.get(index).cloned();
        Peer {
            index,
            host: host.unwrap_or_else(|| "unknown".to_owned()),
        }
    }
}

fn check(host: &str) -> Result<(), &'static str> {
    let Some((name, port)) = host.rsplit_once(':') else {
        return Err("has no port: write host:port, such as node1:2101");
    };
    if name.is_empty() {
        return Err("has no host before its port: write host:port, such as node1:2101");
    }
    if name.contains(char::is_whitespace) {
        return Err("has a space in it: write one host:port a line");
    }
    if name.contains(':') && !(name.starts_with('[') && name.ends_with(']')) {
        return Err("is an IPv6 address without brackets: write [address]:port");
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => Err("has a port that is no number from 1 to 65535"),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_file_names_one_process_a_line() {
        let text = "# two machines\nnode1:2101\n\n  [fe80::1]:2101  # the second\n";
        let hosts = Hosts::parse(text, 2, 1).unwrap();
        assert_eq!((hosts.index(), hosts.processes()), (1, 2));
        assert_eq!(
            hosts.peer(1).to_string(),
            "process 1 ([fe80::1]:2101)".to_owned()
        );
    }

    #[test]
    fn every_mistake_is_reported_at_once_with_its_line() {
        let text = "node1\n:2101\nnode2:port\nnode2:0\nfe80::1:2101\nnode3:1 node4:1\n\
                    node5:7\nnode5:7\n";
        let mistakes = Hosts::parse(text, 3, 3).unwrap_err();
        let said = mistakes.join("\n");
        for expected in [
            "line 1: `node1` has no port",
            "line 2: `:2101` has no host",
            "line 3: `node2:port` has a port",
            "line 4: `node2:0` has a port",
            "line 5: `fe80::1:2101` is an IPv6 address",
            "line 6: `node3:1 node4:1` has a space",
            "line 8: `node5:7` is on line 7 already",
            "names 8 processes, and -n says 3",
            "-p 3 is not there: of 3 processes the last is 2",
        ] {
            assert!(said.contains(expected), "{expected} in {said}");
        }
        assert_eq!(mistakes.len(), 9, "{said}");
    }
}
