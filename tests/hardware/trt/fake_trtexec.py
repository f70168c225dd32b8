"""Stands in for trtexec: the "ONNX file" holds the assignment, and the engine is one of :mod:`synthetic`.

It takes only options that trtexec 10.6 and 11.0 both list in their help, and notes every call in the file that
``FAKE_TRTEXEC_CALLS`` names.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import synthetic

HELP = """
--onnx --stronglyTyped --noTF32 --timingCacheFile --profilingVerbosity --noDataTransfers --useSpinWait --useCudaGraph
--separateProfileRun --warmUp --duration --iterations --exportLayerInfo --exportTimes --exportProfile --dumpProfile
--dumpLayerInfo --saveEngine --skipInference --builderOptimizationLevel --device --verbose
"""

options = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
unknown = sorted(options.keys() - HELP.split())
if unknown:
    sys.exit(f"[E] Unknown option: {unknown[0]}")
with open(os.environ["FAKE_TRTEXEC_CALLS"], "a") as calls:
    calls.write(options["--onnx"] + "\n")
assignment = json.loads(Path(options["--onnx"]).read_text())
if "refused" in assignment:
    sys.exit("[E] [TRT] made-up reason")
print(synthetic.log("10"))
layers, profile, times = (Path(options[f"--export{what}"]) for what in ("LayerInfo", "Profile", "Times"))
# Without strong typing the file's precisions are requests, which nothing here follows.
precisions = synthetic.by_layer(assignment if "--stronglyTyped" in options else dict.fromkeys(assignment, "fp32"))
synthetic.write_files(layers, profile, times, precisions, synthetic.total_ms(assignment), "10")
if options["--profilingVerbosity"] != "detailed":
    layers.write_text(json.dumps({"Layers": list(precisions)}))
if "--separateProfileRun" not in options:
    times.unlink()
