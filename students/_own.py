"""A wrapper that makes a student of any `nn.Module`: hooks read its stages."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from torch import Tensor, nn

from ktbench.students._contract import Features, Student
from ktbench.students._found_stages import found_stages

INNER = "network."
"""Prefix of the user's own names in the wrapper's state_dict."""


def wrap(
    obj: Callable[..., Any],
    *,
    stages: Sequence[str] | Literal["auto"] | None = None,
    preacts: Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    **sizes: int,
) -> Student:
    """Build a student from a module's class or a function that returns a module.

    `obj` is called with the sizes that the data gives (`num_classes` and, for images,
    `in_channels`), as far as it has parameters of these names, and with `arguments`, which come
    first. `stages` are module names (as in
    `named_modules()`) whose outputs are the stages, in order, or `auto`: then they are looked for
    (`_found_stages`); `preacts`, as many, those whose outputs are the stages before their
    activation. A `Student` without named stages is returned as it is.
    Raises ValueError, with one line, when `obj` cannot be built or a name is not there.
    """
    network = _built(obj, sizes, arguments or {})
    automatic = stages == "auto"
    stages, preacts = _names(None if automatic else stages, "stages"), _names(preacts, "preacts")
    if isinstance(network, Student) and not stages and not preacts:
        return network
    if automatic and "in_channels" in sizes:
        stages = found_stages(network, sizes)
    if preacts and len(preacts) != len(stages):
        raise ValueError(f"preacts name {len(preacts)} modules for {len(stages)} stages")
    return OwnNetwork(network, num_classes=sizes["num_classes"], stages=stages, preacts=preacts)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.modules.conv._ConvNd)


class OwnNetwork(Student):
    """A user's module, with the outputs of some of its modules as features.

    A stage is what its module returned last in the pass, an activation in place included; the
    embedding is what the `nn.Linear` that ran last read, where that is (B, D). There is no stem.
    The head is the last linear layer or convolution that the module names.
    `state_dict` has the module's own names behind `network.`; `load_state_dict` takes them with
    or without.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        num_classes: int,
        stages: Sequence[str] = (),
        preacts: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.stage_names = tuple(stages)
        self.preact_names = tuple(preacts)
        self.has_preacts = bool(preacts)
        linear = [name for name, module in network.named_modules() if _is_linear(module)]
        self.head_names = tuple(f"{INNER}{name}.".replace("..", ".") for name in linear[-1:])
        self._seen = _Seen()
        modules = dict(network.named_modules())
        for kind, names in (("stage", stages), ("preact", preacts)):
            for name in names:
                if name not in modules:
                    raise ValueError(_unknown(name, list(modules)))
                modules[name].register_forward_hook(_Tap(self._seen, kind, name))
        for module in modules.values():
            if isinstance(module, nn.Linear):
                module.register_forward_pre_hook(_InputTap(self._seen))

    def forward(self, inputs: Tensor) -> Tensor:
        """See `Student.forward`; the module itself, with nothing collected."""
        return self._logits(self.network(inputs))

    def forward_features(self, inputs: Tensor, *, preacts: bool = False) -> Features:
        """See `Student.forward_features`; raises ValueError for pre-activations not named."""
        if preacts and not self.preact_names:
            raise ValueError("own network: name the modules before each activation as `preacts`")
        self._seen.start(preacts=preacts)
        try:
            logits = self._logits(self.network(inputs))
            return Features(
                logits,
                stages=tuple(self._seen.output("stage", name) for name in self.stage_names),
                embedding=self._seen.embedding(),
                preacts=tuple(
                    self._seen.output("preact", name) for name in self.preact_names if preacts
                ),
            )
        finally:
            self._seen.stop()

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load as `nn.Module` does, and accept the bare module's names too."""
        if not any(name.startswith(INNER) for name in state_dict):
            state_dict = {INNER + name: value for name, value in state_dict.items()}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _logits(self, output: Any) -> Tensor:
        """Pick the logits from what the network returned; see `_chosen`."""
        logits = _chosen(output, self.num_classes)
        if logits.dim() != 2:
            raise ValueError(
                f"own network: forward must return logits (B, K), not {tuple(logits.shape)}"
            )
        if logits.shape[1] != self.num_classes:
            raise ValueError(
                f"own network: {logits.shape[1]} logits for {self.num_classes} classes;"
                " take num_classes as a parameter or set it in arguments"
            )
        if not logits.is_floating_point():
            raise ValueError(
                f"own network: logits must be real numbers with a fraction, not {logits.dtype}"
            )
        return logits


LOGITS = ("logits", "out", "output")
"""Names that a network's output may call its logits by, the surest first."""


