"""How a face is painted: every part of it, from the hair behind to the hat on top.

Every paint_* function takes the canvas to paint on, the pose, `who` and `shot` (what face_traits.identity and
face_traits.picture drew), and where it needs them:

    face          mask of the face without ears: what is on the face ends where the face ends
    skin, fill    pictures of the canvas's size to paint with, made by `enlarge` of skin_fields or hair_field
    side          1 for the viewer's right, the person's left; -1 for the other

The order of the calls, which says what covers what, is that of faces.generate_face. Points are in the head's frame.
"""

import numpy as np
from PIL import Image, ImageChops

from common.face_canvas import Canvas, Mask, Pose, enlarge, mirror, oval, ruffle, smooth
from common.face_traits import HAIR_STYLES, HATS, Rng, tint


def paint_hair_back(canvas: Canvas, pose: Pose, who: dict, hat: bool, field: np.ndarray, rng: Rng) -> None:
    """What hangs behind head and body: a bun, braids or long hair; field: (n, n, 3) from hair_field."""
    hair = HAIR_STYLES[who["hair_style"]]
    if who["hair_style"] == "bun":
        bun = ruffle(oval(who["part"], -0.52, 0.12 * who["hair_scale"], 0.1), rng, 0.03)
        canvas.paint(canvas.shape(pose.outline(bun)), tint(who["hair"], 0.85), "hair")
    elif who["hair_style"] == "braids":
        for side in (-1, 1):
            for k, y in enumerate(np.arange(0.1, 0.7, 0.07)):
                knot = oval(side * (0.3 + 0.012 * k), y, 0.055, 0.05)
                canvas.paint(canvas.shape(pose.outline(knot)), tint(who["hair"], 0.6 + 0.25 * (k % 2)), "hair")
    elif hair.back > 0.25:
        wide = 0.29 + (0.04 if hat else hair.side) * who["hair_scale"]
        right = [(0, -0.3), (0.2, -0.3), (wide, -0.1), (1.05 * wide, 0.5 * hair.back), (wide, hair.back)]
        curtain = ruffle(smooth(mirror(right)), rng, 0.01 + 0.025 * hair.curl)
        canvas.paint(canvas.shape(pose.outline(curtain)), enlarge(0.6 * field, canvas.side), "hair")


def paint_hair_front(canvas: Canvas, pose: Pose, who: dict, hat: bool, fill: Image.Image, rng: Rng) -> None:
    """The hair on the head and before the shoulders, with an opening for the face; flat where a hat presses it."""
    hair, part = HAIR_STYLES[who["hair_style"]], who["part"]
    if hat:
        volume, side = 0.0, min(0.03, hair.side)
    else:
        volume, side = hair.volume * who["hair_scale"], hair.side * who["hair_scale"]
    wide = 0.275 + side
    right = [(0, -0.445 - volume), (0.16, -0.415 - 0.9 * volume), (0.25 + 0.7 * side, -0.3 - 0.4 * volume)]
    if hair.front > 0.05:
        bottom = wide * (1.12 if hair.front > 0.5 else 1)
        right += [(wide, -0.12), (1.03 * wide, 0.5 * hair.front), (bottom, hair.front)]
        right += [(0.9 * hair.fall, hair.front + 0.03)]
    else:
        right += [(wide, -0.12), (0.272 + 0.4 * side, hair.front), (0.255, hair.front + 0.03)]
    outer = ruffle(smooth(mirror(right)), rng, 0.004 + 0.03 * hair.curl + 0.5 * hair.jag)

    top, half = hair.hairline, 0.6 * hair.temple
    top = [(0.5 * part - half, top + 0.035), (part, top), (0.5 * part + half, top + 0.035)]
    right = [(hair.temple, -0.17), (hair.cheek, 0.0), (hair.cheek, 0.1), (hair.fall, 0.32), (hair.fall * 1.15, 1.3)]
    opening = smooth(top + right + [(-x, y) for x, y in right[::-1]])
    opening[:, 1] += rng.uniform(-1, 1, len(opening)) * hair.jag * (opening[:, 1] < -0.1)
    canvas.paint(canvas.shape(pose.outline(outer), pose.surface(opening)), fill, "hair")


