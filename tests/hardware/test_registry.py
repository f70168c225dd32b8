from __future__ import annotations

import pytest

from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.target import get_target, targets
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


def test_listing_targets_imports_no_runtime():
    import subprocess
    import sys

    code = (
        "import sys; from hwsmpq.hardware.target import targets; targets();"
        "print(sorted({'torch', 'openvino', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
