"""The training loop: same cell, same weights; a frozen teacher; honest costs; failures."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from ktbench import catalogue
from ktbench.networks.weights import load_student, load_weights, read_torch, weights_digest
from ktbench.records import Checkpoint, Failure, Item, KtbenchError, TrainSpec
from ktbench.students._contract import Features
from ktbench.teacher.live import Live
from ktbench.train.learning_rate import learning_rate
from ktbench.train.method_setup import scope_parameters, similarity
from ktbench.train.phases import RunningUpdate
from ktbench.transfer_methods._contract import Scope, Update
from tests.support.training import HERE, TRAIN, cell, digits, places_in, teacher, train

METHODS = ("none", "kd", "fitnet", "intermediate_last_per_layer")


def _digest(outcome: Checkpoint | Failure) -> str:
    assert isinstance(outcome, Checkpoint), outcome
    return outcome.digest


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """Each method's cell trained on its own."""
    root = tmp_path_factory.mktemp("alone")
    found = {}
    for method in METHODS:
        [made] = train([cell(method)], root)
        assert isinstance(made, Checkpoint), made
        found[method] = made
    return found


# ---------------------------------------------------------------- invariant 1


@pytest.mark.slow
def test_a_cohort_gives_each_cell_the_weights_that_it_has_alone(
    alone: dict[str, Checkpoint], tmp_path: Path
) -> None:
    together = train([cell(method) for method in METHODS], tmp_path)
    assert [_digest(made) for made in together] == [alone[m].digest for m in METHODS]


@pytest.mark.slow
def test_a_training_stopped_after_any_epoch_goes_on_to_the_same_weights(
    alone: dict[str, Checkpoint], tmp_path: Path
) -> None:
    """Stops are exceptions out of the loop after each epoch's checkpoint, for every method."""
    for method in METHODS:
        stops = 0
        while stops <= 2:
            try:
                # The first epoch of each attempt is saved, then the report interrupts the second.
                count = 0

                def tell(progress: object) -> None:
                    nonlocal count
                    count += 1
                    if count == 2:
                        raise InterruptedError

                [made] = train([cell(method)], tmp_path, report=tell, checkpoint_seconds=0.0)
                break
            except InterruptedError:
                stops += 1
        assert stops == 2
        assert _digest(made) == alone[method].digest, method


@pytest.mark.slow
def test_another_process_trains_the_same_weights(
    alone: dict[str, Checkpoint], tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.support.training import *;"
        "print(train([cell('kd')], Path(sys.argv[1]))[0].digest)"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert answer.stdout.strip() == alone["kd"].digest


@pytest.mark.slow
def test_methods_and_seeds_train_different_weights(
    alone: dict[str, Checkpoint], tmp_path: Path
) -> None:
    [other] = train([cell("kd", seed=1)], tmp_path)
    digests = {made.digest for made in alone.values()} | {_digest(other)}
    assert len(digests) == len(METHODS) + 1


@pytest.mark.slow
def test_every_method_starts_from_the_same_weights_and_sees_the_same_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ktbench.train.trainee import Trainee

    seen: dict[str, list[str]] = {}
    original = Trainee.step

    def spy(trainee: Trainee, batch: object, features: object) -> None:
        log = seen.setdefault(trainee.cell.method.name, [])
        if not log:
            log.append(weights_digest(trainee.student.state_dict()))
        log.append(str(batch.indices.tolist()))  # type: ignore[attr-defined]
        original(trainee, batch, features)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainee, "step", spy)
    train([cell("none")], tmp_path)
    train([cell("kd"), cell("fitnet")], tmp_path)
    assert seen["none"] == seen["kd"] == seen["fitnet"]
    assert len(seen["none"]) == 1 + 9


# ---------------------------------------------------------------- invariant 5


@pytest.mark.slow
def test_the_teacher_is_in_eval_mode_and_its_buffers_stay(tmp_path: Path) -> None:
    source = teacher(tmp_path)
    before = source.digest
    train([cell("kd"), cell("fitnet")], tmp_path)
    assert source.digest == before
    assert not source._network.training
    assert not any(p.requires_grad for p in source._network.parameters())