def paint_body(canvas: Canvas, pose: Pose, who: dict, shot: dict, skin: Image.Image, rng: Rng) -> None:
    """Neck, shoulders and chest, then the necklace and the clothes on them."""
    neck = who["neck"]
    right = [(neck, 0.0), (neck, 0.25), (neck * 1.1, 0.34), (0.27, 0.39), (0.42, 0.435), (0.55, 0.53),
             (0.6, 0.8), (0.6, 1.4)]  # fmt: skip
    body = canvas.shape(pose.body(mirror(right)))
    canvas.paint(body, skin, "neck")
    chest = [(-0.8, 0.3), (-neck, 0.38), (0, 0.44), (neck, 0.38), (0.8, 0.3), (0.8, 1.6), (-0.8, 1.6)]
    canvas.paint(canvas.shape(pose.body(chest), inside=body), skin, "torso", keep="neck")
    if shot["necklace"] != "none":
        drop = rng.uniform(0.36, 0.43)
        arc = [(neck * np.cos(t), drop - 0.05 + 0.06 * np.sin(t)) for t in np.linspace(0.1, np.pi - 0.1, 13)]
        gold = ((212, 175, 85), (200, 200, 205), (240, 235, 225))[rng.integers(3)]
        chain = canvas.stroke(pose.body(arc), 0.009, inside=body)
        for bead in arc if shot["necklace"] == "beads" else arc[6:7]:
            chain = ImageChops.lighter(chain, canvas.shape(pose.body(oval(*bead, 0.013, 0.013, 10)), inside=body))
        canvas.paint(chain, gold, "neck_l", keep="torso")
    _paint_clothes(canvas, pose, neck, shot, rng)


def _paint_clothes(canvas: Canvas, pose: Pose, neck: float, shot: dict, rng: Rng) -> None:
    """What `shot` wears; neck: half its width."""
    kind, colour, accent = shot["clothes"], shot["cloth"], shot["accent"]
    if kind == "bare":
        return
    right = [(neck + 0.012, 0.2), (neck + 0.015, 0.32), (0.27, 0.37), (0.43, 0.415), (0.57, 0.51), (0.62, 0.8),
             (0.62, 1.4)]  # fmt: skip
    outline = pose.body(mirror(right))
    body = canvas.shape(outline)
    # half width at the shoulder, its y, and the deepest point
    width, y, depth = {
        "crew": (neck + 0.05, 0.38, 0.47), "v_neck": (neck + 0.07, 0.38, 0.64), "scoop": (neck + 0.15, 0.41, 0.56),
        "shirt": (neck + 0.01, 0.32, 0.47), "suit": (neck + 0.01, 0.33, 0.42), "turtleneck": (neck + 0.1, 0.25, 0.27),
        "hoodie": (neck + 0.03, 0.31, 0.45), "straps": (0.9, 0.49, 0.49),
    }[kind]  # fmt: skip
    turn = np.linspace(0, np.pi, 15)
    bend = 1 - np.abs(np.cos(turn)) if kind in ("v_neck", "shirt", "suit") else np.sin(turn)
    rim = np.stack([width * np.cos(turn), y + (depth - y) * bend], 1)
    hole = pose.body(np.concatenate([rim, [(-1.5, y - 0.04), (-1.5, -1), (1.5, -1), (1.5, y - 0.04)]]))
    if kind == "straps":
        hole = pose.body([(-1.5, -1), (1.5, -1), (1.5, y), (-1.5, y)])
    cloth = canvas.shape(outline, hole)
    canvas.paint(cloth, colour, "cloth torso")
    pattern = rng.integers(4)
    for k in np.arange(-0.7, 0.7, 0.08):
        if pattern == 1:
            canvas.paint(canvas.stroke(pose.body([(-1, k + 0.8), (1, k + 0.8)]), 0.03, inside=cloth), accent)
        elif pattern == 2:
            canvas.paint(canvas.stroke(pose.body([(k, 0), (k * 1.3, 1.4)]), 0.012, inside=cloth), accent)
    for side in (-1, 1):
        if kind == "straps":
            strap = canvas.stroke(pose.body([(side * 0.3, 0.38), (side * 0.26, 0.6)]), 0.04, inside=body)
            canvas.paint(strap, colour, "cloth torso")
        elif kind in ("shirt", "suit"):
            tip = np.array([(neck + 0.02, 0.29), (neck + 0.04, 0.36), (0.1, 0.47), (0, 0.42)]) * (side, 1)
            collar = canvas.shape(pose.body(tip))
            canvas.paint(collar, tint(colour, 1.15) if kind == "shirt" else (235, 235, 238), "cloth torso")
            if kind == "suit":
                lapel = np.array([(neck + 0.05, 0.35), (0.26, 0.42), (0.14, 0.6), (0, 0.8), (0.06, 0.5)]) * (side, 1)
                canvas.paint(canvas.shape(pose.body(lapel), inside=body), tint(colour, 0.75), "cloth torso")
    if kind == "suit":
        tie = canvas.shape(pose.body([(-0.03, 0.42), (0.03, 0.42), (0.05, 0.9), (-0.05, 0.9)]))
        canvas.paint(tie, accent, "cloth torso")
    elif kind in ("crew", "v_neck", "hoodie", "turtleneck"):
        seam = canvas.stroke(pose.body(rim), 0.018 if kind != "hoodie" else 0.06, inside=cloth)
        canvas.paint(seam, tint(colour, 0.7))


