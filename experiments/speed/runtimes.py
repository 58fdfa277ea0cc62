"""The scorer's layers in OpenVINO and ONNX Runtime, as modules, for `cpu_kernels.py`."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OtherRuntime(nn.Module):
    """Layers that another runtime computes, from and to float32 in host memory."""

    def forward(self, states: Tensor) -> Tensor:
        """The last layer's output, `(pairs, 1, width)`, in the states' number format."""
        rows = states.float().contiguous().numpy()
        return torch.from_numpy(self.run(rows)).to(states.dtype)


class OpenVINOLayers(OtherRuntime):
    """OpenVINO, compiled for one shape; int8 by NNCF if there are states to calibrate it on."""

    def __init__(
        self,
        layers: nn.Module,
        example: Tensor,
        dtype: torch.dtype,
        calibrated_on: list[Tensor] | None = None,
    ):
        import openvino

        super().__init__()
        layers = layers.float()
        model = openvino.convert_model(layers, example_input=example, input=[tuple(example.shape)])
        if calibrated_on is not None:
            import nncf

            model = nncf.quantize(
                model,
                nncf.Dataset([states.numpy() for states in calibrated_on]),
                model_type=nncf.ModelType.TRANSFORMER,
                preset=nncf.QuantizationPreset.MIXED,
            )
        options = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(model, "CPU", options)
        request = compiled.create_infer_request()
        self.run = lambda rows: request.infer([rows])[0]


class ONNXLayers(OtherRuntime):
    """ONNX Runtime with all its graph optimisations, in float32."""

    def __init__(self, layers: nn.Module, example: Tensor):
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layers.onnx"
            torch.onnx.export(layers.float(), (example,), path, dynamo=True, verbose=False)
            session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        self.run = lambda rows: session.run(None, {session.get_inputs()[0].name: rows})[0]
