"""Sounds: wav files, spectra, trainings, exported files, and what is refused."""

from __future__ import annotations

import io
import os
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly

from ktbench.data import Stream, describe, load
from ktbench.data.sounds import decode, formed
from ktbench.export import LAYOUTS, export_student, raw_samples
from ktbench.export.writer import Lowering
from ktbench.measure import BoardAccuracy, evaluate, job_of
from ktbench.networks.outline import outline
from ktbench.networks.weights import load_student
from ktbench.records import (
    Artifact,
    DataSpec,
    DeviceSpec,
    ExportSpec,
    Item,
    KtbenchError,
    Teacher,
)
from ktbench.tasks._log_mel import Front, LogMel, Recipe
from ktbench.tasks.sound_classification import Config, shifted
from tests.support.equal_bits import equal_bits_cached, trained, trained_teacher
from tests.support.sounds import (
    RATE,
    sound_cell,
    sound_data,
    tone,
    tones,
    wav,
    write_folders,
    write_sounds,
)
from tests.support.texts import loaded
from tests.support.training import HERE


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    return sound_data(write_sounds(tmp_path_factory.mktemp("sounds")), shift=0.05, noise=0.1)


# ---------------------------------------------------------------- spectra


def by_definition(sound: NDArray[np.int16], r: Recipe) -> NDArray[np.float64]:
    """The map (frames, values) of a sound, sum by sum, in double precision."""
    size = 1
    while size < r.window:
        size *= 2

    def mel(frequency: float) -> float:
        return 2595.0 * float(np.log10(1.0 + frequency / 700.0))

    edges = [
        mel(r.low) + number * (mel(r.high) - mel(r.low)) / (r.bins + 1)
        for number in range(r.bins + 2)
    ]
    rows = []
    for start in range(0, len(sound) - r.window + 1, r.hop):
        frame = sound[start : start + r.window].astype(np.float64) / 32768.0
        hann = [0.5 - 0.5 * np.cos(2 * np.pi * n / r.window) for n in range(r.window)]
        powers = np.abs(np.fft.rfft(frame * hann, size)) ** 2
        values = []
        for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for point in range(1, size // 2 + 1):
                place = mel(point * r.rate / size)
                weight = min((place - left) / (centre - left), (right - place) / (right - centre))
                total += max(0.0, weight) * powers[point]
            values.append(np.log(total + 1e-6))
        if r.coefficients is not None:
            values = [
                np.sqrt((1 if k == 0 else 2) / r.bins)
                * sum(v * np.cos(np.pi * k * (n + 0.5) / r.bins) for n, v in enumerate(values))
                for k in range(r.coefficients)
            ]
        rows.append(values)
    return np.array(rows)


RECIPES = (
    Recipe(4000, 2000, 120, 80, 16, 20.0, 2000.0, None),
    Recipe(4000, 2013, 101, 37, 12, 50.0, 1500.0, 7),
)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("loud", [True, False])
def test_a_map_is_what_its_definition_says(recipe: Recipe, loud: bool) -> None:
    sound = tone(440, 1.0)[: recipe.length] if loud else np.zeros(recipe.length, np.int16)
    expected = by_definition(sound, recipe)
    exact = LogMel(recipe).double()
    for name, table in exact.named_buffers():
        assert table.dtype == torch.float64, name
    from ktbench.tasks import _log_mel

    real, imaginary = _log_mel.kernels(recipe)
    for name, values in (("real", real), ("imaginary", imaginary)):
        shape = exact.get_buffer(name).shape  # (K, block, 1, blocks)
        taps = values.reshape(shape[0], shape[3], shape[1]).transpose(0, 2, 1)[:, :, None, :]
        exact.register_buffer(name, torch.from_numpy(taps.copy()))
    exact.register_buffer("filters", torch.from_numpy(_log_mel.filters(recipe)[:, :, None, None]))
    if recipe.coefficients is not None:
        table = torch.from_numpy(_log_mel.cosines(recipe)[:, :, None, None])
        exact.register_buffer("cosines", table)
    in_double = exact(torch.from_numpy(sound).double()[None])[0, 0]
    assert in_double.shape == (recipe.frames, recipe.values) == expected.shape
    np.testing.assert_allclose(in_double.numpy(), expected, atol=1e-6, rtol=0)
    in_float = LogMel(recipe).of_one(torch.from_numpy(sound).float())[0]
    np.testing.assert_allclose(in_float.numpy(), expected, atol=1e-4, rtol=0)


def test_the_spectrum_of_mlperf_tiny_has_49_frames_and_10_coefficients() -> None:
    recipe = Config(coefficients=10).recipe
    assert (recipe.frames, recipe.values, recipe.points) == (49, 10, 512)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"rate": 8000, "high": 5000.0},
            r"must rise, up to half the rate \(4000 Hz\)",
        ),
        ({"window": 2}, "window must be"),
        ({"seconds": 0.02}, "window must be at most 0.02 seconds"),
        ({"bins": 300}, "bins must be fewer, or window longer"),
        ({"coefficients": 41}, "coefficients must be 1 to 40, not 41"),
        ({"shift": 1.0}, "shift must be 0 to less than 1, not 1.0"),
        ({"rate": 16000.5}, "rate must be 1000 to 192000"),
        ({"noise": float("nan")}, "noise must be 0 to 10, not nan"),
    ],
)
def test_settings_that_give_no_spectrum_are_told_in_one_line(settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as told:
        Config(**settings)
    assert "\n" not in str(told.value)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("kind", "scale"), [("u1", 256), ("<i2", 1), ("<i4", 65536), ("<f4", 32768)]
)
def test_every_depth_gives_the_same_sound(kind: str, scale: int) -> None:
    samples = tone(300)
    values: NDArray[Any] = samples // 256 + 128
    if kind == "<f4":
        values = samples / np.float32(scale)
    elif kind != "u1":
        values = samples.astype(np.int64) * scale
    read = formed(decode(wav(values.astype(kind)), "x"), RATE, len(samples))
    assert np.abs(read.astype(int) - samples).max() <= (256 if kind == "u1" else 0)


