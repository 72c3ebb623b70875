//! Each file in deploy/ is read by the tool that will read it, and speaks only of
//! what the binary exports.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hepaflow::config::Pipeline;
use hepaflow::dataflow::cluster::Hosts;
use hepaflow::domain::Spread;
use hepaflow::metrics::{Metrics, Reference, Value};

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(path)
}

/// Runs promtool; what it says, if it finds fault.
fn promtool(args: &[&str], input: &str) -> Result<(), String> {
    let mut child = Command::new("promtool")
        .args(args)
        .current_dir(deploy("prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed by scripts/install-dependencies.sh --tests");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() {
        Ok(())
    } else {
        Err(said)
    }
}

/// What a run with one source and one listener exports.
fn exported() -> Metrics {
    let metrics = Metrics::new().unwrap();
    metrics.source("bed-1");
    metrics.engine("12ab34cd56ef");
    metrics.listener("push");
    // What comes with answers, with cards, and with a model.
    let clinical = &metrics.clinical;
    clinical.answered("F0-F1", 1);
    clinical.compared(["0123456789ab", "fib4", "F3"], true, 1);
    let spread = Spread {
        mean: 0.25,
        deviation: 0.125,
    };
    clinical.refer(Reference::Brightness, spread, Some(9));
    clinical.refer(Reference::Severity, spread, Some(9));
    metrics.cards.set(0, 2, 1, 0.5);
    metrics
}

#[test]
fn without_a_card_there_is_no_series_of_one() {
    let text = Metrics::new().unwrap().render().unwrap();
    assert!(!text.contains("hepaflow_gpu"), "{text}");
}

#[test]
fn prometheus_understands_configuration_and_rules_and_the_alerts_fire_when_they_should() {
    for args in [
        &["check", "config", "prometheus.yml"][..],
        &["check", "rules", "rules.yml"],
        &["test", "rules", "rules_test.yml"],
    ] {
        promtool(args, "").unwrap_or_else(|said| panic!("{args:?}: {said}"));
    }
}

#[test]
fn what_is_exported_keeps_to_the_conventions() {
    let text = exported().render().unwrap();
    promtool(&["check", "metrics"], &text).unwrap_or_else(|said| panic!("{said}"));
    let wrong = text.replace("hepaflow_gaps_total", "hepaflow_gaps");
    assert!(
        promtool(&["check", "metrics"], &wrong).is_err(),
        "the check itself is broken"
    );
}

/// Words of an expression that are metrics of ours.
fn metrics_of(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("hepaflow_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_query_of_the_grafana_dashboard_asks_for_what_is_exported() {
    let text = fs::read_to_string(deploy("grafana/hepaflow.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut series: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for sample in exported().snapshot() {
        let names = match sample.value {
            Value::Number { .. } => vec![sample.name.clone()],
            Value::Histogram { .. } => ["bucket", "sum", "count"]
                .map(|part| format!("{}_{part}", sample.name))
                .to_vec(),
        };
        for name in names {
            series
                .entry(name)
                .or_default()
                .extend(sample.labels.keys().cloned());
        }
    }
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    let mut queries = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            queries += 1;
            let names = metrics_of(query);
            assert!(!names.is_empty(), "{query}");
            for name in &names {
                let labels = series
                    .get(name)
                    .unwrap_or_else(|| panic!("{name} of {query}"));
                for label in [
                    "source", "reason", "class", "index", "stage", "card", "model",
                ] {
                    // A query that asks for another metric besides may group each its own way.
                    let wanted = names.len() == 1
                        && (query.contains(&format!("({label})"))
                            || query.contains(&format!(", {label})")));
                    assert!(
                        !wanted || labels.contains(label),
                        "{name} has no {label}: {query}"
                    );
                }
            }
            // As a rule, so that Prometheus's own parser reads it.
            let plain = query
                .replace("$__rate_interval", "1m")
                .replace("$instance", ".*");
            rules += &format!("      - record: query:{queries}\n        expr: '{plain}'\n");
        }
    }
    assert!(queries >= 15, "{queries}");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &rules).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()], "")
        .unwrap_or_else(|said| panic!("{said}"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a program in `deploy/`; what it says, if it finds fault. The packages that
/// the set-up fetched are there.
fn reads(program: &str, args: &[&str]) -> Result<String, String> {
    let packages = root().join("tests/data/cache/deploy");
    let path = std::env::var("PATH").unwrap();
    let output = Command::new(program)
        .args(args)
        .current_dir(deploy(""))
        .env("PYTHONPATH", &packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PATH", format!("{}/bin:{path}", packages.display()))
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; run scripts/fetch-test-data.sh"));
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() {
        Ok(said)
    } else {
        Err(said)
    }
}

/// The file with `from` in place of `to`, elsewhere: to see that a check checks.
fn spoilt(file: &str, from: &str, to: &str) -> tempfile::NamedTempFile {
    let text = fs::read_to_string(deploy(file)).unwrap();
    assert!(text.contains(from), "{file}: {from}");
    let name = Path::new(file).file_name().unwrap().to_str().unwrap();
    let spoilt = tempfile::Builder::new().suffix(name).tempfile().unwrap();
    fs::write(spoilt.path(), text.replacen(from, to, 1)).unwrap();
    spoilt
}

#[test]
fn the_container_is_built_in_stages_by_a_linter_s_rules_and_runs_without_rights() {
    let file = "container/Containerfile";
    reads("hadolint", &[file]).unwrap_or_else(|said| panic!("{said}"));
    let bad = spoilt(file, "WORKDIR /src", "WORKDIR src");
    reads("hadolint", &[bad.path().to_str().unwrap()]).unwrap_err();

    let text = fs::read_to_string(deploy(file)).unwrap();
    let stages: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("FROM "))
        .filter_map(|line| line.split_once(" AS "))
        .collect();
    let names: Vec<_> = stages.iter().map(|(_, name)| *name).collect();
    assert_eq!(names, ["build", "runtime", "nvrtc", "cuda", "cpu"]);
    let runtime = text.split("AS runtime").nth(1).unwrap();
    assert!(runtime.split("FROM").next().unwrap().contains("USER 10001"));
    // What the build needs is let through, and exists.
    let ignore = fs::read_to_string(deploy("container/Containerfile.dockerignore")).unwrap();
    let let_through: BTreeSet<_> = ignore
        .lines()
        .filter_map(|it| it.strip_prefix('!'))
        .collect();
    let copied = text.lines().filter(|line| line.starts_with("COPY "));
    let copied: Vec<_> = copied
        .filter(|line| !line.contains("--from"))
        .flat_map(|line| line.split_whitespace().skip(1))
        .filter(|word| !word.starts_with(['.', '/']))
        .collect();
    assert!(copied.len() >= 6, "{copied:?}");
    for path in copied {
        assert!(let_through.contains(path), "{path} is ignored");
        assert!(root().join(path).exists(), "{path}");
    }
    // The same compiler library as the tests use.
    let version = fs::read_to_string(root().join("scripts/fetch-nvrtc.sh")).unwrap();
    let version = version
        .lines()
        .find_map(|it| it.strip_prefix("version="))
        .unwrap();
    assert!(text.contains(&format!("nvidia-cuda-nvrtc-cu12=={version}")));
}

#[test]
fn compose_understands_its_files_and_what_they_mount_is_there() {
    let plain = ["-f", "compose/compose.yaml"];
    let cuda = ["-f", "compose/compose.cuda.yaml"];
    for files in [plain.to_vec(), [plain, cuda].concat()] {
        let said = reads("docker-compose", &[&files[..], &["config"]].concat());
        let said = said.unwrap_or_else(|said| panic!("{said}"));
        for service in ["hepaflow:", "prometheus:", "grafana:"] {
            assert!(said.contains(service), "{said}");
        }
    }
    let bad = spoilt("compose/compose.yaml", "cap_drop:", "cap_drops:");
    let bad = ["-f", bad.path().to_str().unwrap(), "config"];
    reads("docker-compose", &bad).unwrap_err();
    let text = fs::read_to_string(deploy("compose/compose.yaml")).unwrap();
    let mounts: Vec<_> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- ."))
        .filter_map(|mount| mount.split_once(':'))
        .map(|(path, _)| format!(".{path}"))
        .collect();
    assert_eq!(mounts.len(), 4, "{mounts:?}");
    for mount in mounts {
        assert!(deploy("compose").join(&mount).exists(), "{mount}");
    }
}

#[test]
fn kubernetes_manifests_are_of_its_schema_and_hold_a_pipeline_that_is_right() {
    let check = |file: &str| reads("python3", &["-m", "kubernetes_validate", "--strict", file]);
    let parse = |text: &str| {
        Pipeline::parse(Path::new("/etc/hepaflow/pipeline.toml"), text)
            .unwrap_or_else(|error| panic!("{error}"))
    };
    parse(&fs::read_to_string(deploy("compose/pipeline.toml")).unwrap());
    for file in ["kubernetes/hepaflow.yaml", "kubernetes/cluster.yaml"] {
        check(file).unwrap_or_else(|said| panic!("{said}"));
        let bad = spoilt(file, "replicas:", "replica:");
        check(bad.path().to_str().unwrap()).unwrap_err();
        let text = fs::read_to_string(deploy(file)).unwrap();
        parse(&literal(&text, "pipeline.toml"));
    }

    // The group has as many processes as its host file and its pods.
    let text = fs::read_to_string(deploy("kubernetes/cluster.yaml")).unwrap();
    let (_, replicas) = text.split_once("replicas: ").unwrap();
    let replicas: usize = replicas.lines().next().unwrap().parse().unwrap();
    assert!(text.contains(&format!("-n, \"{replicas}\", -p, $(INDEX)")));
    let hosts = Hosts::parse(&literal(&text, "hosts"), replicas, replicas - 1);
    assert_eq!(hosts.unwrap().processes(), replicas);
}

/// A text of several lines under this key, without its indentation.
fn literal(yaml: &str, key: &str) -> String {
    let (_, text) = yaml.split_once(&format!("\n  {key}: |\n")).unwrap();
    let lines = text.lines();
    let lines = lines.take_while(|line| line.is_empty() || line.starts_with("    "));
    lines.map(str::trim_start).collect::<Vec<_>>().join("\n")
}

#[test]
fn systemd_understands_its_unit_and_finds_it_little_exposed() {
    // It looks for the program where the unit says; one that is there will do.
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("hepaflow@.service");
    let text = fs::read_to_string(deploy("systemd/hepaflow@.service")).unwrap();
    let program = "/usr/local/bin/hepaflow";
    assert!(text.contains(program));
    fs::write(&unit, text.replace(program, "/bin/true")).unwrap();
    let instance = folder.path().join("hepaflow@ward.service");
    std::os::unix::fs::symlink(&unit, &instance).unwrap();
    let instance = instance.to_str().unwrap();
    let said = reads("systemd-analyze", &["verify", "--man=no", instance]);
    assert_eq!(said.as_deref(), Ok(""));
    let security = ["security", "--offline=yes", "--threshold=20", instance];
    reads("systemd-analyze", &security).unwrap_or_else(|said| panic!("{said}"));
    let open = text
        .replace("CapabilityBoundingSet", "#")
        .replace("SystemCallFilter", "#");
    fs::write(&unit, open.replace(program, "/bin/true")).unwrap();
    reads("systemd-analyze", &security).unwrap_err();
}

#[test]
fn the_bill_of_materials_is_of_its_schema_and_names_what_is_locked() {
    let sbom = root().join("scripts/sbom.py");
    let output = Command::new(sbom).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &output.stdout).unwrap();
    let check = "import sys\n\
        from cyclonedx.schema import SchemaVersion\n\
        from cyclonedx.validation.json import JsonStrictValidator\n\
        fault = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read())\n\
        sys.exit(str(fault) if fault else 0)\n";
    let check = |file: &Path| reads("python3", &["-c", check, file.to_str().unwrap()]);
    check(file.path()).unwrap_or_else(|said| panic!("{said}"));

    let bom: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let components = bom["components"].as_array().unwrap();
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    for component in components {
        let (name, version) = (&component["name"], &component["version"]);
        assert!(
            lock.contains(&format!("name = {name}\nversion = {version}\n")),
            "{component}"
        );
        let sum = component["hashes"][0]["content"].as_str().unwrap();
        assert!(lock.contains(sum), "{component}");
    }
    let has = |name: &str| components.iter().any(|it| it["name"] == name);
    assert!(has("timely") && has("dicom-object") && !has("insta"));
    let spoilt = String::from_utf8(output.stdout).unwrap();
    fs::write(file.path(), spoilt.replace("SHA-256", "SHA-0")).unwrap();
    check(file.path()).unwrap_err();
}
