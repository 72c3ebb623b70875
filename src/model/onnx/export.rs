//! A model directory as ONNX: `clips`, `[N, C, T, H, W]`, normalised, to
//! `logits`, `[N, classes]`.
//!
//! Every operation becomes one of ONNX's, or a few; batch norm stays as it is,
//! for the reader to fold. Linear layers are convolutions of one tap, so that a
//! network on frames needs no change of shape.

use prost::Message;

use super::{
    AttributeProto, DimensionProto, FLOAT, GraphProto, INT64, ModelProto, NodeProto, OPSET,
    OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto,
    TypeProto, ValueInfoProto,
};
use crate::model::{Conv, Lstm, Model, NodeId, Op, Pool};

/// The model as the bytes of an ONNX file.
pub fn to_onnx(model: &Model) -> Vec<u8> {
    let mut writer = Writer {
        model,
        graph: GraphProto {
            name: "hepaflow".to_owned(),
            ..GraphProto::default()
        },
    };
    let input = model.graph().input_shape();
    let [t, h, w] = input.extent;
    writer.graph.input = vec![value_info("clips", &[input.channels, t, h, w])];
    let nodes = model.graph().nodes();
    for number in 1..nodes.len() {
        writer.node(NodeId(number));
    }
    let last = writer.name(NodeId(nodes.len() - 1));
    let axes = writer.integers("output axes", &[2, 3, 4]);
    writer.push("Squeeze", "logits", &[&last, &axes], Vec::new());
    writer.graph.output = vec![value_info("logits", &[model.spec().classes.len()])];
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: key.to_owned(),
        value,
    };
    let classes: Vec<_> = model
        .spec()
        .classes
        .iter()
        .map(ToString::to_string)
        .collect();
    let proto = ModelProto {
        ir_version: 8,
        producer_name: "hepaflow".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: model.spec().note.clone(),
        graph: Some(writer.graph),
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: OPSET,
        }],
        metadata_props: vec![
            entry("architecture", model.spec().architecture.to_string()),
            entry("classes", classes.join(",")),
            entry("model_hash", model.hash().to_string()),
            entry("synthetic", model.spec().synthetic.to_string()),
        ],
    };
    proto.encode_to_vec()
}

/// `[N, ..]` of f32.
fn value_info(name: &str, extents: &[usize]) -> ValueInfoProto {
    let mut dim = vec![DimensionProto {
        parameter: "N".to_owned(),
        ..DimensionProto::default()
    }];
    dim.extend(extents.iter().map(|&extent| DimensionProto {
        value: extent as i64,
        ..DimensionProto::default()
    }));
    ValueInfoProto {
        name: name.to_owned(),
        kind: Some(TypeProto {
            tensor: Some(TensorTypeProto {
                elem_type: FLOAT,
                shape: Some(TensorShapeProto { dim }),
            }),
        }),
    }
}

struct Writer<'a> {
    model: &'a Model,
    graph: GraphProto,
}

