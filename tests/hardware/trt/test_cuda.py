"""All ways to CUDA on stand-ins for their packages or library, and on a real GPU where one is."""

from __future__ import annotations

import gc
import importlib

import numpy as np
import pytest

from hwsmpq.device.tensorrt import cuda_driver, driver, graph
from hwsmpq.device.tensorrt.cuda import Cuda
from hwsmpq.device.tensorrt.cuda_bindings import CudaBindings
from hwsmpq.device.tensorrt.cuda_driver import CudaDriver
from hwsmpq.device.tensorrt.cuda_packages import get_cuda
from hwsmpq.device.tensorrt.cuda_pycuda import PyCuda
from hwsmpq.device.tensorrt.driver import Driver
from hwsmpq.errors import HwsmpqError

from .fake_driver import driver_library
from .fake_packages import Gpu, bindings, install

BINDINGS_CALLS = (
    "cudaGetDeviceCount", "cudaStreamCreateWithFlags", "cudaEventCreate", "cudaMalloc", "cudaMemcpyAsync",
    "cudaEventRecord", "cudaEventSynchronize", "cudaEventElapsedTime", "cudaStreamSynchronize", "cudaMemGetInfo",
)
PYCUDA_CALLS = (
    "cuInit", "cuStreamCreate", "cuEventCreate", "cuMemAlloc", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync",
    "cuEventRecord", "cuEventSynchronize", "cuEventElapsedTime", "cuStreamSynchronize", "cuMemGetInfo",
)
DRIVER_CALLS = (
    "cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuStreamCreate",
    "cuEventCreate", "cuMemAlloc_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuEventRecord",
    "cuEventSynchronize", "cuEventElapsedTime", "cuStreamSynchronize", "cuMemGetInfo_v2",
)
CALLS = {CudaBindings: BINDINGS_CALLS, PyCuda: PYCUDA_CALLS, CudaDriver: DRIVER_CALLS}
FREES = {"cudaFree", "cuMemFree_v2"}


def stand_on(monkeypatch, make, gpu: Gpu, without: str = "") -> None:
    """Let one implementation find the GPU."""
    install(monkeypatch, gpu if make is CudaBindings else None, gpu if make is PyCuda else None)
    for user in (cuda_driver, graph):
        monkeypatch.setattr(user, "get_driver", lambda: Driver(driver_library(gpu, without)))


@pytest.fixture(params=CALLS)
def package(request, monkeypatch):
    """An implementation and the GPU that its package stands on."""
    gpu = Gpu()
    stand_on(monkeypatch, request.param, gpu)
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
    ("make", "call"), [(make, call) for make, calls in CALLS.items() for call in calls]
)
def test_every_failing_call_is_named(monkeypatch, make, call):
    stand_on(monkeypatch, make, Gpu(fails=call))
    with pytest.raises(HwsmpqError, match=f"{call} failed") as error:
        use_everything(make())
    assert error.value.why


def test_the_calls_above_are_all_that_are_made(package):
    make, gpu = package
    use_everything(make())
    assert set(gpu.calls) - FREES - {"cuInit"} == set(CALLS[make]) - {"cuInit"}


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("make", "call"), [(CudaBindings, "cudaFree"), (CudaDriver, "cuMemFree_v2")])
def test_a_failure_to_free_is_no_error(monkeypatch, make, call):
    gpu = Gpu(fails=call)
    stand_on(monkeypatch, make, gpu)
    buffer = make().allocate(8)
    del buffer
    gc.collect()
    assert call in gpu.calls


def test_errors_of_the_driver_have_its_words(monkeypatch):
    stand_on(monkeypatch, CudaDriver, Gpu(fails="cuMemAlloc_v2"))
    with pytest.raises(HwsmpqError) as caught:
        CudaDriver().allocate(8)
    assert (caught.value.what, caught.value.why) == ("cuMemAlloc_v2 failed", "CUDA_ERROR_OUT_OF_MEMORY: out of memory")


def test_an_old_driver_lacks_a_function_by_name(monkeypatch):
    stand_on(monkeypatch, CudaDriver, Gpu(), without="cuMemGetInfo_v2")
    with pytest.raises(HwsmpqError, match="no cuMemGetInfo_v2"):
        CudaDriver().memory_bytes()


def test_the_driver_tells_of_the_gpu(monkeypatch):
    monkeypatch.setattr(driver, "get_driver", lambda: Driver(driver_library(Gpu())))
    assert driver.describe() == {
        "device": "Orin", "compute_capability": "8.7", "n_multiprocessors": "14", "memory_mib": "32768", "cuda": "12.4",
    }


def test_what_is_captured_is_done_at_every_launch(monkeypatch):
    gpu = Gpu()
    library = Driver(driver_library(gpu))
    for user in (cuda_driver, graph):
        monkeypatch.setattr(user, "get_driver", lambda: library)
    cuda, array, received = CudaDriver(), np.zeros(2, np.float32), np.zeros(2, np.float32)
    buffer = cuda.allocate(array.nbytes)
    launch = cuda.repeatable(lambda: cuda.copy_in(buffer, array))
    assert gpu.now_ms == 0  # captured, not done
    for value in (1, 2):
        array[:] = value
        launch()
        cuda.copy_out(buffer, received)
        assert received.tolist() == [value, value]
    del launch
    gc.collect()
    assert {"cuGraphExecDestroy", "cuGraphDestroy"} <= set(gpu.calls)


def test_what_cannot_be_captured_is_enqueued_every_time(monkeypatch):
    gpu = Gpu()
    library = Driver(driver_library(gpu))
    for user in (cuda_driver, graph):
        monkeypatch.setattr(user, "get_driver", lambda: library)
    cuda = CudaDriver()
    assert cuda.repeatable(cuda.synchronize) == cuda.synchronize
    cuda.synchronize()  # the stream captures no longer


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
@pytest.mark.parametrize("make", CALLS)
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
