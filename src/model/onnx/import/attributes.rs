//! What is said beside an ONNX node: its arguments' names, attributes and constants.

use super::Constant;
use crate::model::Pool;
use crate::model::onnx::{
    AttributeProto, BFLOAT16, DOUBLE, FLOAT, FLOAT16, INT64, NodeProto, TensorProto,
};

pub(super) fn argument(node: &NodeProto, number: usize) -> Result<&str, String> {
    let name = node.input.get(number).filter(|name| !name.is_empty());
    name.map(String::as_str)
        .ok_or_else(|| format!("its input {number} is missing"))
}

pub(super) fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute
        .iter()
        .find(|attribute| attribute.name == name)
}

pub(super) fn integer(node: &NodeProto, name: &str) -> Option<i64> {
    attribute(node, name).map(|attribute| attribute.i)
}

/// An axis that may be counted from the end.
pub(super) fn position(axis: i64, rank: usize) -> Result<usize, String> {
    let from_end = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(from_end)
        .ok()
        .filter(|&axis| axis < rank)
        .ok_or_else(|| format!("axis {axis} of {rank} does not exist"))
}

/// Kernel, stride and padding by frames, rows and columns.
pub(super) fn window(
    node: &NodeProto,
    planar: bool,
    kernel: Option<&[usize]>,
) -> Result<Pool, String> {
    let axes = if planar { 2 } else { 3 };
    if attribute(node, "auto_pad").is_some_and(|pad| pad.s != b"NOTSET") {
        return Err("auto_pad is not known here: padding must be written out".to_owned());
    }
    if attribute(node, "dilations")
        .is_some_and(|dilations| dilations.ints.iter().any(|&step| step != 1))
    {
        return Err("dilations are not known here".to_owned());
    }
    let list = |name: &str, default: i64, count: usize| {
        let given = attribute(node, name).map(|list| list.ints.clone());
        let list = given.unwrap_or_else(|| vec![default; count]);
        let small: Option<Vec<usize>> = list
            .iter()
            .map(|&value| usize::try_from(value).ok().filter(|&value| value <= 4096))
            .collect();
        small
            .filter(|list| list.len() == count)
            .ok_or_else(|| format!("{name} = {list:?} does not fit"))
    };
    let kernel = match kernel {
        Some(kernel) if kernel.len() == axes => kernel.to_vec(),
        Some(_) => return Err("its kernel has another rank than its input".to_owned()),
        None => list("kernel_shape", 0, axes)?,
    };
    let strides = list("strides", 1, axes)?;
    let pads = list("pads", 0, 2 * axes)?;
    if pads[..axes] != pads[axes..] {
        return Err("padding must be the same at both ends".to_owned());
    }
    let whole = |values: &[usize], frame: usize| match *values {
        [h, w] => [frame, h, w],
        [t, h, w, ..] => [t, h, w],
        _ => [frame; 3],
    };
    let pool = Pool {
        kernel: whole(&kernel, 1),
        stride: whole(&strides, 1),
        padding: whole(&pads[..axes], 0),
    };
    if pool.kernel.contains(&0) || pool.stride.contains(&0) {
        return Err("kernels and strides begin at 1".to_owned());
    }
    Ok(pool)
}

pub(super) fn constant(tensor: &TensorProto) -> Result<Constant, String> {
    let wrong = |problem: &str| format!("tensor `{}` {problem}", tensor.name);
    if tensor.data_location != 0 {
        return Err(wrong(
            "lies in another file; save the model with its weights inside",
        ));
    }
    let dims: Vec<usize> = tensor
        .dims
        .iter()
        .map(|&extent| usize::try_from(extent).ok())
        .collect::<Option<_>>()
        .ok_or_else(|| wrong("has a negative extent"))?;
    let raw = tensor.raw_data.as_slice();
    let (mut floats, mut integers) = (Vec::new(), Vec::new());
    match tensor.data_type {
        FLOAT if raw.is_empty() => floats.clone_from(&tensor.float_data),
        FLOAT => floats.extend(
            raw.as_chunks::<4>()
                .0
                .iter()
                .map(|value| f32::from_le_bytes(*value)),
        ),
        DOUBLE if raw.is_empty() => {
            floats.extend(tensor.double_data.iter().map(|value| *value as f32));
        }
        DOUBLE => floats.extend(
            raw.as_chunks::<8>()
                .0
                .iter()
                .map(|value| f64::from_le_bytes(*value) as f32),
        ),
        FLOAT16 => floats.extend(
            raw.as_chunks::<2>()
                .0
                .iter()
                .map(|value| half::f16::from_le_bytes(*value).to_f32()),
        ),
        BFLOAT16 => floats.extend(
            raw.as_chunks::<2>()
                .0
                .iter()
                .map(|value| half::bf16::from_le_bytes(*value).to_f32()),
        ),
        INT64 if raw.is_empty() => integers.clone_from(&tensor.int64_data),
        INT64 => integers.extend(
            raw.as_chunks::<8>()
                .0
                .iter()
                .map(|value| i64::from_le_bytes(*value)),
        ),
        // Of no use to any layer that we have; named if one asks for it.
        _ => {
            return Ok(Constant {
                dims,
                floats,
                integers,
            });
        }
    }
    let count = dims
        .iter()
        .try_fold(1_usize, |count, &extent| count.checked_mul(extent));
    if count != Some(floats.len() + integers.len()) {
        return Err(wrong("does not hold as many values as its shape says"));
    }
    Ok(Constant {
        dims,
        floats,
        integers,
    })
}