@pytest.mark.slow
def test_a_teacher_that_moves_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = teacher(tmp_path)
    state = {k: v.clone() for k, v in source._network.state_dict().items()}
    original = Live.outputs

    def careless(self: Live, *arguments: object) -> Features:
        self._network.train()
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Live, "outputs", careless)
    with pytest.raises(KtbenchError, match="changed while its students learnt"):
        train([cell("kd")], tmp_path)
    source._network.load_state_dict(state)
    source._network.eval()


@pytest.mark.slow
def test_each_batchnorm_updates_once_per_step_and_the_student_trains_in_train_mode(
    tmp_path: Path,
) -> None:
    """Nine steps, with validation after every third: nine updates, none from validation."""
    for method in METHODS:
        [made] = train([cell(method)], tmp_path)
        assert isinstance(made, Checkpoint)
        state = torch.load(tmp_path / made.path, weights_only=True)
        counts = {int(v) for k, v in state.items() if k.endswith("num_batches_tracked")}
        assert counts == {9}, method


def test_a_teacher_with_other_statistics_sees_its_own_normalisation(tmp_path: Path) -> None:
    """The teacher learnt on 300 images, its students on 96: their means differ."""
    source, data = teacher(tmp_path), digits()
    images = data.raw("test")[:16]
    from dataclasses import replace

    from ktbench.data import Stream
    from ktbench.train.device_placement import make_probe
    from ktbench.transfer_methods._contract import Needs
    from tests.support.training import teacher_cell

    own = digits(teacher_cell().data.model_dump_json())
    assert not torch.equal(own.statistics[0], data.statistics[0])
    batch = replace(make_probe(Stream(data, 0, 32)), inputs=data.inputs(images))
    with torch.no_grad():
        expected = source._network(own.inputs(images))
    torch.testing.assert_close(
        source.outputs(batch, Needs(logits=True)).logits, expected, rtol=1e-4, atol=1e-4
    )


# ---------------------------------------------------------------- costs and curves


@pytest.mark.slow
def test_a_cell_in_a_cohort_costs_what_it_costs_alone_in_flops(
    alone: dict[str, Checkpoint], tmp_path: Path
) -> None:
    for made, method in zip(train([cell(m) for m in METHODS], tmp_path), METHODS, strict=True):
        assert isinstance(made, Checkpoint)
        assert made.cost.flops == alone[method].cost.flops
        assert made.cost.teacher_flops == alone[method].cost.teacher_flops


@pytest.mark.slow
def test_the_teachers_share_of_the_cost_stands_apart(alone: dict[str, Checkpoint]) -> None:
    none, kd = alone["none"].cost, alone["kd"].cost
    assert none.teacher_flops == 0
    assert none.teacher_seconds == 0
    assert kd.flops == none.flops
    assert kd.teacher_flops > 0
    assert kd.teacher_seconds > 0


def test_flops_are_those_of_the_network() -> None:
    """resnet8's first convolution on 8×8 images, by hand: 2 · 16 · 1 · 9 · 64 per sample."""
    from torch.utils.flop_counter import FlopCounterMode

    student = catalogue.build_student("resnet8", {}, num_classes=10, in_channels=1).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student.forward_features(torch.zeros(2, 1, 8, 8))
    by_operator = counter.get_flop_counts()["Global"]
    assert sum(by_operator.values()) >= 2 * 2 * 16 * 9 * 64


@pytest.mark.slow
def test_curves_have_a_row_per_epoch_with_every_term(
    alone: dict[str, Checkpoint], tmp_path: Path
) -> None:
    [made] = train([cell("kd")], tmp_path)
    assert isinstance(made, Checkpoint)
    rows = pq.read_table(tmp_path / made.curves).to_pylist()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    terms = {name for name in rows[0] if name.startswith("loss_")}
    assert len(terms) == 2
    assert all(row[t] is not None for row in rows for t in terms)
    for column in ("seconds", "teacher_seconds", "flops", "teacher_flops", "step"):
        values = [row[column] for row in rows]
        assert values == sorted(values)
        assert values[0] > 0
    assert rows[-1]["validation_accuracy"] == made.accuracy.validation_last
    assert rows[-1]["flops"] == made.cost.flops


