"""common/images.py and common/pictures.py: odd files, names and folders, and what stands beside a gap in a grid."""

import matplotlib.text
import numpy as np
import pytest
from PIL import Image

from common import pictures
from common.cli import InputError
from common.images import OwnPhotos, files_below, read_mask, read_photo


def test_a_photo_of_floats_is_refused(tmp_path):
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "ramp.tif")
    with pytest.raises(InputError, match="ramp.tif: .* pixels are floats"):
        read_photo(tmp_path / "ramp.tif")


@pytest.mark.parametrize("white", [255, 65535])
def test_a_mask_of_16_bits_is_black_and_white_too(tmp_path, white):
    values = np.array([[0, white], [white, 0]], np.uint16)
    Image.fromarray(values).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), values > 0)
    Image.fromarray(values // 3).save(tmp_path / "grey.png")
    with pytest.raises(InputError, match=f"grey.png: has the value {white // 3}"):
        read_mask(tmp_path / "grey.png")


def test_a_mask_in_the_alpha_channel_is_refused(tmp_path):
    white = np.full((4, 4, 4), 255, np.uint8)
    Image.fromarray(white).save(tmp_path / "opaque.png")
    assert read_mask(tmp_path / "opaque.png").all()
    white[2:, :, 3] = 0
    Image.fromarray(white).save(tmp_path / "alpha.png")
    with pytest.raises(InputError, match="alpha.png: is transparent in places"):
        read_mask(tmp_path / "alpha.png")


def test_an_overlay_leaves_the_background_and_mixes_the_rest():
    photo = np.full((1, 2, 3), 100, np.uint8)
    palette = np.array([(0, 0, 0), (200, 0, 100)], np.uint8)
    painted = pictures.overlay(photo, np.array([[0, 1]], np.uint8), palette, opacity=0.5)
    assert painted.tolist() == [[[100, 100, 100], [150, 50, 100]]]


def test_files_below_follows_links_but_not_in_circles(tmp_path):
    (tmp_path / "masks" / "0").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "masks" / "0" / "a.png").touch()
    (tmp_path / "elsewhere" / "b.png").touch()
    (tmp_path / "masks" / "1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "masks")
    assert [path.name for path in files_below(tmp_path / "masks")] == ["a.png", "b.png"]


@pytest.mark.parametrize("names, expected", [
    (("a.jpg", "b.png"), ["a", "b"]),
    (("a.jpg", "a.png", "b.png"), ["a.jpg", "a.png", "b.png"]),
    (("x.jpg", "x.jpg.png", "x.png"), ["x.jpg", "x.jpg.png", "x.png"]),
    (("A.jpg", "a.png"), ["A.jpg", "a.png"]),  # one file where case does not count
])  # fmt: skip
def test_no_two_photos_share_a_name(tmp_path, names, expected):
    (tmp_path / "photos").mkdir()
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / "photos" / name)
    assert [name for name, _ in OwnPhotos(tmp_path / "photos", tmp_path / "out")] == expected


def test_what_is_no_photo_is_said_to_be_left_out(tmp_path, capsys):
    (tmp_path / "photos" / "deeper").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "a.png")
    assert len(OwnPhotos(tmp_path / "photos", tmp_path / "out").paths) == 1 and not capsys.readouterr().out
    for name in ("b.heic", "c.txt"):
        (tmp_path / "photos" / name).touch()
    assert len(OwnPhotos(tmp_path / "photos", tmp_path / "out").paths) == 1
    assert capsys.readouterr().out.startswith("b.heic and 1 more files: left out, for photos are .jpg, ")


def test_a_gap_in_a_grid_keeps_the_titles_of_its_row_and_column(tmp_path, monkeypatch):
    """And a $ in them is the letter, not the start of a formula."""
    figures = []
    monkeypatch.setattr(pictures, "save_figure", lambda path, figure: (figure.canvas.draw(), figures.append(figure)))
    picture = np.zeros((4, 4, 3), np.uint8)
    rows = [[None, picture], [picture, picture]]
    pictures.save_grid(tmp_path / "grid.png", rows, column_titles=["img$_$", "sad"], row_titles=["A$", "B"])
    words = {text.get_text() for text in figures[0].findobj(matplotlib.text.Text) if text.get_visible()}
    assert words >= {"img$_$", "sad", "A$", "B"}
    gap, _, shown, _ = figures[0].axes
    assert gap.axison and gap.yaxis.label.get_visible() and not gap.get_frame_on() and shown.get_frame_on()


def test_a_plain_name_is_neither_a_formula_nor_hidden_from_a_legend():
    figure, axis = pictures.subplots(figsize=(2, 2))
    axis.plot([0, 1], label=pictures.plain("_run $a_$"))
    drawn = axis.legend().get_texts()[0]
    assert drawn._preprocess_math(drawn.get_text()) == (" _run $a_$", False)
    figure.canvas.draw()


def test_the_only_epoch_of_a_run_is_one_tick(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "save_figure", lambda path, figure: (figure.canvas.draw(), figures.append(figure)))
    for n in (1, 2, 30):
        rows = [{"epoch": epoch, "loss": 1 / epoch} for epoch in range(1, n + 1)]
        pictures.save_curves(tmp_path / "curves.png", rows, {"loss": {"loss": "training"}})
        axis = figures[-1].axes[0]
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks and all(tick == int(tick) for tick in ticks), ticks
