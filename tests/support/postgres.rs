//! A PostgreSQL server of the test's own: a new cluster in a temporary folder,
//! on a loopback port, gone with the test.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A password with what a URL has to escape.
const PASSWORD: &str = "s3cret@here";
const IN_URL: &str = "s3cret%40here";

pub(crate) struct Server {
    folder: TempDir,
    port: u16,
    process: Option<Child>,
}

/// Debian keeps the server's programs out of the path.
fn program(name: &str) -> PathBuf {
    let mut found: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|version| version.path().join("bin").join(name))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found
        .pop()
        .expect("PostgreSQL is there: scripts/install-dependencies.sh --tests")
}

/// The server refuses to run as root.
fn command(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some((user, group)) = postgres_user() {
        command.args([format!("--reuid={user}"), format!("--regid={group}")]);
        command.arg("--clear-groups");
    }
    command.arg(program(name));
    command
        .current_dir("/")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Who runs the server if we are root.
fn postgres_user() -> Option<(u32, u32)> {
    let id = |args: &[&str]| {
        let output = Command::new("id").args(args).output().unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };
    (id(&["-u"]) == 0).then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])))
}

impl Server {
    pub(crate) fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pg")
            .tempdir_in("/tmp")
            .unwrap();
        std::fs::write(folder.path().join("password"), PASSWORD).unwrap();
        if let Some((user, group)) = postgres_user() {
            for path in [folder.path(), &folder.path().join("password")] {
                std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
            }
        }
        let output = command("initdb")
            .args([
                "--username=hepaflow",
                "--auth=scram-sha-256",
                "--no-sync",
                "--locale=C.UTF-8",
            ])
            .arg("--pwfile")
            .arg(folder.path().join("password"))
            .arg("--pgdata")
            .arg(folder.path().join("data"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut server = Self {
            folder,
            port,
            process: None,
        };
        server.launch(&[]);
        server
    }

    /// Starts the server, or starts it again.
    pub(crate) fn launch(&mut self, settings: &[&str]) {
        let process = command("postgres")
            .arg("-D")
            .arg(self.folder.path().join("data"))
            .arg("-k")
            .arg(self.folder.path())
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            // The machine does not fail in these tests, only programs do.
            .args(["-c", "fsync=off"])
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let begin = Instant::now();
        while self.admin("postgres").is_none() {
            assert!(
                begin.elapsed() < Duration::from_mins(1),
                "the server does not come up"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the server at once, as a crash would.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let pid = process.id().to_string();
            // SIGQUIT: its children end with it.
            Command::new("kill").args(["-QUIT", &pid]).status().unwrap();
            process.wait().unwrap();
        }
    }

    fn admin(&self, database: &str) -> Option<postgres::Client> {
        postgres::Config::new()
            .host("127.0.0.1")
            .port(self.port)
            .user("hepaflow")
            .password(PASSWORD)
            .dbname(database)
            .connect(postgres::NoTls)
            .ok()
    }

    /// A client of one of the databases.
    pub(crate) fn client(&self, database: &str) -> postgres::Client {
        self.admin(database).unwrap()
    }

    /// The URL of a new, empty database.
    pub(crate) fn database(&self, name: &str) -> String {
        let mut client = self.client("postgres");
        client
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .unwrap();
        self.url(name)
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!(
            "postgres://hepaflow:{IN_URL}@127.0.0.1:{}/{name}",
            self.port
        )
    }

    /// The folder of the cluster.
    pub(crate) fn data(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