@pytest.mark.slow
def test_last_and_best_are_both_recorded_and_the_kept_one_is_stored(tmp_path: Path) -> None:
    budget = TRAIN.model_copy(update={"epochs": 6, "lr": 0.3, "schedule": "constant"})
    kept = {}
    for keep in ("last", "best"):
        [made] = train([cell("none", train=budget.model_copy(update={"keep": keep}))], tmp_path)
        assert isinstance(made, Checkpoint)
        kept[keep] = made
    accuracy = kept["last"].accuracy
    assert accuracy == kept["best"].accuracy
    assert accuracy.validation_best >= accuracy.validation_last
    curve = pq.read_table(tmp_path / kept["last"].curves)["validation_accuracy"].to_pylist()
    assert accuracy.best_epoch == curve.index(max(curve)) + 1
    assert accuracy.best_epoch < 6, "choose a budget whose best epoch is not the last"
    assert kept["last"].digest != kept["best"].digest
    for keep, expected in (("last", accuracy.test_last), ("best", accuracy.test_best)):
        spec = cell("none", train=budget.model_copy(update={"keep": keep}))
        student = load_student(
            spec, tmp_path / kept[keep].path, num_classes=10, in_channels=1, base=HERE
        )
        images, labels = digits().raw("test"), digits().labels("test")
        with torch.inference_mode():
            right = (student(digits().inputs(images)).argmax(1) == labels).float().mean()
        assert float(right) == pytest.approx(expected)


@pytest.mark.slow
def test_nothing_is_chosen_by_the_test_images(tmp_path: Path) -> None:
    """With other test labels the same weights are kept, of the same epoch."""
    budget = TRAIN.model_copy(update={"epochs": 4, "lr": 0.3, "keep": "best"})
    images, labels = digits().splits["test"]
    swapped = replace(digits(), splits={**digits().splits, "test": (images, (labels + 1) % 10)})
    one, other = (
        train([cell("none", train=budget)], tmp_path / name, dataset=dataset)[0]
        for name, dataset in (("as it is", digits()), ("swapped", swapped))
    )
    assert isinstance(one, Checkpoint) and isinstance(other, Checkpoint)
    assert one.accuracy.test_best != other.accuracy.test_best
    assert (one.digest, one.accuracy.best_epoch) == (other.digest, other.accuracy.best_epoch)
    assert one.accuracy.validation_best == other.accuracy.validation_best


# ---------------------------------------------------------------- failures


@pytest.mark.slow
def test_a_diverging_cell_fails_with_its_step_and_the_others_go_on(
    alone: dict[str, Checkpoint], tmp_path: Path
) -> None:
    wild = cell("kd", settings={"weight": 1e38})
    outcomes = train([cell("kd"), wild], tmp_path)
    assert _digest(outcomes[0]) == alone["kd"].digest
    failure = outcomes[1]
    assert isinstance(failure, Failure)
    assert failure.stage == "train"
    assert failure.step is not None
    assert "became" in failure.reason
    assert "\n" not in failure.reason


@pytest.mark.slow
def test_an_impossible_method_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    [failure] = train([cell("kd", settings={"temperature": -1.0})], tmp_path)
    assert isinstance(failure, Failure)
    assert "temperature" in failure.reason


@pytest.mark.slow
def test_pairs_may_name_the_stages_of_the_teachers_own_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(teacher(tmp_path)._network, "stage_names", ("early", "middle", "late"))
    named = cell("attention", settings={"pairs": [["late", "stage3"]]})
    [made] = train([named], tmp_path)
    assert isinstance(made, Checkpoint), made
    [failure] = train([cell("attention", settings={"pairs": [["stage3", "stage3"]]})], tmp_path)
    assert isinstance(failure, Failure)
    assert "stage3" in failure.reason


