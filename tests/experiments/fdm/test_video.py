"""Video: moving digits, a user's own clips, the sampler, the measures, a tiny run, mistakes."""

import io
import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import experiments.run
import fmjax
from experiments.fdm import video
from experiments.fdm._video import clips, digits, evaluation, measures, predicting, tables
from experiments.run import arrays, cli
from tests.oracles import tiny

TINY = tiny.config(
    video.Config,
    num_train=20,
    num_test=8,
    frames=6,
    past=3,
    channels=(8, 8),
    num_latents=2,
    coding_steps=2,
    coding_batch=8,
    width=8,
    depth=1,
    num_heads=2,
    batch_size=8,
    penalty_every=2,
    num_steps=4,
    tune_steps=2,
    weight=0.5,
    save_every=2,
    num_clips=4,
    num_draws=2,
    solver_steps=1,
    num_quick=2,
)


def bounced(start, step, room, frames):
    """The positions of one coordinate by small steps that turn at the walls."""
    x, sign, parts, found = start, 1.0, 1000, [start]
    for _ in range(frames - 1):
        for _ in range(parts):
            x += sign * step / parts
            if not 0.0 <= x <= room:
                x, sign = min(max(x, 0.0), room), -sign
        found.append(x)
    return np.array(found)


def test_tracks_bounce_as_by_brute_force():
    rng = np.random.default_rng(0)
    size = digits.Size(20, 8)
    corners = digits.positions(rng, size, 20, 30)
    room = size.side - size.digit
    assert np.all((corners >= 0.0) & (corners <= room))
    steps = np.diff(corners, axis=1)
    turned = 0
    for track, step in zip(corners, steps, strict=True):
        for axis in range(2):
            # The first step may have bounced: the longest is the speed, or a little less.
            speed = np.abs(step[:, axis]).max()
            begin = 1 if abs(abs(step[0, axis]) - speed) > 1e-9 else 0
            way = np.sign(step[begin, axis]) * speed
            expected = bounced(track[begin, axis], way, room, 30 - begin)
            np.testing.assert_allclose(track[begin:, axis], expected, atol=0.02)
            turned += np.ptp(np.sign(step[:, axis])) > 0
    assert turned > 5
    fast = np.linalg.norm(steps, axis=-1).max(axis=1)
    assert np.all((fast > 0.5 - 1e-9) & (fast < 1.5 + 1e-9))


def test_the_track_is_where_the_mass_of_the_frames_is():
    glyphs = np.random.default_rng(1).gamma(0.5, 0.2, (5, 8, 8)).clip(0, 1)
    frames, tracks = digits.clips(np.random.default_rng(2), glyphs, 17, count=4, frames=6)
    assert frames.shape == (4, 6, 17, 17, 1)
    assert frames.dtype == np.uint8
    np.testing.assert_allclose(digits.center(frames[..., 0] / 255), tracks, atol=0.02)
    again, _ = digits.clips(np.random.default_rng(2), glyphs, 17, count=4, frames=6)
    np.testing.assert_array_equal(frames, again)
    # Nothing is cut off at the walls: every frame holds the whole digit.
    mass = frames.sum(axis=(2, 3, 4)).astype(float)
    np.testing.assert_allclose(mass / mass.mean(axis=1, keepdims=True), 1.0, atol=0.01)


def test_a_digit_at_whole_pixels_is_copied():
    glyph = np.random.default_rng(0).uniform(size=(5, 5))
    frames = digits.drawn(glyph, np.array([[0.0, 3.0], [7.0, 7.0], [0.5, 3.0]]), 12)
    np.testing.assert_allclose(frames[0, :5, 3:8], glyph, atol=1e-6)
    np.testing.assert_allclose(frames[1, 7:, 7:], glyph, atol=1e-6)
    np.testing.assert_allclose(frames[2, 1:5, 3:8], (glyph[:-1] + glyph[1:]) / 2, atol=1e-6)


def test_the_measures_by_hand():
    true = np.random.default_rng(0).uniform(size=(3, 2, 8, 9, 1))
    found = true + 0.1
    np.testing.assert_allclose(measures.psnr(true, found), 20.0)
    assert measures.psnr(true, true).max() == pytest.approx(20 * np.log10(510))
    np.testing.assert_allclose(measures.ssim(true, true), 1.0, atol=1e-6)
    assert np.all(measures.ssim(true, 1 - true) < 0.5)
    scores = np.array([[[1.0, 2.0], [5.0, 0.0]], [[0.0, 4.0], [1.0, 1.0]]])
    np.testing.assert_array_equal(measures.best(scores), [[0.0, 4.0], [5.0, 0.0]])
    made = measures.summary(np.array([[1.0, 3.0], [2.0, 6.0]]))
    assert made["mean"] == 3.0
    assert made["standard_error"] == pytest.approx(1.0)  # 2 and 4, by hand: sqrt(2) / sqrt(2)
    np.testing.assert_allclose(made["by_horizon"], [1.5, 4.5])