def paint_ear(canvas: Canvas, pose: Pose, who: dict, side: int, skin: Image.Image) -> None:
    """The person's left ear (side 1) or right ear (-1)."""
    ear = [(-0.03, -0.08), (0.01, -0.105), (0.047, -0.07), (0.042, 0.0), (0.022, 0.06), (-0.005, 0.097), (-0.025, 0.07)]
    middle = (0.275 * who["width"] * pose.cos, -0.005)
    shape = pose.outline((np.array(smooth(ear)) + middle) * (side, 1))
    canvas.paint(canvas.shape(shape), skin, "l_ear" if side == 1 else "r_ear")
    fold = np.array([(-0.005, -0.06), (0.018, -0.075), (0.028, -0.04), (0.018, 0.02), (0.002, 0.04)]) + middle
    canvas.paint(canvas.stroke(pose.outline(fold * (side, 1)), 0.008), tint(who["skin"], 0.55), alpha=0.6)


def paint_earring(canvas: Canvas, pose: Pose, who: dict, shot: dict, side: int, metal: tuple) -> None:
    """The earring of one side; metal: its (r, g, b)."""
    x, y = 0.272 * who["width"] * pose.cos, 0.095
    if shot["earrings"] == "stud":
        mask = canvas.shape(pose.outline(oval(side * x, y, 0.016, 0.016)))
    elif shot["earrings"] == "hoop":
        ring = oval(side * x, y + 0.06, 0.045, 0.06)
        mask = canvas.stroke(pose.outline(np.concatenate([ring, ring[:2]])), 0.012)
    else:
        drop = smooth([(side * x, y), (side * x + 0.02, y + 0.08), (side * x, y + 0.12), (side * x - 0.02, y + 0.08)])
        mask = canvas.shape(pose.outline(drop))
    canvas.paint(mask, metal, "ear_r")