@pytest.mark.slow
def test_damaged_saved_work_is_trained_anew(alone: dict[str, Checkpoint], tmp_path: Path) -> None:
    work = places_in(tmp_path)(cell("kd")).work
    work.write_bytes(b"torn")
    [made] = train([cell("kd")], tmp_path)
    assert _digest(made) == alone["kd"].digest


def test_a_corrupt_checkpoint_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    student = catalogue.build_student("resnet8", {}, num_classes=10, in_channels=1)
    torn = tmp_path / "torn.pt"
    torch.save(student.state_dict(), torn)
    torn.write_bytes(torn.read_bytes()[:-200])
    for content in (b"", b"not a checkpoint", torn.read_bytes()):
        torn.write_bytes(content)
        with pytest.raises(KtbenchError, match=r"torn\.pt: not a readable checkpoint") as caught:
            load_weights(student, torn)
        assert "\n" not in str(caught.value)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return (print, ("executed",))

    torch.save(Evil(), tmp_path / "evil.pt")
    with pytest.raises(KtbenchError, match="not a readable checkpoint"):
        load_weights(nn.Linear(1, 1), tmp_path / "evil.pt")


def test_what_torch_says_of_a_pickled_network_is_not_repeated(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(KtbenchError) as caught:
        read_torch(tmp_path / "whole.pt")
    assert str(caught.value) == (
        f"{tmp_path / 'whole.pt'}: not a readable checkpoint (damaged, or not weights alone): "
        "save one with torch.save(model.state_dict(), path)"
    )


def test_weights_of_another_network_are_refused_with_the_difference(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pt")
    with pytest.raises(KtbenchError, match=r"weight is \(2, 3\), this network's is \(2, 4\)"):
        load_weights(nn.Linear(4, 2), tmp_path / "w.pt")
    with pytest.raises(KtbenchError, match=r"4 missing \(first: 0\.bias, .*\), 2 unknown"):
        load_weights(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)), tmp_path / "w.pt")


def test_weights_saved_from_a_users_own_network_fit_its_wrapper(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))\n"
    )
    own = catalogue.own_object("net.py:net", str(tmp_path))(10, 1)
    torch.save(own.state_dict(), tmp_path / "own.pt")
    student = catalogue.build_student(
        "net.py:net", {}, num_classes=10, in_channels=1, base=str(tmp_path)
    )
    load_weights(student, tmp_path / "own.pt")
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(student(images), own(images))


# ---------------------------------------------------------------- parts


def test_scopes_take_the_parameters_that_a_stage_depends_on() -> None:
    student = catalogue.build_student("resnet8", {}, num_classes=10, in_channels=1)
    inputs = torch.randn(2, 1, 8, 8)
    names = {id(p): n for n, p in student.named_parameters()}

    def of(scope: Scope) -> set[str]:
        return {names[id(p)] for p in scope_parameters(student, inputs, scope)}

    everything, first = of(Scope()), of(Scope.upto_stage(0))
    assert everything == set(names.values())
    assert of(Scope.nothing()) == set()
    assert {n.partition(".")[0] for n in first} == {"stem", "stages"}
    second = of(Scope.only_stage(1))
    assert second
    assert all(n.startswith("stages.1.") for n in second)
    assert of(Scope.upto_stage(1)) == first | second
    assert of(Scope.after_stage(1)) == everything - first - second
    assert student.training


def test_similarity_is_one_between_a_network_and_itself() -> None:
    sample = torch.arange(8).view(8, 1, 1, 1)
    halves = torch.where(sample < 4, 1.0, -1.0).expand(8, 4, 4, 4)
    parity = torch.where(sample % 2 == 0, 1.0, -1.0).expand(8, 6, 2, 2)
    stages = (halves, parity)  # of different widths, and with unrelated ideas of what is alike
    table = similarity(Features(torch.zeros(8, 2), stages), Features(torch.zeros(8, 2), stages))
    for i in range(2):
        assert table[i][i] == pytest.approx(1.0)
    assert table[0][1] == pytest.approx(0.0, abs=1e-6)


