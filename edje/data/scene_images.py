"""Drawing scenes: anti-aliased RGB images by supersampling."""

import math

from PIL import Image, ImageDraw

from edje.data.scenes import Scene, SceneObject

SUPERSAMPLING = 4  # per axis

PAINTS = {
    "red": (214, 40, 40),
    "orange": (245, 130, 32),
    "yellow": (250, 218, 45),
    "green": (46, 150, 62),
    "blue": (38, 72, 200),
    "purple": (126, 48, 160),
    "white": (250, 250, 250),
    "black": (18, 18, 18),
}
GROUNDS = {
    "grey": (150, 150, 150),
    "beige": (215, 200, 165),
    "navy": (30, 40, 90),
    "brown": (112, 80, 60),
    "mint": (170, 225, 195),
    "pink": (245, 190, 205),
}

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
        _disc(pen, thing, thing.radius, paint, side)
        if thing.shape == "ring":
            _disc(pen, thing, 0.55 * thing.radius, ground, side)
    else:
        turn = math.radians(thing.angle)
        sine, cosine = math.sin(turn), math.cos(turn)
        pen.polygon(
            [
                (
                    side * (thing.x + thing.radius * (x * cosine - y * sine)),
                    side * (thing.y + thing.radius * (x * sine + y * cosine)),
                )
                for x, y in OUTLINES[thing.shape]
            ],
            fill=paint,
        )


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


def _cross(arm: float = 0.34) -> list[Point]:
    return [
        (-arm, -1.0), (arm, -1.0), (arm, -arm), (1.0, -arm), (1.0, arm), (arm, arm),
        (arm, 1.0), (-arm, 1.0), (-arm, arm), (-1.0, arm), (-1.0, -arm), (-arm, -arm),
    ]  # fmt: skip


# Corners within the unit circle or nearly so, y down, before turning by the object's angle.
OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0.0, -1.0), (0.92, 0.7), (-0.92, 0.7)],
    "star": _star(),
    "cross": _cross(),
}