def paint_eyes(canvas: Canvas, pose: Pose, who: dict, shot: dict, face: Mask) -> None:
    """Both eyes, open or shut, and the brows."""
    distance, wide, high = who["eye"]
    high = high * shot["lids"]
    thick, long = who["brows"]
    for side, left in ((1, True), (-1, False)):
        middle = np.array([distance, -0.08])
        corners = [(-1, 0.2), (-0.4, -1), (0.3, -1), (1, -0.2), (0.35, 0.8), (-0.4, 0.85)]
        almond = smooth(corners) * (wide, high)
        lid = pose.surface((almond + middle) * (side, 1))
        eye = canvas.shape(lid, inside=face)
        upper = lid[:19]
        if shot["shut"]:
            lower = pose.surface((almond * (1, -0.7) + middle) * (side, 1))
            canvas.paint(canvas.stroke(lower[:19], 0.008, inside=face), (35, 25, 25))
        else:
            canvas.paint(eye, (238, 234, 230), "l_eye" if left else "r_eye", keep="skin")
            for radius, colour in ((0.0205, tint(who["iris"], 0.6)), (0.017, who["iris"]), (0.009, (12, 10, 12))):
                ball = oval(distance * side + shot["gaze"][0], -0.083 + shot["gaze"][1], radius, radius, 20)
                canvas.paint(canvas.shape(pose.surface(ball), inside=eye), colour)
            spark = oval(distance * side + shot["gaze"][0] - 0.006, -0.09, 0.005, 0.005, 8)
            canvas.paint(canvas.shape(pose.surface(spark), inside=eye), (255, 255, 255))
            lash = 0.011 if who["makeup"] else 0.007
            rim = ImageChops.subtract(canvas.stroke(upper, lash, inside=face), eye)
            canvas.paint(rim, (30, 22, 22))
            crease = pose.surface((almond[:19] * (1.05, 1.4) + middle + (0, -0.006)) * (side, 1))
            canvas.paint(canvas.stroke(crease, 0.005, inside=face), tint(who["skin"], 0.5), alpha=0.5)
        inner, outer = -0.138 + shot["brow_inner"], -0.138 + shot["brow_outer"]
        start = distance - long * 0.85
        brow = [(start, inner), (start + 0.7 * long, (inner + outer) / 2 - 0.014), (start + 1.5 * long, outer - 0.016),
                (start + 2.1 * long, outer + 0.008), (start + 1.5 * long, outer + 0.4 * thick - 0.01),
                (start + 0.7 * long, (inner + outer) / 2 - 0.014 + thick), (start, inner + thick)]  # fmt: skip
        shape = canvas.shape(pose.surface(smooth(brow, 4) * (side, 1)), inside=face)
        canvas.paint(shape, who["brow"], "l_brow" if left else "r_brow", keep="skin")


def paint_nose(canvas: Canvas, pose: Pose, who: dict, shot: dict, skin: Image.Image, face: Mask) -> None:
    """The nose, and the folds from its wings to the corners of the mouth."""
    half, tip = who["nose"]
    right = [(0, -0.095), (0.024, -0.09), (0.026, -0.03), (0.045, 0.04), (half, tip - 0.035),
             (half * 0.95, tip - 0.005), (half * 0.5, tip), (0, tip + 0.012)]  # fmt: skip
    nose = canvas.shape(pose.surface(smooth(mirror(right), 4), 0.02), inside=face)
    canvas.paint(nose, skin, "nose", keep="skin")
    canvas.paint(nose, (255, 245, 235), alpha=0.04)
    for side in (-1, 1):
        nostril = pose.surface(oval(side * half * 0.48, tip - 0.006, half * 0.24, 0.008, 12), 0.02)
        canvas.paint(canvas.shape(nostril, inside=nose), tint(who["skin"], 0.3), alpha=0.8)
        wing = np.array([(0.85 * half, tip - 0.05), (half, tip - 0.03), (0.92 * half, tip - 0.004)]) * (side, 1)
        canvas.paint(canvas.stroke(pose.surface(wing, 0.02), 0.007, inside=face), tint(who["skin"], 0.5), alpha=0.5)
        fold = pose.surface([(side * half * 1.1, tip - 0.03), (side * 0.115, tip + 0.05), (side * 0.125, tip + 0.1)])
        strength = min(0.7, who["wrinkles"] + 6 * max(0, shot["smile"]))
        canvas.paint(canvas.stroke(fold, 0.006, inside=face), tint(who["skin"], 0.55), alpha=strength)


def paint_beard(canvas: Canvas, pose: Pose, who: dict, fill: Image.Image, face: Mask) -> None:
    """Stubble, moustache, goatee or full beard, if the person has one."""
    kind = who["beard"]
    if kind == "none":
        return
    under_nose = who["nose"][1] + 0.02
    half = [(0, under_nose), (0.06, under_nose), (0.105, 0.165), (0.115, 0.2), (0.08, 0.18), (0.0, 0.165)]
    mask = canvas.shape(pose.surface(smooth(mirror(half), 4)), inside=face)
    if kind == "goatee":
        chin = canvas.shape(pose.surface(oval(0, 0.275, 0.095, 0.105)), inside=face)
        mask = ImageChops.lighter(mask, chin)
    elif kind in ("stubble", "full"):
        cheeks = [(0, under_nose), (0.075, under_nose), (0.12, 0.13), (0.17, 0.1), (0.225, -0.03), (0.4, -0.03),
                  (0.4, -0.6)]  # fmt: skip
        jaw = [(-0.5, -0.03), (0.5, -0.03), (0.5, 0.6), (-0.5, 0.6)]
        mask = canvas.shape(pose.outline(jaw), pose.surface(mirror(cheeks)), inside=face)
    canvas.paint(mask, fill, "facial_hair", keep="skin", alpha={"stubble": 0.35, "full": 0.95}.get(kind, 0.85))


