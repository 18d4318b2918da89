"""What the stopwatches count, on a GPU that is only a clock."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from bench import timing
from bench.timing import DeviceStopwatch, gpu_wall_s, medians_s


class FakeGpu:
    """Stands for torch: the host goes on at once, the GPU works off what it was given, one after the other. In microseconds."""

    def __init__(self) -> None:
        self.host_us = self.busy_until_us = 0.0
        self.num_fills = 0
        self.uint8 = None
        self.cuda = SimpleNamespace(Event=lambda enable_timing: FakeEvent(self), synchronize=self.synchronize)

    def empty(self, size: int, dtype: None, device: str) -> SimpleNamespace:
        return SimpleNamespace(zero_=self.fill)

    def fill(self) -> None:
        self.num_fills += 1
        self.launch(host_us=5, device_us=300)

    def launch(self, *, host_us: float, device_us: float) -> None:
        self.host_us += host_us
        self.busy_until_us = max(self.busy_until_us, self.host_us) + device_us

    def synchronize(self) -> None:
        self.host_us = max(self.host_us, self.busy_until_us)

    def kernels(self, count: int, *, host_us: float, device_us: float) -> Callable[[], None]:
        def run() -> None:
            for _ in range(count):
                self.launch(host_us=host_us, device_us=device_us)

        return run


class FakeEvent:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu

    def record(self) -> None:
        self.at_us = max(self.gpu.busy_until_us, self.gpu.host_us)

    def query(self) -> bool:
        return self.gpu.host_us >= self.at_us

    def elapsed_time(self, end: "FakeEvent") -> float:
        return (end.at_us - self.at_us) / 1e3


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu()
    monkeypatch.setattr(timing, "torch", gpu)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: gpu.host_us / 1e6))
    return gpu


def test_device_time_has_no_gaps_of_launches_in_it(gpu: FakeGpu) -> None:
    slow_to_launch = gpu.kernels(40, host_us=1000, device_us=100)
    assert DeviceStopwatch()(slow_to_launch) == pytest.approx(40 * 100e-6)


def test_wall_time_has_them(gpu: FakeGpu) -> None:
    slow_to_launch = gpu.kernels(40, host_us=1000, device_us=100)
    assert gpu_wall_s(slow_to_launch) == pytest.approx(40 * 1000e-6 + 100e-6)


def test_wall_time_does_not_count_what_was_still_running(gpu: FakeGpu) -> None:
    gpu.launch(host_us=5, device_us=5000)
    assert gpu_wall_s(gpu.kernels(1, host_us=10, device_us=100)) == pytest.approx(110e-6)


def test_a_run_that_waits_for_the_gpu_is_measured_with_its_waits(gpu: FakeGpu) -> None:
    def waiting() -> None:
        gpu.launch(host_us=10, device_us=100)
        gpu.synchronize()
        gpu.launch(host_us=10, device_us=100)

    assert DeviceStopwatch()(waiting) == pytest.approx(210e-6)
    assert gpu.num_fills < 2 * DeviceStopwatch.MOST_FILLS


def test_a_median_is_of_what_the_stopwatch_says_after_a_warm_up() -> None:
    log: list[str] = []
    said = {"a": iter([3.0, 1.0, 2.0]), "b": iter([9.0, 9.0, 5.0])}

    def stopwatch(run: Callable[[], object]) -> float:
        run()
        return next(said[log[-1]])

    medians = medians_s({name: lambda name=name: log.append(name) for name in said}, rounds=3, stopwatch=stopwatch)

    assert medians == {"a": 2.0, "b": 9.0}
    assert log == ["a", "b"] * 4  # in turns
