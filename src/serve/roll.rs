//! Whom opaque names stand for. A name is a keyed digest, so nobody can be found by
//! it in the store: whoever has had an answer is entered here under theirs, once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::ids::Ids;
use crate::domain::PatientId;
use crate::store::{Store, StoreError};

/// Changes of answers that are read at once.
const ROWS: u32 = 4096;

/// All patients by name. The first question reads who has an answer; later ones
/// about names that are not here read whose answers have changed since.
#[derive(Default)]
pub(super) struct Roll(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    patients: HashMap<u128, PatientId>,
    /// The last change of answers that was read; none before the first question.
    read: Option<u64>,
}

impl Roll {
    /// The patient of that name, if one has it.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub(super) fn patient(
        &self,
        ids: &Ids,
        store: &Store,
        name: &str,
    ) -> Result<Option<PatientId>, StoreError> {
        let Some(name) = number_of(name) else {
            return Ok(None);
        };
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !entries.patients.contains_key(&name) {
            entries.read_on(ids, store)?;
        }
        Ok(entries.patients.get(&name).cloned())
    }
}

impl Entries {
    fn read_on(&mut self, ids: &Ids, store: &Store) -> Result<(), StoreError> {
        let mut read = if let Some(read) = self.read {
            read
        } else {
            let (patients, read) = store.patients()?;
            for patient in patients {
                self.enter(ids, patient);
            }
            read
        };
        loop {
            let rows = store.patients_after(read, ROWS)?;
            let Some((last, _)) = rows.last() else { break };
            read = *last;
            for (_, patient) in rows {
                self.enter(ids, patient);
            }
        }
        self.read = Some(read);
        Ok(())
    }

    fn enter(&mut self, ids: &Ids, patient: PatientId) {
        if let Some(name) = number_of(&ids.patient(&patient)) {
            self.patients.insert(name, patient);
        }
    }
}

/// A name's 32 hexadecimal digits.
fn number_of(name: &str) -> Option<u128> {
    let is_name = name.len() == 32
        && name
            .bytes()
            .all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
    is_name.then(|| u128::from_str_radix(name, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ModelHash, PatientResult};
    use crate::store::{Batch, PatientChange, StoredModel};

    fn answered(store: &mut Store, patients: &[&str]) {
        let stands = |patient: &&str| {
            PatientChange::Stands(PatientResult {
                patient: PatientId::new(*patient),
                model: ModelHash::of(b"model"),
                current: true,
                clips: 3,
                left_out: 0,
                weight: 768,
                probabilities: Vec::new(),
                abstention: None,
            })
        };
        let batch = Batch {
            patients: patients.iter().map(stands).collect(),
            ..Batch::default()
        };
        store.commit(&batch).unwrap();
    }

    #[test]
    fn who_has_an_answer_is_found_by_name_also_who_came_later_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let ids = Ids::open(&folder.path().join("ids")).unwrap();
        let mut store = Store::open(folder.path().join("r.sqlite")).unwrap();
        let model = StoredModel {
            hash: ModelHash::of(b"model"),
            architecture: String::new(),
            classes: Vec::new(),
        };
        store.register(&model).unwrap();
        let roll = Roll::default();
        let found = |store: &Store, patient: &str| {
            let patient = PatientId::new(patient);
            let found = roll.patient(&ids, store, &ids.patient(&patient)).unwrap();
            assert!(found.is_none() || found == Some(patient));
            found.is_some()
        };
        assert!(!found(&store, "A"));
        answered(&mut store, &["A", "B"]);
        assert!(found(&store, "A") && found(&store, "B") && !found(&store, "C"));
        answered(&mut store, &["C"]);
        assert!(found(&store, "C"));
        // One whose answer was withdrawn has a name still.
        let gone = PatientChange::Withdrawn(PatientId::new("A"), ModelHash::of(b"model"));
        let batch = Batch {
            patients: vec![gone],
            ..Batch::default()
        };
        store.commit(&batch).unwrap();
        assert!(found(&store, "A"));
        for name in ["", "0", "+0000000000000000000000000000001", &"G".repeat(32)] {
            assert_eq!(roll.patient(&ids, &store, name).unwrap(), None);
        }
    }
}