impl Writer<'_> {
    /// What ONNX calls the output of a node.
    fn name(&self, id: NodeId) -> String {
        match id.0 {
            0 => "clips".to_owned(),
            number => format!("{number} {}", self.model.graph().node(id).name),
        }
    }

    fn node(&mut self, id: NodeId) {
        let model = self.model;
        let node = model.graph().node(id);
        let (name, output) = (node.name.as_str(), self.name(id));
        let inputs: Vec<_> = node.inputs.iter().map(|input| self.name(*input)).collect();
        let input = inputs[0].as_str();
        match node.op {
            Op::Input => {}
            Op::Conv(conv) => {
                let weight = format!("{name}.weight");
                let shape = &model
                    .weights()
                    .get(&weight)
                    .map_or(&[][..], |tensor| &tensor.shape);
                // One tap in time, for kernels that have none.
                let mut dims = shape.to_vec();
                if conv.planar {
                    dims.insert(2, 1);
                }
                self.parameter(&weight, &dims);
                self.push("Conv", &output, &[input, &weight], convolution(conv));
            }
            Op::BatchNorm => {
                let names = ["weight", "bias", "running_mean", "running_var"];
                let names = names.map(|suffix| format!("{name}.{suffix}"));
                for parameter in &names {
                    self.parameter(parameter, &[node.shape.channels]);
                }
                let [weight, bias, mean, variance] = &names;
                let epsilon = float("epsilon", model.graph().batch_norm_epsilon() as f32);
                let inputs = [input, weight, bias, mean, variance];
                self.push("BatchNormalization", &output, &inputs, vec![epsilon]);
            }
            Op::Relu => self.push("Relu", &output, &[input], Vec::new()),
            Op::Add => self.push("Add", &output, &[input, &inputs[1]], Vec::new()),
            Op::CropTime { frames } => {
                let begin = self.integers(&format!("{name} begin"), &[frames as i64]);
                let end = self.integers(&format!("{name} end"), &[-(frames as i64)]);
                let axis = self.integers(&format!("{name} axis"), &[2]);
                self.push("Slice", &output, &[input, &begin, &end, &axis], Vec::new());
            }
            Op::GlobalAveragePool => self.push("GlobalAveragePool", &output, &[input], Vec::new()),
            Op::FrameAveragePool => {
                self.push("ReduceMean", &output, &[input], vec![ints("axes", &[3, 4])]);
            }
            Op::MaxPool(pool) => self.push("MaxPool", &output, &[input], window(pool)),
            Op::AveragePool(pool) => {
                let mut attributes = window(pool);
                attributes.push(int("count_include_pad", 1));
                self.push("AveragePool", &output, &[input], attributes);
            }
            Op::Linear { features } => {
                let [weight, bias] = ["weight", "bias"].map(|suffix| format!("{name}.{suffix}"));
                let inputs = model.graph().node(node.inputs[0]).shape.channels;
                self.parameter(&weight, &[features, inputs, 1, 1, 1]);
                self.parameter(&bias, &[features]);
                self.push("Conv", &output, &[input, &weight, &bias], Vec::new());
            }
            Op::Lstm(lstm) => self.lstm(name, lstm, input, &output),
            Op::LogMeanSoftmax => {
                let (shares, mean) = (format!("{output} shares"), format!("{output} mean"));
                self.push("Softmax", &shares, &[input], vec![int("axis", 1)]);
                self.push("ReduceMean", &mean, &[&shares], vec![ints("axes", &[2])]);
                self.push("Log", &output, &[&mean], Vec::new());
            }
        }
    }

    /// `[N, C, T, 1, 1]` to `[N, hidden, 1, 1, 1]`, by way of ONNX's
    /// `[T, N, C]`.
    fn lstm(&mut self, name: &str, lstm: Lstm, input: &str, output: &str) {
        let part = |what: &str| format!("{output} {what}");
        let axes = self.integers(&part("axes"), &[3, 4]);
        self.push("Squeeze", &part("frames"), &[input, &axes], Vec::new());
        self.push(
            "Transpose",
            &part("sequence"),
            &[&part("frames")],
            vec![ints("perm", &[2, 0, 1])],
        );
        let mut sequence = part("sequence");
        let direction = self.integers(&part("direction"), &[1]);
        for layer in 0..lstm.layers {
            let of = |what: &str| format!("{name}.{what}_l{layer}");
            for matrix in ["weight_ih", "weight_hh"] {
                let gates = self.gates(&of(matrix), lstm.hidden);
                let columns = gates.len() / (4 * lstm.hidden);
                self.initializer(&of(matrix), &[1, 4 * lstm.hidden, columns], &gates);
            }
            let biases = ["bias_ih", "bias_hh"].map(|bias| self.gates(&of(bias), lstm.hidden));
            self.initializer(&of("bias"), &[1, 8 * lstm.hidden], &biases.concat());
            let (all, last) = (
                part(&format!("states {layer}")),
                part(&format!("state {layer}")),
            );
            self.graph.node.push(NodeProto {
                input: [&sequence, &of("weight_ih"), &of("weight_hh"), &of("bias")]
                    .map(String::clone)
                    .to_vec(),
                output: vec![all.clone(), last.clone()],
                name: last.clone(),
                op_type: "LSTM".to_owned(),
                attribute: vec![int("hidden_size", lstm.hidden as i64)],
                domain: String::new(),
            });
            if layer + 1 < lstm.layers {
                sequence = part(&format!("sequence {}", layer + 1));
                self.push("Squeeze", &sequence, &[&all, &direction], Vec::new());
            } else {
                let axis = self.integers(&part("first"), &[0]);
                self.push("Squeeze", &part("last"), &[&last, &axis], Vec::new());
                let axes = self.integers(&part("places"), &[2, 3, 4]);
                self.push("Unsqueeze", output, &[&part("last"), &axes], Vec::new());
            }
        }
    }

    /// An LSTM's parameter with its gates in ONNX's order: input, output,
    /// forget, cell; ours is PyTorch's: input, forget, cell, output.
    fn gates(&self, name: &str, hidden: usize) -> Vec<f32> {
        let values = self
            .model
            .weights()
            .get(name)
            .map_or(&[][..], |tensor| &tensor.values);
        let gate = values.len() / 4;
        debug_assert_eq!(gate % hidden, 0);
        let gates: Vec<_> = values.chunks_exact(gate.max(1)).collect();
        [0, 3, 1, 2]
            .iter()
            .filter_map(|&number| gates.get(number))
            .flat_map(|gate| gate.iter().copied())
            .collect()
    }

    fn push(&mut self, kind: &str, output: &str, inputs: &[&str], attribute: Vec<AttributeProto>) {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: kind.to_owned(),
            attribute,
            domain: String::new(),
        });
    }

    /// A parameter of the model, in other extents.
    fn parameter(&mut self, name: &str, dims: &[usize]) {
        let model = self.model;
        let values = model
            .weights()
            .get(name)
            .map_or(&[][..], |tensor| &tensor.values);
        self.initializer(name, dims, values);
    }

    fn initializer(&mut self, name: &str, dims: &[usize], values: &[f32]) {
        self.graph.initializer.push(TensorProto {
            dims: dims.iter().map(|&extent| extent as i64).collect(),
            data_type: FLOAT,
            name: name.to_owned(),
            raw_data: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            ..TensorProto::default()
        });
    }

    /// A constant, under its name.
    fn integers(&mut self, name: &str, values: &[i64]) -> String {
        self.graph.initializer.push(TensorProto {
            dims: vec![values.len() as i64],
            data_type: INT64,
            name: name.to_owned(),
            raw_data: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            ..TensorProto::default()
        });
        name.to_owned()
    }
}

fn convolution(conv: Conv) -> Vec<AttributeProto> {
    let mut attributes = window(Pool {
        kernel: conv.kernel,
        stride: conv.stride,
        padding: conv.padding,
    });
    attributes.push(int("group", conv.groups as i64));
    attributes
}

fn window(pool: Pool) -> Vec<AttributeProto> {
    let wide = |values: &[usize]| values.iter().map(|&value| value as i64).collect::<Vec<_>>();
    vec![
        ints("kernel_shape", &wide(&pool.kernel)),
        ints("strides", &wide(&pool.stride)),
        ints("pads", &wide(&[pool.padding, pool.padding].concat())),
    ]
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        i,
        kind: 2,
        ..AttributeProto::default()
    }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        f,
        kind: 1,
        ..AttributeProto::default()
    }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        ints: values.to_vec(),
        kind: 7,
        ..AttributeProto::default()
    }
}
