"""Both ways to CUDA on stand-ins for their packages, and on a real GPU where one is."""

from __future__ import annotations

import gc
import importlib

import numpy as np
import pytest

from hwsmpq.device.tensorrt.cuda import Cuda
from hwsmpq.device.tensorrt.cuda_bindings import CudaBindings
from hwsmpq.device.tensorrt.cuda_packages import get_cuda
from hwsmpq.device.tensorrt.cuda_pycuda import PyCuda
from hwsmpq.errors import HwsmpqError

from .fake_packages import Gpu, bindings, install

BINDINGS_CALLS = (
    "cudaGetDeviceCount", "cudaStreamCreateWithFlags", "cudaEventCreate", "cudaMalloc", "cudaMemcpyAsync",
    "cudaEventRecord", "cudaEventSynchronize", "cudaEventElapsedTime", "cudaStreamSynchronize", "cudaMemGetInfo",
)
PYCUDA_CALLS = (
    "cuInit", "cuStreamCreate", "cuEventCreate", "cuMemAlloc", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync",
    "cuEventRecord", "cuEventSynchronize", "cuEventElapsedTime", "cuStreamSynchronize", "cuMemGetInfo",
)


@pytest.fixture(params=[CudaBindings, PyCuda])
def package(request, monkeypatch):
    """An implementation and the GPU that its package stands on."""
    gpu = Gpu()
    install(monkeypatch, *((gpu, None) if request.param is CudaBindings else (None, gpu)))
    return request.param, gpu


@pytest.fixture
def fresh():
    get_cuda.cache_clear()
    yield
    get_cuda.cache_clear()


def use_everything(cuda: Cuda) -> None:
    """Every method, checked where the answer does not depend on the device."""
    sent = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    received = [np.zeros_like(sent) for _ in range(2)]
    buffers = [cuda.allocate(sent.nbytes) for _ in range(2)]
    assert all(buffer.n_bytes == sent.nbytes for buffer in buffers)
    assert buffers[0].address != buffers[1].address
    cuda.copy_in(buffers[0], sent)
    cuda.copy_in(buffers[1], sent + 1)
    for buffer, array in zip(buffers, received, strict=True):
        cuda.copy_out(buffer, array)
    cuda.synchronize()
    assert np.array_equal(received[0], sent)
    assert np.array_equal(received[1], sent + 1)
    assert cuda.elapsed_ms(lambda: cuda.copy_in(buffers[0], sent)) > 0
    free, total = cuda.memory_bytes()
    assert 0 < free <= total
    assert isinstance(cuda.stream, int)


def test_keeps_the_contract(package):
    make, _ = package
    use_everything(make())


def test_measures_what_is_enqueued_and_no_more(package):
    make, gpu = package
    cuda = make()
    buffer = cuda.allocate(8)
    array = np.zeros(2, np.float32)
    cuda.copy_in(buffer, array)
    assert cuda.elapsed_ms(lambda: None) == 0.0
    assert cuda.elapsed_ms(lambda: [cuda.copy_in(buffer, array), cuda.copy_out(buffer, array)]) == 10.0
    assert gpu.now_ms == 15.0


def test_memory_is_freed_with_its_buffer(package):
    make, gpu = package
    cuda = make()
    kept, dropped = cuda.allocate(8), cuda.allocate(16)
    del dropped
    gc.collect()
    assert list(gpu.memory) == [kept.address]


@pytest.mark.parametrize(
    ("make", "call"),
    [*((CudaBindings, call) for call in BINDINGS_CALLS), *((PyCuda, call) for call in PYCUDA_CALLS)],
)
def test_every_failing_call_is_named(monkeypatch, make, call):
    gpu = Gpu(fails=call)
    install(monkeypatch, gpu, gpu)
    with pytest.raises(HwsmpqError, match=f"{call} failed") as error:
        use_everything(make())
    assert error.value.why


def test_the_calls_above_are_all_that_are_made(package):
    make, gpu = package
    use_everything(make())
    tested = BINDINGS_CALLS if make is CudaBindings else PYCUDA_CALLS
    assert set(gpu.calls) - {"cudaFree"} == set(tested) - {"cuInit"}


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_failure_to_free_is_no_error(monkeypatch):
    gpu = Gpu(fails="cudaFree")
    install(monkeypatch, gpu, None)
    buffer = CudaBindings().allocate(8)
    del buffer
    gc.collect()
    assert gpu.calls[-1] == "cudaFree"


def test_a_missing_driver_library_is_an_error(monkeypatch):
    gpu = Gpu()
    install(monkeypatch, gpu, None)

    def missing():
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(importlib.import_module("cuda.bindings.runtime"), "cudaGetDeviceCount", missing)
    with pytest.raises(HwsmpqError, match="dlopen"):
        CudaBindings()


def test_functions_of_the_stand_in_exist_in_the_package():
    real = pytest.importorskip("cuda.bindings.runtime")
    stand_in = [name for name in vars(bindings(Gpu())) if not name.startswith("_")]
    assert [name for name in stand_in if not hasattr(real, name)] == []
    assert real.cudaGetErrorString(real.cudaError_t.cudaErrorMemoryAllocation)[1] == b"out of memory"


def test_cuda_bindings_comes_first(monkeypatch, fresh):
    install(monkeypatch, Gpu(), Gpu())
    assert isinstance(get_cuda(), CudaBindings)
    assert get_cuda() is get_cuda()


@pytest.mark.parametrize("gpu", [None, Gpu(n_devices=0), Gpu(fails="cudaStreamCreateWithFlags")])
def test_pycuda_stands_in(monkeypatch, fresh, gpu):
    install(monkeypatch, gpu, Gpu())
    assert isinstance(get_cuda(), PyCuda)


@pytest.mark.parametrize("gpu", [None, Gpu(n_devices=0)])
def test_without_a_gpu_the_error_says_what_to_install(monkeypatch, fresh, gpu):
    install(monkeypatch, gpu, gpu)
    with pytest.raises(HwsmpqError) as error:
        get_cuda()
    assert "NVIDIA GPU" in error.value.fix
    assert error.value.why.startswith("cuda-bindings ")
    assert "; pycuda " in error.value.why


def test_a_failure_is_not_remembered(monkeypatch, fresh):
    install(monkeypatch, None, None)
    with pytest.raises(HwsmpqError):
        get_cuda()
    install(monkeypatch, Gpu(), None)
    assert isinstance(get_cuda(), CudaBindings)


@pytest.mark.gpu
@pytest.mark.parametrize("make", [CudaBindings, PyCuda])
def test_keeps_the_contract_on_a_gpu(make):
    try:
        cuda = make()
    except HwsmpqError as error:
        pytest.skip(str(error))
    use_everything(cuda)
    free, _ = cuda.memory_bytes()
    buffer = cuda.allocate(256 * 2**20)
    assert cuda.memory_bytes()[0] < free
    del buffer
    cuda.synchronize()
    with pytest.raises(HwsmpqError, match="out of memory"):
        cuda.allocate(2**50)
