"""CelebAMask-HQ's layout on disk: what several of the papers train on, and the others can be tried on.

    CelebAMask-HQ/
      CelebA-HQ-img/0.jpg ... 29999.jpg                            photos, 1024 x 1024
      CelebAMask-HQ-mask-anno/0/00000_skin.png ... 14/29999_*.png  masks, 512 x 512, black and white, folder id // 2000

The masks may also lie beside that folder. A part that a face lacks has no file. The raw masks overlap: skin lies under
eyes, brows, nose and lips.
Get it from https://github.com/switchablenorms/CelebAMask-HQ; non-commercial research and education only, and the data
may not be passed on. Lee et al., "MaskGAN", CVPR 2020.
"""

from pathlib import Path
from typing import NamedTuple

from common.cli import InputError
from common.data import identity
from common.images import files_below

PHOTOS, MASKS = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno"
PARTS = ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip", "l_lip",
         "hair", "hat", "ear_r", "neck_l", "neck", "cloth")  # fmt: skip
NAMES = dict(zip(PARTS, ("skin", "nose", "glasses", "left eye", "right eye", "left brow", "right brow", "left ear",
         "right ear", "mouth", "upper lip", "lower lip", "hair", "hat", "earring", "necklace", "neck", "clothes"),
         strict=True))  # fmt: skip
# (index, index) of the left/right pairs in PARTS: a mirrored left eye is a right eye
FLIP_PAIRS = tuple((PARTS.index(f"l_{part}"), PARTS.index(f"r_{part}")) for part in ("eye", "brow", "ear"))
# ids that show the same photo twice: a random split would test on what it trained on; second -> first
DUPLICATES = {235: 234, 3330: 3329, 5163: 5162, 6771: 6770, 7385: 7384, 7562: 7561, 12445: 12444, 12886: 12885,
              13826: 13825, 15507: 15506, 19200: 19199, 20135: 20134, 24647: 24646}  # fmt: skip


class FaceFiles(NamedTuple):
    """A face's photo, and the masks that it has by part."""

    id: int
    photo: Path
    masks: dict[str, Path]  # part -> file, only the parts that this face has

    @property
    def files(self) -> list[Path]:
        """The photo and the masks."""
        return [self.photo, *self.masks.values()]

    @property
    def identity(self) -> str:
        """How a run recognises the face (data.py)."""
        return identity(self.photo, self.masks.values())


def celebamask_root(folder: Path) -> Path | None:
    """The CelebAMask-HQ folder that `folder` is, holds, or is a part of."""
    root = folder.parent if folder.name in (PHOTOS, MASKS) else folder
    return next((path for path in (root, root / "CelebAMask-HQ") if (path / PHOTOS).is_dir()), None)


def list_celebamask(folder: Path, part: str = "skin") -> list[FaceFiles]:
    """The faces of a CelebAMask-HQ folder, or of the one that celebamask_root() finds, sorted by id.

    Raises InputError if there are no photos, or not a single mask of `part` ("": masks are not needed). Faces without
    any mask are listed with an empty dict, masks without a photo are left out.
    """
    folder = celebamask_root(folder) or folder
    faces = {}
    for path in files_below(folder / PHOTOS):
        if path.stem.isdecimal() and path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            faces[int(path.stem)] = FaceFiles(int(path.stem), path, {})
    if not faces:
        why = "looked for CelebA-HQ-img/0.jpg, ... and found none" if folder.is_dir() else "no such folder"
        raise InputError(f"{folder}: {why}; give CelebAMask-HQ's folder")
    beside = (folder if (folder / MASKS).is_dir() else folder.parent) / MASKS
    masks = files_below(beside)
    for path in masks:  # whatever subfolder it is in
        id, _, name = path.stem.partition("_")
        if id.isdecimal() and int(id) in faces and name in PARTS and path.suffix.lower() == ".png":
            faces[int(id)].masks[name] = path
    found = {name for face in faces.values() for name in face.masks}
    if part and part not in found:
        what = f"only of {', '.join(sorted(found))}" if found else "nor of any other part"
        others = masks or [path for path in files_below(folder) if path.relative_to(folder).parts[0] != PHOTOS]
        merged = [path for path in others if path.stem.isdecimal() and path.suffix == ".png"]
        if not found and merged:
            what = f"but {merged[0]} looks like a merged mask, all parts in one file, which is not read"
        raise InputError(
            f"{folder}: not one of its {len(faces)} faces has a mask of {part}, {what}; unpack all of the annotations "
            f"(CelebAMask-HQ-mask-anno/0/00000_{part}.png, ...)"
        )
    return [faces[id] for id in sorted(faces)]


def check_masks(faces: list[FaceFiles]) -> None:
    """Raise InputError for a face without any mask: its annotation is missing."""
    bare = [face for face in faces if not face.masks]
    if bare:
        others = f" (nor have {len(bare) - 1} others)" if len(bare) > 1 else ""
        raise InputError(f"{bare[0].photo}: has no mask{others}; unpack all of the annotations or remove the photo")
