#!/bin/sh
# Builds and times the engine of every ONNX file in this folder, one after the other, and leaves what is to be copied
# back beside it. Finished engines are skipped, so that it can be interrupted and started again.
#
#   TRTEXEC=/path/to/trtexec CUDA_VISIBLE_DEVICES=0 ./profile.sh
set -eu

fail() {
    echo "profile.sh: $*" >&2
    exit 1
}

here=$(dirname -- "$0")
trtexec=${TRTEXEC:-trtexec}
command -v "$trtexec" >/dev/null || fail "cannot find $trtexec: it comes with TensorRT" \
    "(often as /usr/src/tensorrt/bin/trtexec); set TRTEXEC to its path"

set -- "$here"/*.onnx
[ -f "$1" ] || fail "there is no ONNX file in $here"

position=0
for onnx; do
    position=$((position + 1))
    engine=${onnx%.onnx}
    name=${engine##*/}
    if [ -f "$engine.profile.json" ]; then
        echo "[$position/$#] $name: done before"
        continue
    fi
    echo "[$position/$#] $name"
    # Strong typing keeps every layer in the precision that the file gives it, and without TF32 fp32 means fp32.
    # One timing cache makes all builds choose from the same measured kernels. What is timed is the GPU alone: no
    # copies, no waiting for the CPU. Kernels are profiled in a run of their own, since that slows the engine down.
    "$trtexec" --onnx="$onnx" --stronglyTyped --noTF32 --timingCacheFile="$here/timing.cache" \
        --profilingVerbosity=detailed --noDataTransfers --useSpinWait --useCudaGraph --separateProfileRun \
        --warmUp=1000 --duration=2 --iterations=200 --exportLayerInfo="$engine.layers.json" \
        --exportTimes="$engine.times.json" --exportProfile="$engine.profile.part" >"$engine.log" 2>&1 || {
        tail -n 5 "$engine.log" >&2
        fail "trtexec failed on $name.onnx; $engine.log says why"
    }
    for file in "$engine.layers.json" "$engine.times.json" "$engine.profile.part"; do
        [ -s "$file" ] || fail "trtexec wrote no $file; see $engine.log"
    done
    mv "$engine.profile.part" "$engine.profile.json"
done
echo "Done. README.txt says what to copy back."
