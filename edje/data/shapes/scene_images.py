"""Drawing scenes: anti-aliased RGB images by supersampling."""

import math

from PIL import Image, ImageDraw

from edje.data.shapes.scenes import Scene, SceneObject

SUPERSAMPLING = 4  # per axis

PAINTS = {
    "red": (214, 40, 40),
    "orange": (245, 130, 32),
    "yellow": (250, 218, 45),
    "green": (46, 150, 62),
    "blue": (38, 72, 200),
    "purple": (126, 48, 160),
    "white": (250, 250, 250),
    "cyan": (60, 205, 225),
}
GROUNDS = {
    "grey": (196, 196, 196),
    "beige": (226, 214, 182),
    "mint": (180, 228, 202),
    "pink": (245, 196, 210),
    "lilac": (206, 192, 236),
    "peach": (250, 210, 178),
}
OUTLINE = (20, 20, 20)  # of every object: the same contrast for any colour and background

Point = tuple[float, float]


def draw_scene(scene: Scene, side: int) -> Image.Image:
    """The scene as a square RGB image of `side` pixels."""
    large = side * SUPERSAMPLING
    canvas = Image.new("RGB", (large, large), GROUNDS[scene.background])
    pen = ImageDraw.Draw(canvas)
    for thing in scene.objects:
        _draw(pen, thing, GROUNDS[scene.background], large)
    return canvas.reduce(SUPERSAMPLING)


def _draw(
    pen: ImageDraw.ImageDraw, thing: SceneObject, ground: tuple[int, int, int], side: int
) -> None:
    paint = PAINTS[thing.colour]
    if thing.shape in ("circle", "ring"):
        _disc(pen, thing, thing.radius, OUTLINE, side)
        _disc(pen, thing, 0.8 * thing.radius, paint, side)
        if thing.shape == "ring":
            _disc(pen, thing, 0.5 * thing.radius, OUTLINE, side)
            _disc(pen, thing, 0.3 * thing.radius, ground, side)
    else:
        corners = _corners(thing, side)
        pen.polygon(corners, fill=paint)
        width = round(0.2 * thing.radius * side)
        pen.line([*corners, *corners[:2]], fill=OUTLINE, width=width, joint="curve")


def _corners(thing: SceneObject, side: int) -> list[Point]:
    turn = math.radians(thing.angle)
    sine, cosine = math.sin(turn), math.cos(turn)
    return [
        (
            side * (thing.x + thing.radius * (x * cosine - y * sine)),
            side * (thing.y + thing.radius * (x * sine + y * cosine)),
        )
        for x, y in OUTLINES[thing.shape]
    ]


def _disc(
    pen: ImageDraw.ImageDraw,
    thing: SceneObject,
    radius: float,
    paint: tuple[int, int, int],
    side: int,
) -> None:
    left, top = side * (thing.x - radius), side * (thing.y - radius)
    right, bottom = side * (thing.x + radius), side * (thing.y + radius)
    pen.ellipse((left, top, right, bottom), fill=paint)


def _star() -> list[Point]:
    points = []
    for corner in range(10):
        reach = 1.0 if corner % 2 == 0 else 0.42
        angle = math.pi * (corner / 5 - 0.5)
        points.append((reach * math.cos(angle), reach * math.sin(angle)))
    return points


def _cross() -> list[Point]:
    arm = 0.34
    return [
        (-arm, -1.0), (arm, -1.0), (arm, -arm), (1.0, -arm), (1.0, arm), (arm, arm),
        (arm, 1.0), (-arm, 1.0), (-arm, arm), (-1.0, arm), (-1.0, -arm), (-arm, -arm),
    ]  # fmt: skip


# Corners within the unit circle or nearly so, y down, before rotation by the object's angle.
OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0.0, -1.0), (0.92, 0.7), (-0.92, 0.7)],
    "star": _star(),
    "diamond": [(0.0, -1.0), (0.6, 0.0), (0.0, 1.0), (-0.6, 0.0)],
    "bar": [(-1.0, -0.4), (1.0, -0.4), (1.0, 0.4), (-1.0, 0.4)],
    "cross": _cross(),
}
