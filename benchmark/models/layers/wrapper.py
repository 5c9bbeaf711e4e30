"""Base class of methods that change how a network is trained or called: each wraps any other baseline."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo
from torch import Tensor, nn

from benchmark.cell import Frozen, ModelChoice, is_network
from benchmark.errors import UserError
from benchmark.models import model_registry
from benchmark.models.baseline import Baseline, Task
from benchmark.models.task import AnyTask


def _resolved(network: Any) -> ModelChoice:
    """ModelChoice with all settings, from `convnet`, `{convnet: {hidden: 64}}` or a ModelChoice's own form."""
    if isinstance(network, ModelChoice):
        network = network.model_dump()
    version = None
    if is_network(network):
        name, settings, version = network["name"], network["config"], network.get("version", 1)
    elif isinstance(network, dict) and len(network) == 1:
        ((name, settings),) = network.items()
    else:
        name, settings = network, {}
    if not isinstance(name, str):
        raise ValueError("must be a model's name, or a name with its settings: {convnet: {hidden: 64}}")
    try:
        baseline = model_registry.model(name)
        if not baseline.trained:
            raise ValueError(f"{name} has nothing to train")
        config = baseline.Config.model_validate_json(json.dumps({} if settings is None else settings))
    except UserError as error:
        raise ValueError(str(error)) from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, (name, *problem["loc"])))
        raise ValueError(f"{where}: {problem['msg'].removeprefix('Value error, ')}") from error
    return ModelChoice(name=name, config=config.model_dump(mode="json"), version=version or baseline.version)


Network = Annotated[ModelChoice, BeforeValidator(_resolved)]
"""Type of the Config field that names the wrapped network and its settings."""


def network(name: str = Task.plain[1]) -> Any:
    """Default of a field of type `Network`."""
    return Field(default_factory=lambda: _resolved(name))


def state_kind(choice: ModelChoice) -> str:
    """Kind of state that a model takes, for a wrapper that of its network."""
    baseline, settings = model_registry.configured(choice)
    return state_kind(settings.network) if issubclass(baseline, Wrapper) else baseline.kinds[0]


GROUPS: Mapping[str, tuple[str, ...]] = {"field": ("C4", "translation", "scale"), "particles": ("SO3",)}
"""Kind of state -> groups that act on it, the usual one first."""


def _acting(group: Any, info: ValidationInfo) -> Any:
    """`group`, by default the usual one of the states of the network. ValueError: it acts on other states."""
    if "network" not in info.data:  # the network is wrong, which has an error of its own
        return group or GROUPS["field"][0]
    choice = info.data["network"]
    groups = GROUPS[state_kind(choice)]
    if group in {name for names in GROUPS.values() for name in names} - set(groups):
        raise ValueError(f"{group} does not act on the states of {choice.name}; {' and '.join(groups)} would")
    return group or groups[0]


DrawnGroup = Annotated[Literal["C4", "translation", "scale", "SO3"], BeforeValidator(_acting)]
"""Type of the Config field that names the group, after that of the network."""


def drawn_group() -> Any:
    """Default of a field of type `DrawnGroup`."""
    return Field(default=None, validate_default=True)


class Wrapper(Baseline):
    """Passes every method of the contract on to `self.network`; a subclass overrides those that it changes."""

    class Config(Frozen):
        """`network` is the baseline that is wrapped."""

        network: Network = network()

    width_field = "network"

    @classmethod
    def refusal(cls, config: Any, task: Task) -> str | None:
        """Reason of the wrapper, or of the network."""
        baseline, settings = model_registry.configured(config.network)
        reason = cls.supports(task) or baseline.cannot_run(settings, task)
        if task.kind not in baseline.kinds:
            return f"its network {config.network.name} {reason}: try `network: {task.plain[1]}`"
        return reason

    @classmethod
    def widened(cls, config: Any, width: int) -> Any:
        """Set the width of the network."""
        baseline, settings = model_registry.configured(config.network)
        wide = baseline.widened(settings, width)
        if wide is None:
            return None
        choice = config.network.model_copy(update={"config": wide.model_dump(mode="json")})
        return cls.Config.model_validate({**config.model_dump(), cls.width_field: choice})

    def __init__(self, config: Any, task: AnyTask) -> None:
        super().__init__(config, task)
        baseline, settings = model_registry.configured(config.network)
        self.network = baseline(settings, task)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        return self.network(x_BTCHW)

    @classmethod
    def has_deviations(cls, config: Any) -> bool:
        """Whether the network has them."""
        baseline, settings = model_registry.configured(config.network)
        return baseline.has_deviations(settings)

    def deviations(self) -> Sequence[nn.Parameter]:
        return self.network.deviations()

    def penalty(self) -> Tensor:
        return self.network.penalty()

    def augment(self, x_BTCHW: Tensor, y_BSCHW: Tensor, draws_B: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.augment(x_BTCHW, y_BSCHW, draws_B)

    def regularization(self, x_BTCHW: Tensor, draws_B: Tensor) -> Tensor:
        return self.network.regularization(x_BTCHW, draws_B)

    def before_step(self, progress: float) -> None:
        self.network.before_step(progress)