def test_position_and_speed_are_those_of_a_point():
    frames = np.zeros((1, 3, 9, 9, 1))
    for index, (row, column) in enumerate([(2, 2), (3, 4), (4, 6)]):
        frames[0, index, row, column] = 0.9
    tracks = np.array([[[2.0, 2.0], [3.0, 3.0], [4.0, 4.0]]])
    found = measures.motion(frames[:, 1:], frames[:, 0], tracks)
    np.testing.assert_allclose(found["position"], [[1.0, 2.0]], atol=1e-6)
    np.testing.assert_allclose(found["speed"], [[1.0, 1.0]], atol=1e-6)
    dark = measures.motion(0.0 * frames[:, 1:], frames[:, 0], tracks)
    np.testing.assert_allclose(dark["position"], [[2**0.5, 0.0]])  # from the middle, (4, 4)


def test_rk4_is_of_fourth_order_and_every_evaluation_draws_by_itself():
    field = lambda key, x, t: x * jnp.cos(3.0 * t)
    errors = [
        float(
            abs(
                predicting.rk4(jax.random.key(0), field, jnp.float32(1.0), n)
                - np.exp(np.sin(3) / 3)
            )
        )
        for n in (2, 4)
    ]
    assert 8.0 < errors[0] / errors[1] < 40.0
    # The sum over the steps of (d1 + 2 d2 + 2 d3 + d4) / 6 of independent draws: the variance of
    # four alike in a step would be 1 / 5, that of different ones 10 / 36 / 5.
    noise = lambda key, x, t: jax.random.normal(key)
    draw = lambda key: predicting.rk4(key, noise, jnp.float32(0.0), 5)
    found = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 4000)))
    assert abs(found.mean()) < 5 * found.std() / 4000**0.5
    assert found.var() == pytest.approx(10 / 36 / 5, rel=5 * (2 / 4000) ** 0.5)


def test_a_prediction_looks_at_the_frame_before_and_one_of_all_earlier():
    """A field that carries x to a fixed function of its context, by a straight line."""
    frames, past = 7, jnp.arange(1.0, 4.0)[:, None, None] * jnp.ones((1, 2, 1))

    def apply(params, x, t, context):
        previous, reference, far = (context[:, i : i + 1] for i in range(3))
        # Frame n is built as its number: the reference and its distance must fit together.
        return params * (reference + jnp.exp(far) - (previous + 1.0)) + (previous + 1.0)

    def shifted(params, x, t, context):
        return (apply(params, x, t, context) - x) / (1.0 - t + 1e-3)

    predict = partial(predicting.predict, shifted, frames=frames, num_steps=64)
    found = predict(jnp.float32(1.0), jax.random.key(0), past)
    assert found.shape == (4, 2, 1)
    np.testing.assert_allclose(found[:, :, 0], np.arange(4.0, 8.0)[:, None] * [[1, 1]], atol=0.05)


def test_batches_pair_a_frame_with_the_one_before_and_an_earlier_one():
    latents = (100 * np.arange(5)[:, None] + np.arange(6))[..., None, None] * np.ones((1, 1, 2, 3))
    batch = next(predicting.batches(latents, 400, seed=0)(3))
    clip, frame = np.divmod(batch["x1"][:, 0, 0], 100)
    np.testing.assert_array_equal(batch["previous"][:, 0, 0], 100 * clip + frame - 1)
    np.testing.assert_array_equal(
        batch["reference"][:, 0, 0], 100 * clip + frame - batch["distance"]
    )
    assert set(frame) == {2, 3, 4, 5}
    assert {(f, d) for f, d in zip(frame, batch["distance"], strict=True)} == {
        (f, d) for f in (2, 3, 4, 5) for d in range(2, f + 1)
    }


def test_at_equal_time_the_slower_one_has_fewer_steps():
    rows = [{"step": step, "psnr": float(step)} for step in (2, 4, 6)]
    history = dict.fromkeys(video.PLACES, rows)
    found = evaluation.equal_time(history, 1.4)["from scratch"]  # 6 / 1.4 is above 4
    assert {name: row["step"] for name, row in found.items()} == {"FM": 6, "FDM": 4}
    assert evaluation.equal_time(history, 9.0)["after FM"]["FM, then FDM"]["step"] == 2


