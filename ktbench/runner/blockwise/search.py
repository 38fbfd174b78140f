"""Search for the best replacement of every block under a budget, in a results folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ktbench.blockwise.budget_search import Choice, Option, best_choices
from ktbench.blockwise.replacement_scores import Divergence
from ktbench.blockwise.splice import accuracy_of
from ktbench.records import (
    BlockOption,
    BlockSearch,
    DeviceSpec,
    Item,
    KtbenchError,
    Price,
    SoughtBlock,
    SoughtNetwork,
    digest_of,
)
from ktbench.results import ResultsFolder
from ktbench.results.run_lock import run_lock
from ktbench.runner.blockwise.block_costs import (
    Prices,
    Progress,
    Timings,
    medians,
    priced,
    whole_model,
)
from ktbench.runner.blockwise.candidates import Candidates, Labels, candidates_of, entry_of
from ktbench.students._blocks import KEEP, parameters_of
from ktbench.system.files import write_atomically

TRIED = 8
"""Choices per budget that are assembled: the validation set decides among them."""


@dataclass(frozen=True)
class SearchRequest:
    """Options of a search."""

    by: Price = "parameters"
    device: DeviceSpec = field(default_factory=lambda: DeviceSpec(profile="local", name="local"))
    """Device that latencies are of."""
    budgets: tuple[float, ...] = ()
    """Shares of the teacher's cost; `points` of them, evenly spread, when not given."""
    points: int = 8
    teacher: str | None = None
    """By name, where the folder has blocks of several."""


def search(
    folder: ResultsFolder, request: SearchRequest, tell: Progress = lambda _: None
) -> BlockSearch:
    """Find the best network of every budget; write them to `blocks/search-KEY.json`.

    Nothing is trained. Budgets are those of the request, and what each uniform student costs.
    Raises KtbenchError where there is nothing to choose from or a run holds the folder.
    """
    plan = folder.lock().plan
    with run_lock(folder.path):
        candidates = candidates_of(folder, plan, request.teacher)
        tell("costs of all blocks")
        prices, timings = priced(candidates, request.by, request.device, tell)
        tell("scores of all blocks")
        record = _Search(candidates, prices, _scores(candidates)).run(request, tell)
        if timings is not None:
            record = _timed(record, candidates, request.device, timings, tell)
        path = folder.path / "blocks" / f"search-{record.key}.json"
        write_atomically(path, record.model_dump_json(indent=1))
    return record


def _scores(candidates: Candidates) -> list[dict[str, float]]:
    """Score each block's labels: minus the teacher's divergence with it alone replaced."""
    divergence = Divergence(candidates.teacher, candidates.blocks, candidates.inputs)
    block_scores = []
    for block, entries in zip(candidates.blocks, candidates.entries, strict=True):
        scores = {KEEP: 0.0}
        for label in entries:
            each = [
                divergence.of(block, candidates.trained(cell.seed, block, label))
                for cell in candidates.cells
            ]
            scores[label] = -float(np.mean(each))
        block_scores.append(scores)
    return block_scores


