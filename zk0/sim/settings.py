"""The settings (rooms) in which the SO-101 arm picks up a cube.

The base policy is trained in `base`. The four clients differ from it in the cube's zone, the camera's mount, the light,
the cube's colour and the task's text. They share a part of that shift (the bench stands to the arm's left, its camera
is mounted further round and higher, the room is darker), so what they learn together also holds in `unseen`, whose
values lie among theirs.

`ZONES` are four more, in all but the cube's zone like `base`: side by side they are the bench, and none says anything
of another. They are for policies made from scratch (`benchmarks/federation_value`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Zone:
    """Where the cube may lie: a sector around a point 5 cm in front of the arm's base."""

    radius_m: tuple[float, float]
    centre_deg: float
    half_angle_deg: float


@dataclass(frozen=True)
class CameraPose:
    """Pose of the front camera: a free camera that looks at a point of the bench."""

    lookat_m: tuple[float, float, float]
    distance_m: float
    azimuth_deg: float
    elevation_deg: float


@dataclass(frozen=True)
class Light:
    """The room's light: diffuse intensity of each lamp, ambient intensity (both 0-1), direction of the ceiling lamp."""

    brightness: float
    ambient: float
    direction: tuple[float, float, float]


@dataclass(frozen=True)
class Setting:
    """One room: everything that distinguishes its recordings from those of another one."""

    name: str
    zone: Zone
    camera: CameraPose
    light: Light
    cube_rgb: tuple[float, float, float]
    task: str


BASE = "base"
CLIENTS = ("kitchen", "workshop", "greenhouse", "study")
UNSEEN = "unseen"

SETTINGS: dict[str, Setting] = {
    s.name: s
    for s in (
        Setting(
            name=BASE,
            zone=Zone((0.17, 0.23), 0.0, 20.0),
            camera=CameraPose((0.22, 0.0, 0.03), 0.42, 180.0, -55.0),
            light=Light(0.50, 0.30, (0.0, 0.0, -1.0)),
            cube_rgb=(0.90, 0.10, 0.10),
            task="Pick up the red cube.",
        ),
        Setting(
            name="kitchen",
            zone=Zone((0.17, 0.225), 24.0, 15.0),
            camera=CameraPose((0.22, 0.04, 0.03), 0.44, 194.0, -62.0),
            light=Light(0.36, 0.20, (0.3, 0.0, -1.0)),
            cube_rgb=(0.10, 0.25, 0.90),
            task="Grab the blue block.",
        ),
        Setting(
            name="workshop",
            zone=Zone((0.18, 0.235), 32.0, 15.0),
            camera=CameraPose((0.21, 0.06, 0.03), 0.46, 202.0, -60.0),
            light=Light(0.28, 0.24, (0.0, 0.4, -1.0)),
            cube_rgb=(0.95, 0.50, 0.05),
            task="Lift the orange cube.",
        ),
        Setting(
            name="greenhouse",
            zone=Zone((0.17, 0.23), 28.0, 18.0),
            camera=CameraPose((0.22, 0.05, 0.04), 0.43, 198.0, -66.0),
            light=Light(0.40, 0.16, (-0.3, 0.2, -1.0)),
            cube_rgb=(0.10, 0.75, 0.20),
            task="Take the green block off the bench.",
        ),
        Setting(
            name="study",
            zone=Zone((0.175, 0.23), 22.0, 18.0),
            camera=CameraPose((0.21, 0.04, 0.03), 0.47, 196.0, -58.0),
            light=Light(0.24, 0.22, (0.2, -0.3, -1.0)),
            cube_rgb=(0.60, 0.15, 0.80),
            task="Raise the purple cube.",
        ),
        Setting(
            name=UNSEEN,
            zone=Zone((0.175, 0.23), 27.0, 16.0),
            camera=CameraPose((0.215, 0.045, 0.03), 0.45, 198.0, -61.0),
            light=Light(0.32, 0.20, (0.1, 0.1, -1.0)),
            cube_rgb=(0.30, 0.45, 0.55),
            task="Grab the grey cube.",
        ),
    )
}

ZONES: dict[str, Setting] = {
    name: replace(SETTINGS[BASE], name=name, zone=Zone((0.17, 0.23), centre_deg, 15.0))
    for name, centre_deg in (("far-left", 45.0), ("left", 15.0), ("right", -15.0), ("far-right", -45.0))
}


def get_setting(name: str) -> Setting:
    """Returns the setting of that name; raises ValueError with the known names if there is none."""
    known = SETTINGS | ZONES
    if name not in known:
        raise ValueError(f"setting={name!r} is unknown; use one of: {', '.join(known)}")
    return known[name]