# A user's own clips.


def written(folder, frames):
    folder.mkdir(parents=True)
    for index, frame in enumerate(frames):
        PIL.Image.fromarray(frame).save(folder / f"{index:03d}.png")


def test_folders_and_arrays_of_frames_are_the_same_videos(tmp_path):
    rng = np.random.default_rng(0)
    made = {name: rng.integers(0, 255, (n, 8, 9), np.uint8) for name, n in (("a", 30), ("b", 25))}
    np.savez(tmp_path / "both.npz", **made)
    for name, frames in made.items():
        written(tmp_path / "both" / name, frames)
    for place in ("both.npz", "both"):
        found = clips.read(str(tmp_path / place))
        assert list(found) == ["a", "b"]
        for name, frames in made.items():
            np.testing.assert_array_equal(found[name][..., 0], frames)
    alone = clips.read(str(tmp_path / "both" / "a"))
    np.testing.assert_array_equal(alone["a"][..., 0], made["a"])


def test_windows_are_those_that_move():
    video_ = np.zeros((20, 8, 8, 1), np.uint8)
    video_[10:] = np.arange(10, dtype=np.uint8)[:, None, None, None] * 4
    found = clips.windows(video_, 4, 4, 0.5)
    np.testing.assert_array_equal(
        found[:, :, 0, 0, 0], [[0, 0, 0, 4], [8, 12, 16, 20], [24, 28, 32, 36]]
    )
    assert len(clips.windows(video_, 4, 4, 3.9)) == 2
    assert len(clips.windows(video_[:3], 4, 4, 0.5)) == 0