class _Search:
    """One search: its budgets, choices, and the networks they make."""

    def __init__(
        self, candidates: Candidates, prices: Prices, scores: Sequence[dict[str, float]]
    ) -> None:
        self.candidates = candidates
        self.prices = prices
        self.labels = [tuple(block) for block in prices.options]
        self.options = [
            [Option(costs[label], score[label]) for label in labels]
            for labels, costs, score in zip(self.labels, prices.options, scores, strict=True)
        ]
        self._validation: dict[Labels, float] = {}

    def run(self, request: SearchRequest, tell: Progress) -> BlockSearch:
        """Return the record, without latencies of whole networks."""
        candidates, prices = self.candidates, self.prices
        uniform = {
            name: item for name, item in candidates.uniform.items() if set(item[1]) != {KEEP}
        }
        budgets = sorted({*self._budgets(request), *(self._share(c) for _, c in uniform.values())})
        for _, everywhere in uniform.values():
            self.validation(everywhere)  # they are choices, too: none of them is found worse
        self._try(budgets, tell)
        searched = [best for share in budgets if (best := self._best(share)) is not None]
        teacher = candidates.taught_by
        start = candidates.cells[0].start
        assert start is not None
        device = request.device if request.by == "latency" else None
        train = start.train.model_dump(mode="json", exclude={"keep_within"})
        identity = [
            teacher.canonical,
            train,
            [list(block.paths) for block in candidates.blocks],
            request.by,
        ]
        return BlockSearch(
            key=digest_of([*identity, device.model_dump(mode="json") if device else None]),
            teacher=teacher.name,
            by=request.by,
            device=device,
            seeds=tuple(cell.seed for cell in candidates.cells),
            blocks=self._blocks(),
            shared=prices.shared,
            teacher_cost=prices.teacher,
            teacher_parameters=parameters_of(candidates.teacher),
            teacher_validation=accuracy_of(candidates.teacher, candidates.inputs, "validation"),
            teacher_test=accuracy_of(candidates.teacher, candidates.inputs, "test"),
            networks=(
                *(self._network(choice, share) for share, choice in searched),
                *(self._network(c, None, name, item) for name, (item, c) in uniform.items()),
            ),
        )

    def _try(self, budgets: Sequence[float], tell: Progress) -> None:
        """Assemble the best choices of every budget."""
        for number, share in enumerate(budgets, start=1):
            tell(f"budget {number} of {len(budgets)}: {share:.0%} of the teacher")
            left = share * self.prices.teacher - self.prices.shared
            for choice in best_choices(self.options, left, TRIED):
                self.validation(self._named(choice))

    def validation(self, choice: Labels) -> float:
        """Return the validation accuracy of the assembled network, computed once."""
        if choice not in self._validation:
            self._validation[choice] = self.candidates.accuracy(choice, "validation")
        return self._validation[choice]

    def cost(self, choice: Labels) -> float:
        """Return the cost of the whole network."""
        each = zip(self.prices.options, choice, strict=True)
        return self.prices.shared + sum(costs[label] for costs, label in each)

    def _share(self, choice: Labels) -> float:
        return self.cost(choice) / self.prices.teacher

    def _named(self, choice: Choice) -> Labels:
        return tuple(labels[n] for labels, n in zip(self.labels, choice, strict=True))

    def _cheapest(self) -> Labels:
        return tuple(min(costs, key=lambda label: costs[label]) for costs in self.prices.options)

    def _budgets(self, request: SearchRequest) -> list[float]:
        least = self._share(self._cheapest())
        for share in request.budgets:
            if share < least:
                raise KtbenchError(
                    f"budget {share:g}: no choice is within it; the least costs {least:.2f} of "
                    "the teacher"
                )
        if request.budgets:
            return list(request.budgets)
        return [float(share) for share in np.linspace(least, 1.0, request.points + 1)[1:]]

    def _best(self, share: float) -> tuple[float, Labels] | None:
        """Return the best choice within a budget, of all that were assembled for any budget."""
        most = share * self.prices.teacher * (1 + 1e-9)
        within = [choice for choice in self._validation if self.cost(choice) <= most]
        if not within:
            return None
        return share, max(within, key=lambda c: (self.validation(c), -self.cost(c)))

    def _blocks(self) -> tuple[SoughtBlock, ...]:
        candidates = self.candidates
        blocks = []
        for block, entries, labels, options in zip(
            candidates.blocks, candidates.entries, self.labels, self.options, strict=True
        ):
            described = [
                BlockOption(
                    replacement=label,
                    entry=KEEP if label == KEEP else entry_of(entries[label]),
                    cost=option.cost,
                    score=option.score,
                    loss=self._loss(block.name, label),
                )
                for label, option in zip(labels, options, strict=True)
            ]
            blocks.append(SoughtBlock(block=block.name, options=tuple(described)))
        return tuple(blocks)

    def _loss(self, block: str, label: str) -> float | None:
        if label == KEEP:
            return None
        candidates = self.candidates
        return float(
            np.mean([candidates.results[cell.seed, block, label].loss for cell in candidates.cells])
        )

    def _network(
        self, choice: Labels, share: float | None, name: str = "", item: Item | None = None
    ) -> SoughtNetwork:
        """Return a choice as a record; only now is the test set read."""
        return SoughtNetwork(
            kind="uniform" if share is None else "searched",
            name=name or f"at most {share:.0%}",
            budget=share,
            choice=choice,
            student=item or self.candidates.item(choice),
            cost=self.cost(choice),
            parameters=parameters_of(self.candidates.network(choice, self.candidates.cells[0])),
            validation=self.validation(choice),
            test=self.candidates.accuracy(choice, "test"),
        )


def _timed(
    record: BlockSearch,
    candidates: Candidates,
    device: DeviceSpec,
    timings: Timings,
    tell: Progress,
) -> BlockSearch:
    """Add the latency of every whole network, measured in turns with the teacher's."""
    choices = dict.fromkeys(network.choice for network in record.networks)
    models = {"teacher": whole_model(candidates)}
    models |= {f"network {n}": whole_model(candidates, choice) for n, choice in enumerate(choices)}
    measured = medians(models, device, timings, tell)
    by_choice = {choice: measured[f"network {n}"] for n, choice in enumerate(choices)}
    networks = tuple(
        network.model_copy(update={"measured_ms": by_choice[network.choice]})
        for network in record.networks
    )
    return record.model_copy(
        update={
            "networks": networks,
            "teacher_ms": measured["teacher"],
            "origin": timings.origin,
            "runtime": timings.runtime,
            "notes": tuple(dict.fromkeys(timings.notes)),
        }
    )
