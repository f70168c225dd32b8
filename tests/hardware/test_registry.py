from __future__ import annotations

from dataclasses import replace

import pytest

from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.targets import get_target, targets
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.types import Precision


def test_names_are_keys_and_native_precisions_are_canonical():
    for name, target in targets().items():
        assert target.name == name
        assert all(Precision.parse(p).name == p for p in target.native)
        assert get_target(name).name == name


def test_unknown_target_lists_the_known_ones():
    with pytest.raises(HwsmpqError) as error:
        get_target("abacus")
    assert "abacus" in str(error.value)
    assert all(name in str(error.value) for name in targets())


def test_options_of_openvino_choose_the_scheme_and_stay_with_threads():
    plain, target = get_target("openvino-cpu"), get_target("openvino-cpu:per-tensor").with_threads(2)
    assert target.name == "openvino-cpu:per-tensor" and target.machine()["n_threads"] == "2"
    assert get_scheme(target.scheme_name) == replace(
        get_scheme(plain.scheme_name), name=target.scheme_name, per_tensor_weights=True
    )
    with pytest.raises(HwsmpqError, match="per-channel"):
        get_target("openvino-cpu:per-channel")


def test_listing_targets_imports_no_runtime():
    import subprocess
    import sys

    code = (
        "import sys; from hwsmpq.hardware.targets import targets; targets();"
        "print(sorted({'torch', 'openvino', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