def test_a_file_of_24_bits_is_rounded_to_16() -> None:
    samples, file = tone(300), io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(3)
        written.setframerate(RATE)
        written.writeframes(b"".join(struct.pack("<i", int(v) * 256)[:3] for v in samples))
    assert (formed(decode(file.getvalue(), "x"), RATE, len(samples)) == samples).all()


def test_channels_are_averaged_and_other_rates_resampled() -> None:
    left, right = tone(300), tone(900)
    mono = formed(decode(wav(np.stack([left, right], 1)), "x"), RATE, len(left))
    assert (mono == np.rint((left.astype(float) + right) / 2)).all()
    fast = tone(300, 0.5, rate=6000)
    read = formed(decode(wav(fast, 6000), "x"), RATE, 2000)
    assert (read == np.rint(resample_poly(fast.astype(float), 2, 3))).all()


def test_shorter_sounds_lie_in_the_middle_of_silence_and_of_longer_ones_the_middle_is_kept() -> (
    None
):
    sound = decode(wav(np.arange(1, 6, dtype=np.int16)), "x")
    assert formed(sound, RATE, 8).tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    assert formed(sound, RATE, 3).tolist() == [2, 3, 4]


GOOD = wav(tone(300))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a wav file: convert it to wav"),
        (b"fLaC" + GOOD, "not a wav file: convert it to wav"),
        (GOOD[:300], "cut off: 256 of 3,200 bytes of samples are there"),
        (GOOD[:36], "not a readable wav file"),
        (GOOD[:20] + b"\x06\x00" + GOOD[22:], "not a readable wav file .*ALAW"),
        (GOOD[:22] + b"\x00\x00" + GOOD[24:], "not a readable wav file"),
        (GOOD[:22] + b"\xff\xff" + GOOD[24:], r"not a readable wav file \(its header is damaged"),
        (GOOD[:4] + b"\x07\0\0\0" + GOOD[8:], r"not a readable wav file \(its header is dam"),
        (wav(np.zeros(0, np.int16)), "holds no sound: remove it"),
        (wav(tone(300), 2_000_000), "its rate of 2,000,000 Hz is not 1 to 1,000,000"),
        (wav(np.full(9, 1e300)), "has values that are no sound"),
        (
            wav(np.array([0, np.nan], np.float32)),
            "has values that are no sound",
        ),
    ],
)
def test_what_is_no_whole_wav_file_is_told_in_one_line_with_its_row(
    tmp_path: Path, data: bytes, words: str
) -> None:
    files, labels = tones(30)
    files[17] = files[23] = data
    spec = sound_data(write_sounds(tmp_path, 30, audio=files, label=labels))
    with pytest.raises(KtbenchError, match=f"train row 17: {words}.*; 1 more cannot be") as told:
        describe(spec, HERE)
    assert "\n" not in str(told.value)


