"""Sessions of ONNX Runtime, all with the same options; the one place that imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hwsmpq.device.files import WEIGHTS

if TYPE_CHECKING:
    from pathlib import Path

N_THREADS = 1
# It requantizes float weights of layers between DequantizeLinear and QuantizeLinear, one scale a tensor.
DISABLED_OPTIMIZERS = ["WeightBiasQuantization"]
OPTIMISED_FILE = "optimised.onnx"
EXTERNAL_WEIGHTS = "session.optimized_model_external_initializers_file_name"


def version() -> str:
    """The runtime's version."""
    import onnxruntime

    return str(onnxruntime.__version__)


def open_session(model: Path, instruments: Path | None = None) -> Any:
    """A session that computes in the calling thread.

    Args:
        instruments: a folder for the optimised graph (``OPTIMISED_FILE``) and the profile of an instrumented session.

    Raises:
        Exception: whatever the runtime raises for a model that it refuses.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = N_THREADS
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    if instruments is not None:
        options.optimized_model_filepath = str(instruments / OPTIMISED_FILE)
        # Beside it, since it is read for its nodes alone, and could not hold more than 2 GB.
        options.add_session_config_entry(EXTERNAL_WEIGHTS, f"{OPTIMISED_FILE}{WEIGHTS}")
        options.enable_profiling, options.profile_file_prefix = True, str(instruments / "profile")
    return onnxruntime.InferenceSession(
        str(model), options, providers=["CPUExecutionProvider"],
        disabled_optimizers=DISABLED_OPTIMIZERS,
    )


def refusal(error: Exception) -> str:
    """The runtime's message in one line."""
    return " ".join(str(error).replace("[ONNXRuntimeError] : ", "", 1).split())[:500]
