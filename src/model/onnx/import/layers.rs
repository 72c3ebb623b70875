//! Layers that nothing is remembered in: what each makes of its inputs.

use super::attributes::{argument, attribute, integer, position, window};
use super::{AXES, Axis, Reader, Share, Value};
use crate::model::graph::BATCH_NORM_EPSILON;
use crate::model::onnx::NodeProto;
use crate::model::{Conv, Op, Pool};

impl Reader {
    pub(super) fn convolution(&mut self, node: &NodeProto, output: &str) -> Result<Value, String> {
        let (id, axes) = self.plain(argument(node, 0)?)?;
        self.spatial(&axes)?;
        let weight = self.weights(argument(node, 1)?)?;
        if weight.dims.len() != axes.len() {
            return Err(format!("its weights {:?} do not fit", weight.dims));
        }
        let planar = self.planar;
        let Pool {
            kernel,
            stride,
            padding,
        } = window(node, planar, Some(&weight.dims[2..]))?;
        let groups = usize::try_from(integer(node, "group").unwrap_or(1)).unwrap_or(0);
        let conv = Conv {
            channels: weight.dims[0],
            kernel,
            stride,
            padding,
            groups,
            planar,
        };
        let id = self.graph.add(output, Op::Conv(conv), &[id])?;
        self.parameter(format!("{output}.weight"), weight.dims, weight.floats)?;
        let Some(bias) = node.input.get(2).filter(|name| !name.is_empty()) else {
            return Ok(Value::Node(id, axes, Share::Plain));
        };
        // Our convolutions have no bias of their own: a batch norm without
        // statistics adds it.
        let bias = self.weights(bias)?.floats;
        let name = format!("{output} bias");
        let (ones, zeros) = (vec![1.0; conv.channels], vec![0.0; conv.channels]);
        let variance = vec![(1.0 - BATCH_NORM_EPSILON) as f32; conv.channels];
        let id = self.graph.add(name.as_str(), Op::BatchNorm, &[id])?;
        let values = [
            ("weight", ones),
            ("bias", bias),
            ("running_mean", zeros),
            ("running_var", variance),
        ];
        for (suffix, values) in values {
            self.parameter(format!("{name}.{suffix}"), vec![conv.channels], values)?;
        }
        Ok(Value::Node(id, axes, Share::Plain))
    }

    /// Pictures or clips with all their axes, in order.
    pub(super) fn spatial(&self, axes: &[Axis]) -> Result<(), String> {
        let expected = AXES
            .into_iter()
            .filter(|axis| !self.planar || *axis != Axis::Frames);
        if axes.iter().copied().eq(expected) {
            Ok(())
        } else {
            Err("its input is no picture or clip".to_owned())
        }
    }

    pub(super) fn batch_norm(&mut self, node: &NodeProto, output: &str) -> Result<Value, String> {
        let (id, axes) = self.plain(argument(node, 0)?)?;
        let channels = self.shape(id).channels;
        let id = self.graph.add(output, Op::BatchNorm, &[id])?;
        let epsilon = attribute(node, "epsilon").map_or(1e-5, |epsilon| f64::from(epsilon.f));
        for (number, suffix) in ["weight", "bias", "running_mean", "running_var"]
            .into_iter()
            .enumerate()
        {
            let mut values = self.weights(argument(node, number + 1)?)?.floats;
            if suffix == "running_var" {
                // Ours adds PyTorch's usual epsilon.
                for value in &mut values {
                    *value = (f64::from(*value) + epsilon - BATCH_NORM_EPSILON) as f32;
                }
            }
            self.parameter(format!("{output}.{suffix}"), vec![channels], values)?;
        }
        Ok(Value::Node(id, axes, Share::Plain))
    }