def test_plan_counts_what_is_padded_cut_resampled_mixed_and_clipped(tmp_path: Path) -> None:
    files, labels = tones(30)
    files[0] = wav(tone(300, 0.9))
    files[1] = wav(np.stack([tone(300, 0.5)] * 2, 1))
    files[2] = wav(tone(300, 0.5, rate=8000), 8000)
    files[3] = wav((tone(300, 0.5) / 3000).astype(np.float32))
    contents = describe(sound_data(write_sounds(tmp_path, 30, audio=files, label=labels)), HERE)
    assert contents.contents is not None
    notes = "\n".join(contents.contents.notes)
    assert "26 of 30 sounds last less than 0.5 s (the shortest 0.2" in notes
    assert "1 of 30 sounds last more than 0.5 s (the longest 0.90 s): both ends are cut" in notes
    assert "1 of 30 sounds are resampled from 8,000 to 4,000 Hz" in notes
    assert "1 of 30 sounds have several channels: their mean is read" in notes
    assert "1 of 30 sounds are louder than full scale" in notes


def test_folders_and_paths_in_tables_are_read_like_bytes_in_tables(tmp_path: Path) -> None:
    folders = write_folders(tmp_path / "wav")
    (folders / "class0" / "notes.txt").write_text("x")
    data = load(sound_data(folders, "folder"), HERE)
    assert data.classes == ("class0", "class1", "class2")
    paths = sorted(folders.glob("*/*.wav"))
    (tmp_path / "table").mkdir()
    rows = [f"{path},{path.parent.name}" for path in paths]
    (tmp_path / "table" / "train.csv").write_text("\n".join(["clip,label", *rows]))
    assert load(sound_data(tmp_path / "table"), HERE).digest == data.digest
    held = [path.read_bytes() for path in paths]
    labels = [path.parent.name for path in paths]
    bytes_ = sound_data(write_sounds(tmp_path / "bytes", len(paths), audio=held, label=labels))
    assert load(bytes_, HERE).digest == data.digest


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", r"train row 0: cannot read a.wav: No such file or directory; 29 more"),
        ("pipe", r"train row 0: a.wav is a pipe, not a regular file: name a file; 29 more"),
    ],
)
def test_a_path_in_a_table_that_leads_to_no_file_is_told_with_its_row(
    tmp_path: Path, kind: str, words: str
) -> None:
    if kind == "pipe":
        os.mkfifo(tmp_path / "a.wav")
    write_sounds(tmp_path, 30, audio=["a.wav"] * 30)
    with pytest.raises(KtbenchError, match=words) as told:
        describe(sound_data(tmp_path), HERE)
    assert "\n" not in str(told.value)


