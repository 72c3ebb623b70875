//! The house rule: a room imports only from floors below its own.
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms of `src/`, floor by floor, from the ground up.
const FLOORS: [&[&str]; 6] = [
    &["domain", "config", "metrics"],
    &["clinical", "model", "ingest"],
    &["engine", "store"],
    &["dataflow", "study"],
    &["serve"],
    &["cli"],
];

/// Rooms on one floor that may see another of the same floor.
const NEIGHBOURS: [(&str, &str); 2] = [("config", "domain"), ("metrics", "domain")];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn a_room_imports_only_from_floors_below() {
    let floor_of: BTreeMap<&str, usize> = FLOORS
        .iter()
        .enumerate()
        .flat_map(|(floor, rooms)| rooms.iter().map(move |room| (*room, floor)))
        .collect();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = Vec::new();
    let mut imports = 0;
    for file in sources(&src) {
        let inside = file.strip_prefix(&src).unwrap();
        let Some(room) = inside.iter().next().and_then(|room| room.to_str()) else {
            continue;
        };
        if inside.components().count() == 1 {
            continue; // lib.rs and main.rs are the doors.
        }
        let floor = floor_of
            .get(room)
            .unwrap_or_else(|| panic!("`{room}` is on no floor"));
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for after in code.split("crate::").skip(1) {
                if after.starts_with('{') {
                    faults.push(format!(
                        "{}:{}: one room an import",
                        inside.display(),
                        number + 1
                    ));
                }
                let other: String = after
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                let Some(&below) = floor_of.get(other.as_str()) else {
                    continue;
                };
                imports += 1;
                let neighbour = NEIGHBOURS.contains(&(room, &other));
                if other != room && below >= *floor && !neighbour {
                    faults.push(format!("{}:{}: {other}", inside.display(), number + 1));
                }
            }
        }
    }
    assert!(imports > 20, "the search itself is broken");
    assert!(
        faults.is_empty(),
        "imports against the floors:\n{}",
        faults.join("\n")
    );
}