def _chosen(output: Any, num_classes: int) -> Tensor:
    """Pick the logits of an output, in train and eval mode alike; ValueError if in doubt.

    A tensor is the logits itself. Else it is what is called by a name of `LOGITS`, as a key or an
    attribute; else the first member of a tuple or list, where that is a tensor (B, K); else the
    only tensor (B, K) that there is.
    """
    if isinstance(output, Tensor):
        return output
    named = _members(output)
    for name in LOGITS:
        value = named.get(name, getattr(output, name, None))
        if isinstance(value, Tensor):
            return value
    fitting: list[Tensor] = [value for value in named.values() if _fits(value, num_classes)]
    first = next(iter(named.values()), None)
    if len(fitting) == 1 or (isinstance(output, tuple | list) and _fits(first, num_classes)):
        return fitting[0]
    kinds = ", ".join(f"{name}: {_shown(value)}" for name, value in list(named.items())[:6])
    kind = f"{type(output).__name__} of {kinds}" if kinds else type(output).__name__
    raise ValueError(
        f"own network: forward must return logits (B, {num_classes}), not a {kind}: return them"
        f" alone, or call them {', '.join(LOGITS[:-1])} or {LOGITS[-1]}"
    )


def _members(output: Any) -> dict[str, Any]:
    """Return an output's members by key, field or position."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if isinstance(output, tuple | list):
        names = getattr(output, "_fields", None) or map(str, range(len(output)))
        return dict(zip(names, output, strict=False))
    if is_dataclass(output):
        return {field.name: getattr(output, field.name, None) for field in fields(output)}
    return dict(getattr(output, "__dict__", {}))


def _fits(value: Any, num_classes: int) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == num_classes


def _shown(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


class _Seen:
    """The outputs seen by the hooks in the current pass; nothing outside `forward_features`."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], Any] | None = None
        self._preacts = False

    def start(self, *, preacts: bool) -> None:
        self._values, self._preacts = {}, preacts

    def stop(self) -> None:
        self._values = None

    def keep(self, kind: str, name: str, value: Any) -> None:
        if self._values is None or (kind == "preact" and not self._preacts):
            return
        if kind == "preact" and isinstance(value, Tensor):
            value = value.clone()  # an activation in place may follow
        self._values[kind, name] = value

    def output(self, kind: str, name: str) -> Tensor:
        value = (self._values or {}).get((kind, name))
        if value is None:
            raise ValueError(f"own network: {kind} {name!r} did not run in the forward pass")
        if not isinstance(value, Tensor) or value.dim() not in (3, 4):
            shown = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"own network: {kind} {name!r} must return a map (B, C, H, W) or tokens"
                f" (B, N, D), not {shown}"
            )
        return value

    def embedding(self) -> Tensor | None:
        value = (self._values or {}).get(("embedding", ""))
        return value if isinstance(value, Tensor) and value.dim() == 2 else None


class _Tap:
    """A forward hook that keeps a module's output; a class, so that networks can be pickled."""

    def __init__(self, seen: _Seen, kind: str, name: str) -> None:
        self.seen, self.kind, self.name = seen, kind, name

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.seen.keep(self.kind, self.name, output)


class _InputTap:
    """A forward pre-hook that keeps a linear layer's input."""

    def __init__(self, seen: _Seen) -> None:
        self.seen = seen

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.seen.keep("embedding", "", inputs[0] if inputs else None)


def _built(
    obj: Callable[..., Any], known: Mapping[str, Any], arguments: Mapping[str, Any]
) -> nn.Module:
    if isinstance(obj, nn.Module):
        raise ValueError("own network: name its class or a function that returns it, not a module")
    name = getattr(obj, "__name__", repr(obj))
    try:
        signature = inspect.signature(obj)
        taken = {k: v for k, v in known.items() if k in signature.parameters} | dict(arguments)
        signature.bind(**taken)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be called with its arguments: {error}") from error
    try:
        network = obj(**taken)
    except Exception as error:
        raise ValueError(f"{name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{name} returned a {type(network).__name__}, not an nn.Module")
    return network


def _names(names: Sequence[str] | None, setting: str) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names or ()):
        raise ValueError(f"{setting} must be a list of module names, not {names!r}")
    repeated = [name for name in names or () if list(names or ()).count(name) > 1]
    if repeated:
        raise ValueError(f"{setting} name {repeated[0]!r} more than once")
    return tuple(names or ())


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, [k for k in known if k], n=3, cutoff=0.4)
    tops = [k for k in known if k and "." not in k]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(tops)}"
    return f"own network: no module {name!r}: {hint}"
