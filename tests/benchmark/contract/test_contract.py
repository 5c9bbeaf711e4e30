"""The contract reports each fault of a baseline, and a broken baseline is refused before training."""

from collections.abc import Callable

import pytest
import torch
from toy_baseline import RELAXED, TOY

from benchmark.contract import checks, ranks
from benchmark.contract.candidate import Candidate
from benchmark.contract.checks import Result
from benchmark.models.baseline import Task
from benchmark.training.model_errors import author_errors, check_forecast

Make = Callable[..., Candidate]


def outcome(candidate: Candidate, name: str) -> Result:
    (check,) = [check for check in checks.CHECKS if check.name == name]
    return checks.examine(check, candidate)


@pytest.mark.parametrize("text", [TOY, RELAXED], ids=["strict", "relaxed"])
def test_a_sound_baseline_passes(make: Make, text: str) -> None:
    candidate = make(text)
    results = [checks.examine(check, candidate) for check in checks.CHECKS]
    assert [result.check for result in results] == list(checks.CHECKS)
    assert not [result for result in results if result.outcome == "failed"]
    skipped = {result.check.name: result.reason for result in results if result.outcome == "does not apply"}
    assert skipped.pop("scale_is_kept") == "it does not declare scale"
    assert all(skipped.values())
    assert ("relaxed_leaves_on_other_data" in skipped) == (text is TOY)


def test_every_check_says_what_it_demands() -> None:
    assert all(check.demand.endswith((".", "here.")) for check in checks.CHECKS)
    assert len({check.name for check in checks.CHECKS}) == len(checks.CHECKS)


