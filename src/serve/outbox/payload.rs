use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::domain::{ModelHash, PatientId, PatientResult, Stage, StageRange};
use crate::store::{Outgoing, PatientChange, Store, StoreError, StoredModel};

/// Writes changes as JSON, with what the store knows of their models.
#[derive(Debug, Default)]
pub(super) struct Payloads {
    models: HashMap<ModelHash, StoredModel>,
}

impl Payloads {
    /// One object for each of `batch`, in a line of its own without its end.
    pub(super) fn render(
        &mut self,
        store: &Store,
        batch: &[Outgoing],
    ) -> Result<Vec<String>, StoreError> {
        let known = |outgoing: &Outgoing| self.models.contains_key(&model_of(&outgoing.change));
        if !batch.iter().all(known) {
            self.models = store.models()?;
        }
        Ok(batch.iter().map(|outgoing| self.object(outgoing)).collect())
    }

    fn object(&self, outgoing: &Outgoing) -> String {
        let hash = model_of(&outgoing.change);
        let model = self.models.get(&hash);
        let mut object = json!({
            "event": outgoing.event,
            "changed_at": humantime::format_rfc3339_millis(outgoing.changed).to_string(),
            "model": hash.to_string(),
            "architecture": model.map(|model| model.architecture.as_str()),
        });
        let more = match &outgoing.change {
            PatientChange::Stands(result) => {
                answer(result, model.map_or(&[][..], |model| &model.classes))
            }
            PatientChange::Withdrawn(patient, _) => withdrawal(patient),
        };
        if let Value::Object(object) = &mut object {
            object.extend(more);
        }
        object.to_string()
    }
}

fn model_of(change: &PatientChange) -> ModelHash {
    match change {
        PatientChange::Stands(result) => result.model,
        PatientChange::Withdrawn(_, model) => *model,
    }
}

fn withdrawal(patient: &PatientId) -> Map<String, Value> {
    [
        ("kind".to_owned(), json!("withdrawn")),
        ("patient".to_owned(), json!(patient.expose())),
    ]
    .into_iter()
    .collect()
}

fn answer(result: &PatientResult, classes: &[StageRange]) -> Map<String, Value> {
    let likeliest = result.likeliest().and_then(|class| classes.get(class));
    let probabilities: Map<_, _> = classes
        .iter()
        .zip(&result.probabilities)
        .map(|(class, p)| (class.to_string(), json!(p.to_f64())))
        .collect();
    [
        ("kind", json!("answer")),
        ("patient", json!(result.patient.expose())),
        ("answer", json!(likeliest.map(StageRange::to_string))),
        ("current", json!(result.current)),
        ("clips", json!(result.clips)),
        ("left_out", json!(result.left_out)),
        ("weight", json!(result.weight as f64 / 256.0)),
        (
            "abstention",
            json!(result.abstention.map(|why| why.to_string())),
        ),
        ("p_f2_or_more", json!(result.at_least(Stage::F2, classes))),
        ("p_f3_or_more", json!(result.at_least(Stage::F3, classes))),
        ("p_f4", json!(result.at_least(Stage::F4, classes))),
        ("probabilities", json!(probabilities)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into_iter()
    .collect()
}