def test_similarity_of_equal_shapes_is_the_mean_cosine_of_activations() -> None:
    t, s = torch.randn(5, 3, 2, 2), torch.randn(5, 3, 2, 2)
    cosines = []
    for i in range(5):
        a, b = t[i].flatten().double(), s[i].flatten().double()
        cosines.append(float(a @ b / (a.norm() * b.norm())))
    table = similarity(Features(torch.zeros(5, 2), (t,)), Features(torch.zeros(5, 2), (s,)))
    assert table[0][0] == pytest.approx(sum(cosines) / 5, abs=1e-6)


def test_learning_rates_follow_their_schedules() -> None:
    def rate(schedule: str, epoch: int, progress: float) -> float:
        spec = TrainSpec(epochs=8, lr=1.0, schedule=schedule, gamma=0.1)  # type: ignore[arg-type]
        return learning_rate(spec, epoch=epoch, progress=progress)

    assert rate("constant", 7, 0.9) == 1.0
    assert rate("cosine", 0, 0.0) == 1.0
    assert rate("cosine", 4, 0.5) == pytest.approx(0.5)
    assert [rate("step", e, 0) for e in (4, 5, 6, 7)] == pytest.approx([1, 0.1, 0.01, 0.001])
    assert rate("exponential", 2, 0) == pytest.approx(0.01)


def test_a_warm_up_raises_the_rate_to_its_schedule() -> None:
    def rate(schedule: str, progress: float) -> float:
        spec = TrainSpec(epochs=8, lr=1.0, schedule=schedule, warmup=0.2)  # type: ignore[arg-type]
        return learning_rate(spec, epoch=int(8 * progress), progress=progress)

    assert [rate("constant", p) for p in (0, 0.05, 0.1, 0.2, 0.9)] == [0, 0.25, 0.5, 1, 1]
    assert rate("cosine", 0.1) == pytest.approx(0.5 * 0.5 * (1 + math.cos(0.1 * math.pi)))


def test_a_gradient_is_scaled_down_to_its_largest_norm() -> None:
    def moved(gradient: list[float], clip_norm: float | None) -> Tensor:
        weights = nn.Parameter(torch.zeros(2))
        optimiser = torch.optim.SGD([weights], lr=1.0)
        update = RunningUpdate(Update(), [weights], optimiser, clip_norm)
        update.step([torch.tensor(gradient)], rate=1.0)
        return -weights.detach()

    assert moved([3.0, 4.0], None).tolist() == [3.0, 4.0]
    assert moved([3.0, 4.0], 10.0).tolist() == [3.0, 4.0]
    assert moved([3.0, 4.0], 1.0).tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.slow
def test_a_clipped_training_with_a_warm_up_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    plain = cell("none")
    settings = plain.train.model_copy(update={"warmup": 0.5, "clip_norm": 0.1})
    clipped = plain.model_copy(update={"train": settings})
    assert clipped.key != plain.key
    whole, unclipped = (
        _digest(train([one], tmp_path / name)[0])
        for one, name in ((clipped, "whole"), (plain, "plain"))
    )
    assert whole != unclipped

    def interrupt(progress: object) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train([clipped], tmp_path / "halted", report=interrupt, checkpoint_seconds=0.0)
    assert _digest(train([clipped], tmp_path / "halted")[0]) == whole


def test_digests_tell_one_bit() -> None:
    state: dict[str, Tensor] = {"w": torch.zeros(3)}
    changed = {"w": torch.tensor([0.0, 0.0, -0.0])}
    assert weights_digest(state) != weights_digest(changed)
    assert weights_digest(state) == weights_digest({"w": torch.zeros(3)})


def test_items_are_named_by_their_settings() -> None:
    assert Item(name="kd", settings={"temperature": 4.0}).label == "kd(temperature=4)"
