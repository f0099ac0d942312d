"""common/images.py and common/celebamask.py: photos and masks of every kind, folders as they come."""

import unicodedata
from pathlib import Path

import numpy as np
from conftest import refused
from PIL import Image, ImageCms

from common.celebamask import check_masks, list_celebamask
from common.images import OwnPhotos, check_crop, cropped, read_mask, read_photo
from mut1ny_fairness.tables import inside


def gradient(size=(40, 30)):
    x, y = np.meshgrid(np.linspace(20, 235, size[0]), np.linspace(20, 235, size[1]))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


# ---- Photos --------------------------------------------------------------------------------------------------------


def test_a_photo_of_any_kind_is_read_as_rgb(tmp_path):
    photo = gradient()
    for mode in ("L", "P", "CMYK", "RGBA", "1"):
        path = tmp_path / f"{mode}.tif"
        photo.convert(mode).save(path)
        assert (read_photo(path).mode, read_photo(path).size) == ("RGB", (40, 30))
    Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(tmp_path / "16.png")
    assert np.array_equal(np.asarray(read_photo(tmp_path / "16.png"))[..., 0], np.asarray(photo.convert("L")))
    exif = Image.Exif()
    exif[0x0112] = 3
    photo.rotate(180).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(np.asarray(read_photo(tmp_path / "turned.png")), np.asarray(photo))