def paint_mouth(canvas: Canvas, pose: Pose, who: dict, shot: dict, face: Mask) -> None:
    """The lips and, where they part, mouth, tongue and teeth."""
    half, upper, lower = who["mouth"]
    half = half * (1 + 3 * max(0, shot["smile"]))
    x = np.linspace(-1, 1, 21)
    bulge = 1 - x**2
    middle = 0.19 - shot["smile"] * x**2 + 0.2 * shot["smile"]
    inner_top, inner_bottom = middle - 0.3 * shot["gape"] * bulge, middle + 0.7 * shot["gape"] * bulge
    top = inner_top - upper * (1 - np.abs(x) ** 1.5) * (1 - 0.22 * np.exp(-((x / 0.16) ** 2)))
    bottom = inner_bottom + lower * bulge**0.8

    def between(above, below, inside=face):
        line = np.concatenate([np.stack([half * x, above], 1), np.stack([half * x, below], 1)[::-1]])
        return canvas.shape(pose.surface(line), inside=inside)

    canvas.paint(between(inner_bottom, bottom), who["lips"], "l_lip", keep="skin")
    gloss = between(bottom - 0.6 * lower * bulge, bottom - 0.25 * lower * bulge)
    canvas.paint(gloss, tint(who["lips"], 1.15), alpha=0.5)
    canvas.paint(between(top, inner_top), tint(who["lips"], 0.86), "u_lip", keep="skin")
    if shot["gape"] == 0:
        seam = pose.surface(np.stack([half * x, middle], 1))
        canvas.paint(canvas.stroke(seam, 0.006, inside=face), tint(who["lips"], 0.45))
        return
    inner = between(inner_top, inner_bottom)
    canvas.paint(inner, (52, 18, 22), "mouth", keep="skin")
    tongue = pose.surface(oval(0, 0.19 + 0.75 * shot["gape"], 0.05, 0.35 * shot["gape"]))
    canvas.paint(canvas.shape(tongue, inside=inner), (165, 80, 85))
    if shot["teeth"]:
        edge = inner_top + np.minimum(0.028, 0.85 * (inner_bottom - inner_top)) * (np.abs(x) < 0.85)
        teeth = between(inner_top, edge, inside=inner)
        canvas.paint(teeth, (240, 236, 226), "teeth", keep="skin mouth")
        for gap in np.linspace(-0.6, 0.6, 7) * half:
            line = pose.surface([(gap, 0.14), (gap, 0.25)])
            canvas.paint(canvas.stroke(line, 0.003, inside=teeth), (190, 180, 170), alpha=0.6)