def test_what_is_wrong_with_clips_is_named(tmp_path):
    rng = np.random.default_rng(0)
    good = rng.integers(0, 255, (30, 8, 9), np.uint8)
    load = partial(clips.load, frames=6, stride=2, motion=0.5, held_out=0.3)
    named = {
        "float": ({"x": good / 255}, r"float.npz: x is float64 \[30, 8, 9\], .*uint8"),
        "short": (
            {"x": good, "y": good[:15]},
            "the video y has 15 frames, .* held out, .* clip has 6",
        ),
        "sizes": (
            {"x": good, "y": good[:, 1:]},
            r"different shapes, x \[8, 9, 1\] and y \[7, 9, 1\]",
        ),
        "still": (
            {"x": good[:1].repeat(30, 0)},
            "0 training and 0 held-out windows of 6 frames move",
        ),
    }
    for name, (content, words) in named.items():
        np.savez(tmp_path / f"{name}.npz", **content)
        with pytest.raises(ValueError, match=words):
            load(str(tmp_path / f"{name}.npz"))
    whole = (tmp_path / "still.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut.npz cannot be read"):
        load(str(tmp_path / "cut.npz"))
    written(tmp_path / "frames", good)
    PIL.Image.fromarray(good[0, 1:]).save(tmp_path / "frames" / "004.png")
    with pytest.raises(ValueError, match=r"000.png has 9x8 pixels and .*004.png 9x7"):
        load(str(tmp_path / "frames"))
    (tmp_path / "frames" / "004.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"004.png cannot be read as an image"):
        load(str(tmp_path / "frames"))
    with pytest.raises(FileNotFoundError, match="no folder .*/none"):
        load(str(tmp_path / "none"))


# A run of a few steps.


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of a few steps."""
    folder = tmp_path_factory.mktemp("video") / "run"
    video.main(tiny.replace(TINY, workdir=str(folder)))
    return folder


@pytest.mark.slow
def test_a_run_folder_holds_everything(run, capsys):
    tiny.check_pictures(run / "figures", {"strips", "horizons", "training"})
    results = tiny.results(run)
    kept = arrays.read(run / "arrays.npz")
    assert {*video.PLACES, "last frame repeated", "autoencoder"} == set(kept["scores"])
    for name, place in video.PLACES.items():
        lines = (run / place / "metrics.jsonl").read_text().splitlines()
        steps = [2] if "then" in name else [2, 4]
        assert [json.loads(line)["step"] for line in lines] == steps
        for key, values in kept["scores"][name].items():
            assert values.shape == (4, 3)
            assert results[name][key]["mean"] == pytest.approx(values.mean(), rel=1e-5)
        assert results[name]["best_psnr"]["mean"] >= results[name]["psnr"]["mean"]
    true, found = kept["frames"]["true"][:4], kept["frames"]["FDM"]
    by_hand = -10 * np.log10(((true[:, 3:] - found) ** 2).mean(axis=(2, 3, 4)))
    np.testing.assert_allclose(kept["scores"]["FDM"]["psnr"], by_hand, rtol=1e-4)
    gap = kept["scores"]["FDM"]["psnr"].mean() - kept["scores"]["FM"]["psnr"].mean()
    assert results["differences"]["from scratch"]["psnr"]["mean"] == pytest.approx(gap, rel=1e-4)
    animated = PIL.Image.open(io.BytesIO((run / "clips.gif").read_bytes()))
    assert animated.n_frames == 6
    capsys.readouterr()
    video.main(tiny.replace(TINY, workdir=str(run)))  # the same command: nothing is trained again
    whole = json.loads((run / "results.json").read_text())
    assert capsys.readouterr().out == tables.report(whole, run) + "\n"
    assert tiny.results(run) == results


@pytest.mark.slow
def test_all_networks_start_alike_and_differ_by_the_weight(run):
    first = [
        json.loads((run / place / "metrics.jsonl").read_text().splitlines()[0])["flow"]
        for place in video.PLACES.values()
    ]
    assert first[0] == pytest.approx(first[1], rel=0.05)
    assert len(set(first)) == 4


@pytest.mark.slow
def test_the_run_gives_back_its_networks(run):
    found = experiments.run.load(run, "FM, then FDM")
    assert found.data.train.shape == (20, 6, 16, 16, 1)
    tokens, known = jnp.ones((16, 2)), jnp.ones((16, 5))
    value = found.velocity(tokens, 0.5, context=known)
    others = [experiments.run.load(run, name) for name in ("FM", "FDM", "FM, then FM")]
    for other in others:
        assert jnp.abs(other.velocity(tokens, 0.5, context=known) - value).max() > 0


@pytest.mark.slow
def test_a_training_that_was_interrupted_ends_in_the_same_bits(run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "FDM" / "checkpoints" / "4")
    shutil.rmtree(again / "FM_then_FDM")
    video.main(tiny.replace(TINY, workdir=str(again)))
    ended, before = tiny.results(again), tiny.results(run)
    for results in (ended, before):  # whose rows tell how fast the steps were
        del results["history"], results["equal_time"]
    assert ended == before


@pytest.mark.slow
def test_features_of_ones_own_are_used_and_another_run_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    seen = []

    def embed(made):
        seen.append(made.shape)
        assert 0.0 <= made.min() <= made.max() <= 1.0
        return made.mean(axis=(2, 3, 4))

    video.main(tiny.replace(TINY, workdir=str(tmp_path / "run")), embed=embed)
    assert set(seen) == {(4, 6, 16, 16, 1)}
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    true = arrays.read(run / "arrays.npz")["frames"]["true"]
    repeated = np.concatenate([true[:4, :3], true[:4, 2:3].repeat(3, 1)], axis=1)
    expected = fmjax.metrics.frechet(*(jnp.asarray(embed(x)) for x in (repeated, true[:4])))
    assert results["last frame repeated"]["frechet"] == pytest.approx(float(expected), rel=1e-3)
    before = tiny.contents(run)
    with pytest.raises(ValueError, match=r"other options: weight .*--workdir"):
        video.main(tiny.replace(TINY, workdir=str(run), weight=0.1))
    assert tiny.contents(run) == before


@pytest.mark.slow
def test_a_users_own_clips_run_to_the_end(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (60, 9, 8, 3), np.uint8)
    np.savez(tmp_path / "mine.npz", x=frames, y=frames[::-1])
    asked = {"clips": str(tmp_path / "mine.npz"), "stride": 3}
    video.main(tiny.replace(TINY, workdir=str(tmp_path / "run"), **asked))
    results = tiny.results(tmp_path / "run")
    assert "position" not in results["FM"]
    assert "other held-out clips" not in results
    assert experiments.run.load(tmp_path / "run", "FM").data.train.shape[2:] == (9, 8, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--past", "1"], "past must be at least 2, got 1"),
        (["--frames", "5"], "frames must be between 6 and 1000, got 5"),
        (["--num-test", "3"], "num_test must be at least 8"),
        (["--weight", "-1"], "weight must be between 0"),
        (["--penalty-every", "129"], "penalty_every must be between 1 and 128"),
        (["--num-quick", "1"], "num_quick must be at least 2"),
        (["--clips", "none.npz"], "no file none.npz"),
        (["--clips", "none"], "no folder none: --clips is digits, mnist"),
    ],
)
def test_a_users_mistake_is_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.run(video.main, video.Config, args=arguments)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())
