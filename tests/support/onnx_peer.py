"""onnx_peer.py NETWORK.onnx CLIPS LOGITS N C T H W: what ONNX Runtime answers; both
files hold f32 and nothing else."""

import sys

import numpy
import onnxruntime

network, clips, logits, *shape = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
given = numpy.fromfile(clips, numpy.float32).reshape([int(extent) for extent in shape])
(answer,) = session.run(None, {"clips": given})
answer.astype(numpy.float32).tofile(logits)