METHOD = "\n    def {}\n        {}\n"
BROKEN = {
    "source": ("declares_what_it_is", ('"test"', '" "'), "source is empty"),
    "docstring": ("declares_what_it_is", ('    """One convolution."""\n', ""), "has no docstring"),
    "untyped": (
        "config_is_closed_and_complete",
        ("penalty: float = 0.0", "anything: object = 0"),
        "Config.anything accepts any object",
    ),
    "wrong default": (
        "config_is_closed_and_complete",
        ("kernel_size: int = 3", "kernel_size: int = 'three'"),
        "ValidationError: 1 validation error for Config kernel_size",
    ),
    "search of what is not there": (
        "search_space_lies_within_the_config",
        ('{"kernel_size"', '{"size"'),
        "search_space: Config has no field 'size'",
    ),
    "search of what is refused": (
        "search_space_lies_within_the_config",
        ("Choice((3, 5))", "Choice((3, 5.5))"),
        "search_space['kernel_size']: Config does not accept 5.5",
    ),
    "refusal": (
        "runs_on_some_task",
        ("    def forward", METHOD.format("supports(task):", "return 'not today'") + "    def forward"),
        "it supports none of the offered tasks (2 x 12 x 12: not today;",
    ),
    "shape": (
        "forecasts_one_frame_on_12x9",
        ("return y", "return y[..., :-1]"),
        "12 x 9: forward gives a tensor of shape (2, 2, 12, 8), expected (windows, *task.shape) = (2, 2, 12, 9)",
    ),
    "dtype": (
        "forecasts_one_frame_on_12x12",
        ("return y", "return y.double()"),
        "forward gives numbers of type torch.float64, expected torch.float32",
    ),
    "NaN": (
        "forecasts_one_frame_on_12x12",
        ("return y", "return torch.where(x[:, 0] > 0, y, torch.nan)"),
        "of 576 numbers, expected finite numbers",
    ),
    "no tensor": (
        "forecasts_one_frame_on_12x12",
        ("return y", "return y, y"),
        "forward gives tuple, expected a tensor of shape (2, 2, 12, 12)",
    ),
    "raises": (
        "forecasts_one_frame_on_12x12",
        ("return y", 'raise RuntimeError("no such luck")'),
        "RuntimeError: no such luck (toy.py, line 29)",
    ),
    "raises in torch": (
        "forecasts_one_frame_on_62x23",
        ("x.flatten(1, 2)", "x"),
        " (toy.py, line 28)",
    ),
    "cannot be built": ("copies", ("#init", 'raise ValueError("no")'), "ValueError: no (toy.py, line 25)"),
    "leaves": ("copies", ("#init", "raise SystemExit(3)"), "SystemExit: 3 (toy.py, line 25)"),
    "clamp": (
        "leaves_its_input_alone",
        ("return y", "x.clamp_(-9, 9); return y"),
        "edits its input in place, as `x.cl",
    ),
    "frame": ("leaves_its_input_alone", ("return y", "x.data[:, 0] = 0; return y"), "edits its input in place"),
    "regularization in place": (
        "leaves_its_input_alone",
        ("return y\n", "return y\n" + METHOD.format("regularization(self, x, draws):", "return x.neg_().mean()")),
        "edits its input in place",
    ),
    "one output": (
        "leaves_its_input_alone",
        [("#init", "self.y = None"), ("return y", "self.y = y if self.y is None else self.y.copy_(y); return self.y")],
        "a second forecast overwrites the first",
    ),
    "padding": ("takes_kernel_size_5", ("size // 2", "1"), "kernel_size 5, 12 x 12: forward gives a tensor of shape"),
    "bf16": (
        "trains_in_bf16",
        ("return y", "return y / (y.dtype == torch.float32)"),
        "the forecast is not finite under autocast to bfloat16",
    ),
    "batch norm": (
        "windows_do_not_see_each_other",
        ("return y", "return y - y.mean(0)"),
        "beside two other windows the forecast differs by",
    ),
    "cache": (
        "cached_filters_change_nothing",
        ("return y", "return y * (2 if nn.utils.parametrize._cache_enabled else 1)"),
        "within parametrize.cached() the forecast differs",
    ),
    "constant on the CPU": (
        "keeps_to_its_device",
        ("return y", "return y * torch.ones(x.shape[-1])"),
        "forward must not choose a device",
    ),
    "copy to the CPU": (
        "keeps_to_its_device",
        ("return y", "return y * x.sum().cpu()"),
        "a step copies a tensor of shape () from fake_gpu to cpu (toy.py, line",
    ),
    "copy of a list": (
        "keeps_to_its_device",
        ("return y", "return y * torch.tensor([2.0], device=x.device)"),
        "a step copies a list or a number to the GPU, and the CPU waits for the GPU",
    ),
    "number": (
        "keeps_to_its_device",
        ("return y", "return y if x.sum() > 0 else -y"),
        "a step asks for a number or a shape that is on the GPU, and the CPU waits for the GPU",
    ),
    "rotation": ("rotation_is_kept_on_12x12", ('"translation"', '"rotation"'), "turned by 90 degrees, kernel_size 3"),
    "rotation, kernel": (
        "rotation_is_kept_on_12x9",
        [('"translation"', '"rotation"'), ("return y", "return y if self.config.kernel_size == 5 else x[:, -1]")],
        "turned by 90 degrees, kernel_size 5, 12 x 9: error",
    ),
    "reflection": ("reflection_is_kept_on_12x9", ('"translation"', '"reflection"'), "mirrored, kernel_size 3, 12 x 9"),
    "translation between walls": (
        "translation_is_kept_away_from_walls",
        [
            ("#init", "self.wind = 0.1 * torch.linspace(0, 1, task.width) * (not task.periodic)"),
            ("return y", "return y + self.wind"),
        ],
        "shift+0+8, 1 cells from walls: error",
    ),
    "translation": (
        "translation_is_kept_in_a_periodic_box",
        ("return y", "return y + torch.linspace(0, 1, y.shape[-1])"),
        "shifted, kernel_size 3: error",
    ),
    "scale": (
        "scale_is_kept",
        [('"translation"', '"scale"'), ("return y", "return y.sign()")],
        "enlarged by 1.5: error 0.34",
    ),
    "unused": ("every_parameter_gets_a_gradient", ("#init", "self.w = nn.Parameter(torch.ones(1))"), "w gets no grad"),
    "dead": (
        "every_parameter_gets_a_gradient",
        [("#init", "self.w = nn.Parameter(torch.ones(1))"), ("return y", "return y + 0 * self.w")],
        "the gradient of w is zero everywhere",
    ),
    "trained": (
        "every_parameter_gets_a_gradient",
        ('"test"\n', '"test"\n    trained = False\n'),
        "trained is False, and it has 110 parameters",
    ),
    "chance": (
        "chance_comes_from_the_draws",
        ("return y", "return y * torch.rand(())"),
        "the loss of the same windows and draws is",
    ),
    "in place": (
        "chance_comes_from_the_draws",
        ("return y\n", "return y\n" + METHOD.format("augment(self, x, y, draws):", "return x.neg_(), y")),
        "augment changes its arguments in place",
    ),
    "other windows": (
        "chance_comes_from_the_draws",
        ("return y\n", "return y\n" + METHOD.format("augment(self, x, y, draws):", "return x[:1], y[:1]")),
        "augment gives shapes ((1, 3, 2, 12, 12), (1, 2, 2, 12, 12)), expected",
    ),
    "no scalar": (
        "chance_comes_from_the_draws",
        ("return y\n", "return y\n" + METHOD.format("regularization(self, x, draws):", "return x.mean((1, 2, 3, 4))")),
        "regularization has shape (2,), expected a scalar",
    ),
    "forgets": (
        "resume_equals_no_interruption",
        [
            ("#init", "self.calls = 0"),
            ("return y\n", "return y / (1 + self.calls)\n" + METHOD.format("before_step(self, p):", "self.calls += 1")),
        ],
        "resumed after the first of three epochs, values differ in mix.weight, mix.bias",
    ),
    "sum over windows": (
        "two_ranks_equal_one",
        (
            "return y\n",
            "return y\n"
            + METHOD.format("regularization(self, x, draws):", "return self(x).square().sum((1, 2, 3)).sum()"),
        ),
        "a loss must be a mean over windows",
    ),
    "dies on two ranks": (
        "two_ranks_equal_one",
        ("return y", "import torch.distributed as d; return y if not d.is_initialized() else 1 / 0"),
        "on two ranks: ZeroDivisionError: division by zero (toy.py, line 29)",
    ),
    "seed": (
        "same_seed_gives_the_same_model",
        ("#init", "self.mix.bias.data += random.random()"),
        "differs in mix.bias",
    ),
    "state": (
        "state_is_restored_in_either_mode",
        [("#init", "self.secret = torch.rand(())"), ("return y", "return y * self.secret")],
        "saved in train mode and loaded in train mode, the forecast differs",
    ),
    "copy": (
        "copies",
        [("#init", "mix = self.mix; self.call = lambda x: mix(x)"), ("self.mix(x", "self.call(x")],
        "the forecast does not depend on the parameters",
    ),
}
BROKEN_RELAXED = {
    "start": (
        "translation_is_kept_in_a_periodic_box",
        ("torch.zeros(task.height, task.width)", "torch.rand(task.height, task.width)"),
        "shifted, kernel_size 3: error",
    ),
    "other gradient": (
        "relaxed_stays_on_symmetric_data",
        ("return y * (1 + self.w)", "return y + self.w * torch.arange(x.shape[-1])"),
        "translation: after 3 steps on data with this symmetry the error is",
    ),
    "not relaxed": (
        "relaxed_leaves_on_other_data",
        ("return y * (1 + self.w)", "return y * (1 + self.w.mean())"),
        "it is not relaxed",
    ),
    "penalty at the start": (
        "penalty_measures_the_relaxation",
        ("self.w.diff(dim=0)", "(self.w + 1)"),
        "the penalty is 1.0e-02 at the start, expected 0",
    ),
    "no deviations": (
        "deviations_are_declared",
        ("[self.w]", "[]"),
        "has_deviations is True, and there are 0 deviations",
    ),
    "foreign deviation": ("deviations_are_declared", ("[self.w]", "[self.w * 1]"), "tensors that are no parameters"),
    "the same deviation twice": ("deviations_are_declared", ("[self.w]", "[self.w, self.w]"), "a parameter twice"),
    "another zero": (
        "deviations_of_zero_are_symmetric",
        ("return y * (1 + self.w)", "return y * (1 + (self.w - 1) * torch.arange(x.shape[-1]))"),
        "translation, deviations at zero: error",
    ),
    "far start": (
        "deviations_of_zero_are_symmetric",
        ("torch.zeros(task.height", "0.1 + torch.zeros(task.height"),
        "at the start its deviations change the forecast by",
    ),
    "no penalty": (
        "penalty_measures_the_relaxation",
        ("self.w.diff(dim=0)", "(self.w - self.w)"),
        "the penalty is 0.0 after 3 steps on noise, expected more than 0",
    ),
}


