//! Each file in deploy/ is read by the tool that will read it, and speaks only of
//! what the binary exports.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hepaflow::metrics::{Metrics, Value};

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
    metrics.listener("push");
    metrics
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
                for label in ["source", "reason"] {
                    let wanted = query.contains(&format!("({label})"))
                        || query.contains(&format!(", {label})"));
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