def paint_glasses(canvas: Canvas, pose: Pose, who: dict, shot: dict, rng: Rng) -> None:
    """Glasses or sunglasses, if worn: lenses, frame, bridge and arms."""
    if shot["glasses"] == "none":
        return
    dark = shot["glasses"] == "sunglasses"
    distance = who["eye"][0] + 0.004
    wide, high = rng.uniform(0.078, 0.092), rng.uniform(0.048, 0.07) + 0.015 * dark
    shape = (oval(0, 0, 1, 1, 12), [(-0.92, -0.92), (0.92, -0.92), (0.92, 0.92), (-0.92, 0.92)],
             [(-0.9, -1), (1, -1.1), (0.8, 1), (-0.6, 1)],
             [(-1, -0.6), (1.1, -1.2), (0.8, 0.8), (-0.7, 0.9)])[rng.integers(4)]  # fmt: skip
    rim = ((25, 22, 24), (90, 50, 30), (190, 160, 90), (150, 150, 160), shot["accent"])[rng.integers(5)]
    glass = ((20, 20, 26), (60, 35, 20), (30, 40, 80))[rng.integers(3)] if dark else (225, 235, 240)
    width, keep = rng.uniform(0.008, 0.017), "skin nose"
    mask = canvas.stroke(pose.surface([(-distance + 0.8 * wide, -0.09), (distance - 0.8 * wide, -0.09)], 0.03), width)
    for side in (-1, 1):
        frame = pose.surface((smooth(shape) * (wide, high) + (distance, -0.07)) * (side, 1), 0.02)
        lens = canvas.shape(frame)
        keep_behind = keep if dark else keep + " l_eye r_eye l_brow r_brow"
        canvas.paint(lens, glass, "eye_g", keep=keep_behind, alpha=0.93 if dark else 0.14)
        glare = np.array([(-0.03, -0.1), (0.0, -0.1), (-0.02, -0.04), (-0.05, -0.04)]) + (side * distance, 0)
        canvas.paint(canvas.shape(pose.surface(glare), inside=lens), (255, 255, 255), alpha=0.2)
        mask = ImageChops.lighter(mask, canvas.stroke(np.concatenate([frame, frame[:2]]), width))
        hinge = pose.surface([(side * (distance + 0.9 * wide), -0.09)], 0.02)
        arm = np.concatenate([hinge, pose.outline([(side * 0.275 * who["width"] * pose.cos, -0.075)])])
        mask = ImageChops.lighter(mask, canvas.stroke(arm, width))
    canvas.paint(mask, rim, "eye_g", keep=keep)


def paint_hat(canvas: Canvas, pose: Pose, shot: dict) -> None:
    """A hat of HATS, if worn."""
    kind, colour, accent = shot["hat"], shot["cloth"][::-1], shot["accent"]
    if kind == "none":
        return
    _, rise, wide, narrow, brim, thick, y = HATS[kind]
    if kind == "headscarf":
        outer = [(0, -0.49), (0.22, -0.42), (0.32, -0.15), (0.31, 0.15), (0.33, 0.4), (0.42, 0.55), (0, 0.8)]
        opening = [(0, -0.28), (0.14, -0.24), (0.2, -0.08), (0.195, 0.1), (0.12, 0.3), (0, 0.37)]
        outer, opening = smooth(mirror(outer)), smooth(mirror(opening))
        canvas.paint(canvas.shape(pose.outline(outer), pose.surface(opening)), colour, "hat")
        for x in (-0.3, -0.24, 0.26, 0.31):
            crease = pose.outline([(x * 0.8, -0.3), (x * 1.02, 0.1), (x * 0.7, 0.5)])
            canvas.paint(canvas.stroke(crease, 0.012), tint(colour, 0.7), alpha=0.6)
        return
    crown = [(0, -0.46 - rise), (narrow, -0.45 - rise), (0.93 * wide, -0.33 - 0.5 * rise), (wide, y),
             (0.5 * wide, y - 0.03), (0, y - 0.04)]  # fmt: skip
    dome = canvas.shape(pose.outline(smooth(mirror(crown))))
    canvas.paint(dome, colour, "hat")
    if kind == "turban":
        for k in range(5):
            wrap = pose.outline([(-0.35, -0.5 + 0.09 * k), (0.05, -0.3 + 0.05 * k), (0.35, -0.62 + 0.09 * k)])
            canvas.paint(canvas.stroke(wrap, 0.012, inside=dome), tint(colour, 0.7))
    elif kind == "beanie":
        for x in np.linspace(-0.3, 0.3, 13):
            rib = pose.outline([(x, y), (0.7 * x, -0.55)])
            canvas.paint(canvas.stroke(rib, 0.008, inside=dome), tint(colour, 0.75))
        band = [(-0.32, y - 0.1), (0, y - 0.14), (0.32, y - 0.1), (0.32, y + 0.02), (0, y - 0.03), (-0.32, y + 0.02)]
        canvas.paint(canvas.shape(pose.outline(smooth(band))), accent, "hat")
    else:
        ribbon = canvas.stroke(pose.outline([(-wide, y - 0.03), (0, y - 0.07), (wide, y - 0.03)]), 0.05, inside=dome)
        canvas.paint(ribbon, accent)
        shift = 0.5 * pose.sin * brim if kind == "cap" else 0
        rim = pose.outline(oval(shift, y, brim, thick))
        canvas.paint(canvas.shape(rim), tint(colour, 0.8), "hat")