def test_a_folder_s_files_of_other_formats_are_refused_by_name(tmp_path: Path) -> None:
    folders = write_folders(tmp_path)
    (folders / "class1" / "odd.mp3").write_bytes(b"ID3")
    with pytest.raises(KtbenchError, match=r"odd.mp3: not a wav file: convert it to wav"):
        describe(sound_data(folders, "folder"), HERE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "digits"}, "source 'digits' holds images"),
        ({"augment": {"flip": True}}, "augment"),
    ],
)
def test_what_belongs_to_images_is_refused_for_sounds(
    spec: DataSpec, changes: Any, words: str
) -> None:
    changed = DataSpec.model_validate(spec.model_dump(mode="json") | changes)
    data = loaded(spec.model_dump_json())
    if "source" in changes:
        with pytest.raises(KtbenchError, match=words):
            describe(changed, HERE)
    else:
        problem = data.task.problem(changed, data.signature)
        assert problem is not None and problem[0] == (words,)


# ---------------------------------------------------------------- training


@pytest.mark.slow
def test_shift_and_noise_are_drawn_anew_by_view_and_bounded(spec: DataSpec) -> None:
    data = loaded(spec.model_dump_json())
    samples = Stream(data, 5, 32).samples
    plain = data.raw("train")
    assert isinstance(plain, torch.Tensor)
    shifts, levels = set(), []
    for view in range(60):
        made = samples.augmented(7, view)  # type: ignore[attr-defined]
        sound = plain[7].float()
        errors = [float((made - shifted(sound, n)).square().mean()) for n in range(-200, 201)]
        shifts.add(int(np.argmin(errors)) - 200)
        levels.append(np.sqrt(min(errors)) / float(sound.square().mean().sqrt()))
    assert len(shifts) > 30 and min(shifts) < -120 and max(shifts) > 120
    assert 0.08 < max(levels) <= 0.101 and min(levels) < 0.02
    assert shifted(torch.tensor([1.0, 2, 3]), 1).tolist() == [0, 1, 2]
    assert shifted(torch.tensor([1.0, 2, 3]), -2).tolist() == [3, 0, 0]


def test_inputs_of_training_sounds_have_no_mean_and_one_deviation(spec: DataSpec) -> None:
    data = loaded(spec.model_dump_json())
    maps = data.some("train", slice(None))
    assert isinstance(maps, torch.Tensor)
    assert float(maps.mean((0, 1, 2)).abs().max()) < 1e-4
    assert float((maps.std((0, 1, 2)) - 1).abs().max()) < 1e-3