    pub(super) fn addition(&mut self, node: &NodeProto, output: &str) -> Result<Value, String> {
        let (left, right) = (argument(node, 0)?, argument(node, 1)?);
        let is_constant = |name: &str| matches!(self.value(name), Ok(Value::Constant(_)));
        let (constant, other) = match (is_constant(left), is_constant(right)) {
            (true, false) => (left, right),
            (false, true) => (right, left),
            _ => {
                let ((a, axes), (b, others)) = (self.plain(left)?, self.plain(right)?);
                if axes != others {
                    return Err("its inputs have different axes".to_owned());
                }
                return Ok(Value::Node(
                    self.graph.add(output, Op::Add, &[a, b])?,
                    axes,
                    Share::Plain,
                ));
            }
        };
        // The bias of a linear layer, written as an addition.
        let (id, axes) = self.plain(other)?;
        let bias = self.weights(constant)?.floats;
        let name = format!("{}.bias", self.graph.node(id).name);
        let linear = matches!(self.graph.node(id).op, Op::Linear { .. });
        match self.weights.get_mut(&name) {
            Some((_, values)) if linear && bias.len() == values.len() => {
                values
                    .iter_mut()
                    .zip(bias)
                    .for_each(|(value, bias)| *value += bias);
                Ok(Value::Node(id, axes, Share::Plain))
            }
            _ => Err("a constant can be added to a MatMul only".to_owned()),
        }
    }

    pub(super) fn pool(&mut self, node: &NodeProto, output: &str) -> Result<Value, String> {
        let (id, axes) = self.plain(argument(node, 0)?)?;
        self.spatial(&axes)?;
        if node.output.len() > 1 || integer(node, "ceil_mode").unwrap_or(0) != 0 {
            return Err("only with rounding down, and without indices".to_owned());
        }
        let pool = window(node, self.planar, None)?;
        let op = if node.op_type == "MaxPool" {
            Op::MaxPool(pool)
        } else if pool.padding == [0; 3] || integer(node, "count_include_pad") == Some(1) {
            Op::AveragePool(pool)
        } else {
            return Err("padding must count: count_include_pad = 1".to_owned());
        };
        Ok(Value::Node(
            self.graph.add(output, op, &[id])?,
            axes,
            Share::Plain,
        ))
    }

    pub(super) fn mean(&mut self, node: &NodeProto, output: &str) -> Result<Value, String> {
        let (id, axes, share) = self.node_called(argument(node, 0)?)?;
        let over = self
            .axes_of(node, 1, axes.len())?
            .ok_or("it does not say over which axes")?;
        let kinds: Vec<_> = over.iter().map(|&axis| axes[axis]).collect();
        let (has, only) = (
            |axis: Axis| kinds.contains(&axis),
            |allowed: &[Axis]| kinds.iter().all(|axis| allowed.contains(axis)),
        );
        let keep = integer(node, "keepdims").unwrap_or(1) != 0;
        let left = axes
            .iter()
            .enumerate()
            .filter(|(axis, _)| keep || !over.contains(axis));
        let left = left.map(|(_, axis)| *axis).collect();
        if share == Share::Softmax && only(&[Axis::Frames]) {
            return Ok(Value::Node(id, left, Share::MeanSoftmax));
        }
        if share != Share::Plain {
            return Err("only the mean over frames may follow a softmax".to_owned());
        }
        let op = if has(Axis::Rows) && has(Axis::Columns) && only(&[Axis::Rows, Axis::Columns]) {
            Op::FrameAveragePool
        } else if [Axis::Frames, Axis::Rows, Axis::Columns]
            .into_iter()
            .all(has)
            && kinds.len() == 3
        {
            Op::GlobalAveragePool
        } else {
            return Err("only over rows and columns, or over frames, rows and columns".to_owned());
        };
        Ok(Value::Node(
            self.graph.add(output, op, &[id])?,
            left,
            Share::Plain,
        ))
    }