def test_a_colour_profile_is_applied(tmp_path):
    """By sRGB's own profile nothing changes; by one with the primaries for red and blue exchanged they are."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = srgb.replace(b"rXYZ", b"....").replace(b"bXYZ", b"rXYZ").replace(b"....", b"bXYZ")
    pixels = np.asarray(gradient()).astype(int)
    for profile, expected in ((srgb, pixels), (exchanged, pixels[..., ::-1]), (b"no profile at all", pixels)):
        gradient().save(tmp_path / "a.png", icc_profile=profile)
        assert np.abs(np.asarray(read_photo(tmp_path / "a.png")) - expected).max() <= 2


def test_accents_are_one_name_however_they_are_written(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Zoë.png") for form in ("NFC", "NFD"))
    gradient().save(tmp_path / decomposed)
    assert inside(tmp_path, composed, "groups.csv, line 2") == tmp_path / decomposed


def test_transparent_parts_are_white_and_stay_transparent_in_the_overlay_of_a_crop(tmp_path):
    cutout = gradient().convert("RGBA")
    alpha = np.zeros((30, 40), np.uint8)
    alpha[:, 20:] = 255
    cutout.putalpha(Image.fromarray(alpha))
    for mode in ("RGBA", "LA", "PA"):
        picture = cutout.convert(mode)
        picture.putalpha(Image.fromarray(alpha))  # of PA, Pillow below 12 loses it on the way
        picture.save(tmp_path / "cut.tif")
        photo = read_photo(tmp_path / "cut.tif")
        assert (np.asarray(photo)[:, :20] == 255).all() and (np.asarray(photo)[:, 20:] < 250).any()
        assert np.array_equal(np.asarray(photo.info["alpha"]), alpha)
    photos = OwnPhotos([tmp_path / "cut.tif"], tmp_path / "new" / "overlay.png", [0.25, 0.0, 1.0, 0.5])
    label, palette = np.zeros((15, 30), np.uint8), np.zeros((2, 3), np.uint8)
    photos.each(lambda name, photo: photos.save_labels(name, photo, label, palette, {}) or 1)
    overlay = np.asarray(Image.open(tmp_path / "new" / "overlay.png"))
    assert np.array_equal(overlay, np.dstack([np.asarray(photo), alpha])[:15, 10:])
    assert "--crop 0.5 0 0.5 1: keeps nothing; give left < right" in refused(check_crop, [0.5, 0.0, 0.5, 1.0])
    corner = np.asarray(cropped(photo, [0.99, 0.99, 1.0, 1.0]))  # less than a pixel
    assert np.array_equal(corner, np.asarray(photo)[-1:, -1:])


def test_a_photo_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """Emptied, cut and linked ones: test_bad_input.py."""
    (tmp_path / "a.png").write_bytes(b"text")
    (tmp_path / "a.heic").write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00")
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "ramp.tif")
    gradient().save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    for name, words in (
        ("a.png", "not an image file; replace or remove it"),
        ("a.heic", "HEIC, which Pillow does not read: export it as JPEG"),
        ("ramp.tif", "its pixels are floats"),
        ("large.png", "larger than 0 megapixels: make it smaller"),
    ):
        message = refused(read_photo, tmp_path / name)
        assert str(tmp_path / name) in message and words in message
    assert "larger than 0 megapixels" in refused(read_mask, tmp_path / "large.png")


# ---- Masks ---------------------------------------------------------------------------------------------------------

MASK = np.tri(6, 8, dtype=np.uint8)


def test_a_black_and_white_mask_of_any_kind_is_read(tmp_path):
    image = Image.fromarray(MASK * 255)
    palette = Image.fromarray(MASK)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    kinds = {mode: image.convert(mode) for mode in ("L", "1", "RGB", "RGBA", "LA", "P")} | {"palette": palette}
    kinds |= {"16 bits": Image.fromarray(MASK.astype(np.uint16) * 65535), "0 and 1": Image.fromarray(MASK)}
    for kind, picture in kinds.items():
        picture.save(tmp_path / "mask.png")
        assert np.array_equal(read_mask(tmp_path / "mask.png"), MASK > 0), kind
    assert "is 8 x 6 px, the folder's other masks are 4 x 3" in refused(read_mask, tmp_path / "mask.png", (3, 4))


def test_what_is_no_mask_is_named(tmp_path):
    path, coloured = tmp_path / "mask.png", Image.fromarray(MASK)
    coloured.putpalette([0, 0, 0, 200, 30, 30])
    cases = [
        (Image.fromarray(MASK * 37), "has the value 37; a mask holds black and white alone"),
        (Image.fromarray(MASK * 17), "has values up to 17, the class numbers of a merged mask"),
        (Image.fromarray(MASK.astype(np.uint16) * 300), "has the value 300"),
        (coloured, "has the colour (200, 30, 30)"),
        (Image.fromarray(np.dstack([MASK * 255] * 4)), "is transparent in places"),
    ]
    for picture, words in cases:
        picture.save(path)
        assert f"{path}: {words}" in refused(read_mask, path)


# ---- Folders -------------------------------------------------------------------------------------------------------

WHOLE = [0.0, 0.0, 1.0, 1.0]


def names_of(tmp_path, *paths):
    names = []
    OwnPhotos(list(paths), tmp_path / "out", WHOLE).each(lambda name, photo: names.append(name) or 1)
    return names


def test_own_photos_come_from_files_and_folders_under_names_of_their_own(tmp_path, capsys):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.jpg", "b.png", "more/c.jfif"):
        gradient().save(folder / name, "JPEG" if name != "b.png" else "PNG")
    assert names_of(tmp_path, folder / "b.png", folder / "a.jpg") == ["b", "a"] and not capsys.readouterr().out
    assert names_of(tmp_path, folder, folder / "more") == ["a", "b", "c"] and not capsys.readouterr().out
    assert names_of(tmp_path, folder) == ["a", "b"]
    assert f"1 other file(s) are left out, such as {folder / 'more' / 'c.jfif'}" in capsys.readouterr().out
    gradient().save(folder / "A.png")  # one file where case does not count
    assert sorted(names_of(tmp_path, folder)) == ["A.png", "a.jpg", "b.png"]
    gradient().save(folder / "more" / "B.png")
    twice = refused(OwnPhotos, [folder, folder / "more"], tmp_path / "out", WHOLE)
    assert f"{folder / 'b.png'} and {folder / 'more' / 'B.png'}: have one name" in twice
    one = [folder / "b.png"]
    for paths, out, words in (
        ([folder], folder, f"--out {folder}: is the folder of the photos"),
        ([folder], Path("r.png"), "is one file, but there are 3 photos; give a folder"),
        (one, one[0], "is the photo itself"),
        (one, Path("r.jpg"), "give a name that ends in .png, or a folder"),
        ([], Path("out"), "no photo is given; type: "),
    ):
        assert words in refused(OwnPhotos, paths, out, WHOLE)


def test_a_photo_that_cannot_be_read_or_is_too_large_does_not_keep_the_others_back(tmp_path, capsys):
    for name in ("a.png", "large.png"):
        gradient().save(tmp_path / name)
    (tmp_path / "bad.png").write_text("no photo")
    photos = OwnPhotos([tmp_path], tmp_path / "out", WHOLE)

    def work(name, photo):
        if name == "large":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return 0.3

    photos.each(work)
    error = refused(photos.end, "*.png", "hair")
    assert f"{tmp_path / 'bad.png'}: cannot be read" in error
    assert f"{tmp_path / 'large.png'}: out of memory at 40 x 30 px; make it smaller, or --crop to the face" in error
    assert capsys.readouterr().out == f"1 photo(s) -> {tmp_path / 'out'}: *.png\n"


# ---- CelebAMask-HQ -------------------------------------------------------------------------------------------------


def test_celebamask_is_listed_by_id_with_the_masks_that_are_there(faces, tmp_path):
    found = list_celebamask(faces)
    assert [face.id for face in found] == list(range(12))
    for face in found:
        assert face.photo.name == f"{face.id}.jpg" and "skin" in face.masks
        assert all(path.name == f"{face.id:05d}_{part}.png" for part, path in face.masks.items())
    (tmp_path / "parent").mkdir()
    (tmp_path / "parent" / "CelebAMask-HQ").symlink_to(faces)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "CelebA-HQ-img").symlink_to(faces / "CelebA-HQ-img")
    (tmp_path / "CelebAMask-HQ-mask-anno").symlink_to(faces / "CelebAMask-HQ-mask-anno")
    for given in (tmp_path / "parent", faces / "CelebA-HQ-img", tmp_path / "photos"):
        assert [face.identity for face in list_celebamask(given)] == [face.identity for face in found]


def test_a_celebamask_folder_that_cannot_be_used_is_named(faces, tmp_path):
    assert f"{tmp_path}: looked for CelebA-HQ-img/0.jpg" in refused(list_celebamask, tmp_path)
    (tmp_path / "CelebA-HQ-img").mkdir()
    for id in (3, 4):
        gradient().save(tmp_path / "CelebA-HQ-img" / f"{id}.jpg")
    assert "not one of its 2 faces has a mask of skin, nor of any other" in refused(list_celebamask, tmp_path)
    (tmp_path / "mask").mkdir()
    Image.fromarray(MASK * 17).save(tmp_path / "mask" / "3.png")
    merged = f"but {tmp_path / 'mask' / '3.png'} looks like a merged mask, all parts in one file"
    assert merged in refused(list_celebamask, tmp_path)
    masks = tmp_path / "CelebAMask-HQ-mask-anno" / "7"
    masks.mkdir(parents=True)
    for name in ("00003_hair.png", "00009_skin.png", "00003_beard.png"):
        Image.fromarray(MASK * 255).save(masks / name)
    assert "a mask of skin, only of hair" in refused(list_celebamask, tmp_path)
    listed = list_celebamask(tmp_path, part="hair")
    assert [set(face.masks) for face in listed] == [{"hair"}, set()]
    assert f"{tmp_path / 'CelebA-HQ-img' / '4.jpg'}: has no mask" in refused(check_masks, listed)
