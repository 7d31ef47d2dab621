"""The peer of the inference record, in onnxruntime's own environment: WIDTH BATCH….

A dense network of three hidden layers and ten outputs, quantised by its own tools to 8 bits. Says
its version when it is ready; then for each line on its input, a batch and a number of calls, the
fastest of them in seconds for both kinds of quantisation. Shares no code with the package.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

INPUTS, OUTPUTS = 784, 10


def network(width):
    rng, nodes, arrays, last = np.random.default_rng(0), [], [], "x"
    sizes = [INPUTS, width, width, width, OUTPUTS]
    for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:])):  # noqa: B905
        weights = rng.normal(size=(fan_in, fan_out)) * np.sqrt(2 / fan_in)
        arrays.append(numpy_helper.from_array(weights.astype(np.float32), f"W{i}"))
        arrays.append(numpy_helper.from_array(np.zeros(fan_out, np.float32), f"b{i}"))
        nodes.append(helper.make_node("Gemm", [last, f"W{i}", f"b{i}"], [f"u{i}"]))
        nodes.append(helper.make_node("Relu", [f"u{i}"], [f"h{i}"]))
        last = f"h{i}"
    nodes[-1] = helper.make_node("Identity", [f"u{i}"], [last])
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in (("x", INPUTS), (last, OUTPUTS))
    ]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


class Samples(CalibrationDataReader):
    def __init__(self):
        rng = np.random.default_rng(1)
        self.batches = iter([rng.normal(size=(64, INPUTS)).astype(np.float32) for _ in range(4)])

    def get_next(self):
        rows = next(self.batches, None)
        return None if rows is None else {"x": rows}


def main(width, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(Path(folder) / name) for name in ("float", "dynamic", "static")}
        onnx.save(network(width), paths["float"])
        quantize_dynamic(paths["float"], paths["dynamic"])
        quantize_static(paths["float"], paths["static"], Samples())
        sessions = {
            name: onnxruntime.InferenceSession(paths[name], options)
            for name in ("dynamic", "static")
        }
    print(json.dumps(onnxruntime.__version__), flush=True)
    for line in sys.stdin:
        batch, calls = map(int, line.split())
        x = np.random.default_rng(2).normal(size=(batch, INPUTS)).astype(np.float32)
        found = {}
        for name, session in sessions.items():
            session.run(None, {"x": x})
            seconds = []
            for _ in range(calls):
                start = time.perf_counter()
                session.run(None, {"x": x})
                seconds.append(time.perf_counter() - start)
            found[name] = min(seconds)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