    pub(super) fn linear(&mut self, node: &NodeProto, output: &str) -> Result<Value, String> {
        let (id, axes) = self.plain(argument(node, 0)?)?;
        let gemm = node.op_type == "Gemm";
        let unit =
            |name| attribute(node, name).is_none_or(|value| (value.f - 1.0).abs() < f32::EPSILON);
        if axes.last() != Some(&Axis::Channels)
            || !unit("alpha")
            || !unit("beta")
            || integer(node, "transA").unwrap_or(0) != 0
        {
            return Err("only of values whose last axis are the channels, unscaled".to_owned());
        }
        let shape = self.shape(id);
        if shape.extent[1..] != [1, 1] {
            return Err("only of features, after a mean".to_owned());
        }
        let matrix = self.weights(argument(node, 1)?)?;
        let transposed = gemm && integer(node, "transB").unwrap_or(0) != 0;
        let (features, values) = match *matrix.dims.as_slice() {
            [k, c] if transposed && c == shape.channels => (k, matrix.floats),
            [c, k] if !transposed && c == shape.channels => {
                let at = |place: usize| matrix.floats[place % c * k + place / c];
                (k, (0..c * k).map(at).collect())
            }
            _ => {
                return Err(format!(
                    "its matrix {:?} does not fit {} channels",
                    matrix.dims, shape.channels
                ));
            }
        };
        let bias = match node.input.get(2).filter(|name| gemm && !name.is_empty()) {
            Some(name) => self.weights(name)?.floats,
            None => vec![0.0; features],
        };
        let id = self.graph.add(output, Op::Linear { features }, &[id])?;
        self.parameter(
            format!("{output}.weight"),
            vec![features, shape.channels],
            values,
        )?;
        self.parameter(format!("{output}.bias"), vec![features], bias)?;
        Ok(Value::Node(id, axes, Share::Plain))
    }

    pub(super) fn slice(&mut self, node: &NodeProto, output: &str) -> Result<Value, String> {
        if let Value::Constant(constant) = self.value(argument(node, 0)?)?
            && constant.floats.iter().all(|value| *value == 0.0)
        {
            return Ok(Value::Constant(constant.clone()));
        }
        let (id, axes) = self.plain(argument(node, 0)?)?;
        let list = |number: usize| match node.input.get(number).filter(|name| !name.is_empty()) {
            Some(name) => self.constant(name).map(|constant| constant.integers),
            None => Ok(vec![1]),
        };
        let (begin, end, step) = (list(1)?, list(2)?, list(4)?);
        let over = self.axes_of(node, 3, axes.len())?.unwrap_or_default();
        let frames = self.shape(id).extent[0] as i64;
        if let ([begin], [end], [axis], [1]) = (
            begin.as_slice(),
            end.as_slice(),
            over.as_slice(),
            step.as_slice(),
        ) && axes[*axis] == Axis::Frames
        {
            let behind = if *end < 0 {
                -*end
            } else {
                (frames - end).max(0)
            };
            if *begin == behind && *begin > 0 {
                let crop = Op::CropTime {
                    frames: *begin as usize,
                };
                return Ok(Value::Node(
                    self.graph.add(output, crop, &[id])?,
                    axes,
                    Share::Plain,
                ));
            }
        }
        Err("only as many frames at the beginning as at the end can be left out".to_owned())
    }

    /// The last of an LSTM's states.
    pub(super) fn gather(&mut self, node: &NodeProto) -> Result<Value, String> {
        let axis = integer(node, "axis").unwrap_or(0);
        let index = self.constant(argument(node, 1)?)?;
        if let (Value::States(states, axes), [-1]) =
            (self.value(argument(node, 0)?)?, index.integers.as_slice())
        {
            let axis = position(axis, axes.len())?;
            if axes[axis] == Axis::Frames && index.dims.is_empty() {
                let mut left = axes.clone();
                left.remove(axis);
                return Ok(Value::States(states.clone(), left));
            }
        }
        Err("only the last state of an LSTM can be picked".to_owned())
    }
}