def test_inputs_of_another_training_are_converted(spec: DataSpec) -> None:
    data = loaded(spec.model_dump_json())
    few = load(spec.model_copy(update={"train_size": 30}), HERE)
    convert = data.task.between(few.statistics, data.statistics)
    assert convert is not None
    theirs, ours = few.some("test", slice(4)), data.some("test", slice(4))
    torch.testing.assert_close(convert(theirs), ours, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_sound_cell_alone_in_a_cohort_cached_and_resumed_has_the_same_bits(
    spec: DataSpec, tmp_path: Path
) -> None:
    above = sound_cell(spec, seed=9)
    live, made = trained_teacher(above, tmp_path / "teacher")
    assert made.accuracy.test_last > 0.6
    thin = Item(name="tc_resnet8", settings={"width": 0.5})
    train = above.train.model_copy(update={"views": 2})
    changes = {"teacher": Teacher(name="t", cell=above), "student": thin, "train": train}
    cells = [sound_cell(spec, method, **changes) for method in ("kd", "similarity", "fitnet")]
    equal_bits_cached(cells, live, tmp_path)


# ---------------------------------------------------------------- exported files


@pytest.mark.slow
@pytest.mark.parametrize("student", ["ds_cnn_s", "tc_resnet8"])
@pytest.mark.parametrize(("format", "batch"), [("onnx", "dynamic"), ("tflite", "dynamic")])
def test_an_exported_file_takes_16_bit_samples_and_agrees_with_torch(
    spec: DataSpec, tmp_path: Path, format: Any, batch: Any, student: str
) -> None:
    data = loaded(spec.model_dump_json())
    cell = sound_cell(spec, student=Item(name=student, settings={"width": 0.25}))
    [made] = trained([cell], tmp_path)
    network = load_student(cell, tmp_path / made.path, base=HERE, **data.dimensions)
    device = DeviceSpec(profile="local", name="here")
    samples, labels = raw_samples(LAYOUTS[format], data, "test"), data.labels("test").numpy()
    assert samples["sound"].dtype == np.int16 and samples["sound"].shape[1:] == (2000,)
    with torch.inference_mode():
        classes = data.task.predictions(network(data.some("test", slice(None)))).numpy()
    for precision in ("fp32", "int8"):
        asked = ExportSpec(format=format, batch=batch, precision=precision)
        artifact = export_student(network, cell, asked, data, tmp_path / "artifacts", tmp_path)
        assert isinstance(artifact, Artifact), artifact
        assert artifact.input_shape == (2000,)
        if precision == "fp32":
            assert artifact.agreement == 1.0 and artifact.max_difference < 1e-4
            [answer] = evaluate(device, [job_of(artifact, tmp_path)], samples, labels, [classes])
            assert isinstance(answer, BoardAccuracy), answer
            assert (answer.accuracy, answer.agreement) == (artifact.test_accuracy, 1.0)
        else:
            assert artifact.agreement >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_the_map_that_a_file_computes_is_torch_s_in_every_precision(
    spec: DataSpec, format: Any
) -> None:
    """A network that returns its map: int8 of what precedes the logarithm would lose all of it."""
    from ktbench.export.deployed_network import Folding, deploy
    from ktbench.export.exporter import _new_writer

    data = loaded(spec.model_dump_json())
    front = data.task.front(data.statistics, data.facts)
    assert isinstance(front, Front)
    writer = _new_writer(format)
    raw = data.raw("test")
    assert isinstance(raw, torch.Tensor)
    inputs = data.signature.file_inputs
    deployed = deploy(torch.nn.Flatten(), Folding(), inputs, None, writer.layout, front)
    quiet = torch.zeros_like(raw[:1])
    samples = {"sound": torch.cat([quiet, raw, (raw // 300)]).numpy()}
    expected = data.inputs(torch.from_numpy(samples["sound"])).flatten(1).numpy()
    for precision, tolerance in (("fp32", 1e-4), ("fp16", 0.05), ("int8", 0.25)):
        asked = ExportSpec(format=format, precision=precision)
        try:
            model = writer.convert(deployed, asked)
            lowered = writer.lower(model, asked, samples, Lowering(front=True))
            made = writer.run(lowered, samples)
        finally:
            writer.close()
        assert np.abs(made - expected).max() < tolerance, precision


def test_the_sidecar_says_rate_form_and_recipe(spec: DataSpec) -> None:
    data = loaded(spec.model_dump_json())
    told = data.task.sidecar(data.signature, data.statistics, data.facts)["sound"]
    assert told["rate"] == RATE and told["range"] == [-32768, 32767]
    assert told["features"]["frames"] == data.signature.inputs[0].shape[1]
    assert len(told["features"]["mean"]) == data.signature.inputs[0].shape[2]


# ---------------------------------------------------------------- students


@pytest.mark.parametrize(
    ("name", "bins", "weights"),
    [("ds_cnn_s", 10, 23_180), ("tc_resnet8", 40, 65_180), ("tc_resnet14", 40, 135_868)],
)
def test_students_of_sounds_have_the_published_sizes(name: str, bins: int, weights: int) -> None:
    """24,908 in MLPerf Tiny with biases and statistics; 66K and 137K in TC-ResNet's table 1."""
    from ktbench import catalogue

    sizes = {"num_classes": 12, "in_channels": 1, "bins": bins}
    network = catalogue.build_student(name, {}, **sizes)
    assert sum(each.numel() for each in network.parameters()) == weights
    if name == "ds_cnn_s":
        statistics = 128 * 9
        biases = 64 * 9
        assert weights + statistics + biases == 24_908


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2", "vgg_thin", "wrn_16_1", "ds_cnn_m"])
def test_students_of_images_read_a_spectrum_as_a_map_of_one_channel(
    spec: DataSpec, name: str
) -> None:
    data = loaded(spec.model_dump_json())
    assert outline(Item(name=name), data.signature, ".").shapes.logits == 3
