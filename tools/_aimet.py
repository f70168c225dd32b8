"""AIMET's AdaRound, run by a Python that holds ``aimet_onnx`` (not this project's).

Usage: PYTHON _aimet.py FOLDER N_ITERATIONS. The folder holds ``model.onnx`` in floats, ``model.encodings`` (the grids
of weights and activations, which stay), ``calibration.npy`` and ``report.npy``; outputs on the latter go to
``outputs.npy``. 0 iterations round to nearest.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from aimet_onnx.adaround.adaround_weight import Adaround
from aimet_onnx.quantsim import QuantizationSimModel, load_encodings_to_sim

BATCH = 32


def main() -> None:
    folder, n_iterations = Path(sys.argv[1]), int(sys.argv[2])
    sim = QuantizationSimModel(onnx.load(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    load_encodings_to_sim(sim, str(folder / "model.encodings"), strict=False, allow_overwrite=False)
    name = sim.session.get_inputs()[0].name
    calibration, report = (
        [{name: part} for part in np.split(x, range(BATCH, len(x), BATCH))]
        for x in (np.load(folder / f"{role}.npy") for role in ("calibration", "report"))
    )
    if n_iterations:
        Adaround.apply_adaround(sim, calibration, n_iterations)
    np.save(folder / "outputs.npy", np.concatenate([sim.session.run(None, one)[0] for one in report]))


if __name__ == "__main__":
    main()