@pytest.mark.parametrize(
    ("text", "check", "changes", "reason"),
    [pytest.param(TOY, *case, id=key) for key, case in BROKEN.items()]
    + [pytest.param(RELAXED, *case, id=f"relaxed, {key}") for key, case in BROKEN_RELAXED.items()],
)
def test_what_is_broken_is_found(
    make: Make, text: str, check: str, changes: tuple[str, str] | list[tuple[str, str]], reason: str
) -> None:
    candidate = make(text, *([changes] if isinstance(changes, tuple) else changes))
    result = outcome(candidate, check)
    assert result.outcome == "failed"
    assert reason in result.reason
    assert "\n" not in result.reason


@pytest.mark.parametrize(("factor", "outcome_on_mirrors"), [("1", "passed"), ("(1 + x[0, 0, 0])", "failed")])
def test_a_relaxed_model_may_declare_reflections(make: Make, factor: str, outcome_on_mirrors: str) -> None:
    changes = (('"translation"', '"reflection"'), ("self.mix(x.flatten(1, 2))", "x[:, -1] * self.mix.weight.sum()"))
    candidate = make(RELAXED, *changes, ("(1 + self.w)", f"(1 + self.w * {factor})"))
    outcomes = [
        outcome(candidate, f"relaxed_{name}").outcome for name in ("stays_on_symmetric_data", "leaves_on_other_data")
    ]
    assert outcomes == [outcome_on_mirrors, "passed"]


def test_a_sound_model_is_left_as_it_was(make: Make) -> None:
    """`symbench run` checks a model before its first epoch; test_broken_models.py has the faults that it reports."""
    task = Task("made_up", 3, 6, 5)
    model = make(TOY, ("return y", "assert not self.training; return y")).build(task)
    before, random = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    check_forecast("toy", model, torch.ones(1, 3, 2, 6, 5))
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuFFT error: CUFFT_INTERNAL_ERROR"),
    ],
)
def test_lack_of_memory_and_a_broken_gpu_are_no_fault_of_the_model(make: Make, error: Exception) -> None:
    with pytest.raises(type(error)), author_errors("toy", make().baseline):
        raise error


def test_a_rank_that_dies_is_told(make: Make) -> None:
    """The next check would get another pair of processes."""
    dies = "import os, torch.distributed as d; d.is_initialized() and os._exit(1); return y"
    result = outcome(make(TOY, ("return y", dies)), "two_ranks_equal_one")
    assert (result.outcome, result.reason) == ("failed", "on two ranks: the process died without an error message")
    assert ranks._pair.cache_info().currsize == 0
