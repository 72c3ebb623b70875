//! LSTM: layers one above the other are one node.

use super::attributes::{argument, attribute, integer};
use super::{Axis, Constant, Reader, Share, States, Value};
use crate::model::onnx::NodeProto;
use crate::model::{Lstm, NodeId, Op};

impl Reader {
    pub(super) fn lstm(&mut self, node: &NodeProto) -> Result<(), String> {
        let text = |name: &str| attribute(node, name).map(|value| value.s.as_slice());
        if text("direction").is_some_and(|direction| direction != b"forward")
            || integer(node, "layout").unwrap_or(0) != 0
            || attribute(node, "activations").is_some()
            || attribute(node, "clip").is_some()
            || integer(node, "input_forget").unwrap_or(0) != 0
        {
            return Err("only forwards, over [T, N, C], with the usual activations".to_owned());
        }
        for number in 4..node.input.len() {
            let name = &node.input[number];
            let zeros = name.is_empty()
                || self
                    .constant(name)
                    .is_ok_and(|c| c.floats.iter().all(|value| *value == 0.0));
            if !zeros {
                return Err(
                    "only from states of zero, over whole sequences, without peepholes".to_owned(),
                );
            }
        }
        let hidden = integer(node, "hidden_size").and_then(|hidden| usize::try_from(hidden).ok());
        let hidden = hidden
            .filter(|hidden| (1..=65_536).contains(hidden))
            .ok_or("hidden_size is missing")?;
        let output = node
            .output
            .iter()
            .find(|name| !name.is_empty())
            .ok_or("it has no output")?
            .clone();
        let sequence = [Axis::Frames, Axis::Clips, Axis::Channels];
        let wrong = || "its input is no sequence [T, N, C]".to_owned();
        let mut states = match self.value(argument(node, 0)?)?.clone() {
            Value::Node(id, axes, Share::Plain) if axes == sequence => States {
                input: id,
                hidden,
                layers: Vec::new(),
                name: output,
            },
            Value::States(states, axes) if axes == sequence && states.hidden == hidden => states,
            Value::States(..) => return Err("layers must be of one size".to_owned()),
            _ => return Err(wrong()),
        };
        let features = if states.layers.is_empty() {
            self.shape(states.input).channels
        } else {
            hidden
        };
        let matrix = |number: usize, columns: usize| {
            let constant = self.weights(argument(node, number)?)?;
            if constant.dims != [1, 4 * hidden, columns] {
                return Err(format!("its weights {:?} do not fit", constant.dims));
            }
            Ok(gates(&constant.floats, vec![4 * hidden, columns]))
        };
        let (input, recurrent) = (matrix(1, features)?, matrix(2, hidden)?);
        let biases = match node.input.get(3).filter(|name| !name.is_empty()) {
            Some(name) => self.weights(name)?.floats,
            None => vec![0.0; 8 * hidden],
        };
        if biases.len() != 8 * hidden {
            return Err("its biases do not fit".to_owned());
        }
        let (first, second) = biases.split_at(4 * hidden);
        let bias = |values: &[f32]| gates(values, vec![4 * hidden]);
        states
            .layers
            .push([input, recurrent, bias(first), bias(second)]);
        let all = vec![Axis::Frames, Axis::Direction, Axis::Clips, Axis::Channels];
        for (name, axes) in node.output.iter().zip([all.clone(), all[1..].to_vec()]) {
            self.values
                .insert(name.clone(), Value::States(states.clone(), axes));
        }
        Ok(())
    }

    /// Makes the node of an LSTM.
    pub(super) fn memory(&mut self, states: &States) -> Result<NodeId, String> {
        let lstm = Lstm {
            hidden: states.hidden,
            layers: states.layers.len(),
        };
        let id = self
            .graph
            .add(states.name.as_str(), Op::Lstm(lstm), &[states.input])?;
        for (layer, parameters) in states.layers.iter().enumerate() {
            for (part, constant) in ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
                .iter()
                .zip(parameters)
            {
                let name = format!("{}.{part}_l{layer}", states.name);
                self.parameter(name, constant.dims.clone(), constant.floats.clone())?;
            }
        }
        Ok(id)
    }
}

/// PyTorch's order of gates from ONNX's: input, output, forget, cell.
fn gates(values: &[f32], dims: Vec<usize>) -> Constant {
    let parts: Vec<_> = values.chunks_exact(values.len() / 4).collect();
    Constant {
        dims,
        floats: [0, 2, 3, 1]
            .iter()
            .flat_map(|&part| parts[part].iter().copied())
            .collect(),
        integers: Vec::new(),
    }
}
