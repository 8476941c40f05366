"""Draw docs/architecture.svg: the rooms of the code on their floors, and who imports whom, read from the imports.

uv run python scripts/architecture.py
"""

import ast
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"
AROUND = ("tasks", "flows")
"""What stands around the core and is drawn with it."""
WIDTH, BOX_HEIGHT, FLOOR, GAP = 1280.0, 62.0, 112.0, 14.0
LETTERS_A_LINE = 0.155
"""Letters of the small text for each pixel of a box's width."""


def modules() -> dict[str, Path]:
    """Dotted name -> file."""
    files = [path for folder in ("zk0", *AROUND) for path in sorted((ROOT / folder).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    return dict(zip(names, files, strict=True))


def room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if parts[0] == "zk0" and len(parts) > 1 else parts[0]


def arrows() -> "nx.DiGraph[str]":
    """Room -> rooms that it imports; the front door `zk0/__init__.py` is left out."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name, path in modules().items():
        if name == "zk0":
            continue
        graph.add_node(room(name))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            wanted = [f"zk0.{alias.name}" for alias in node.names] if node.module == "zk0" else [node.module]
            for other in wanted:
                if other.split(".")[0] in ("zk0", *AROUND) and room(other) != room(name):
                    graph.add_edge(room(name), room(other))
    return graph


def sentence(name: str) -> str:
    """The first line of a room's docstring."""
    path = next(
        path
        for path in (ROOT / name / "__init__.py", ROOT / "zk0" / name / "__init__.py", ROOT / "zk0" / f"{name}.py")
        if path.is_file()
    )
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]


def floors(graph: "nx.DiGraph[str]") -> list[list[str]]:
    """From the ground up: a room stands above all that it imports."""
    return [sorted(rooms) for rooms in nx.topological_generations(graph.reverse())]


def lines(text: str, letters: int) -> list[str]:
    """Text broken for a box: two lines, the second cut."""
    words, first = text.split(), ""
    while words and len(first) + len(words[0]) < letters:
        first += ("" if not first else " ") + words.pop(0)
    rest = " ".join(words)
    return [first, rest if len(rest) <= letters else rest[: letters - 1].rsplit(" ", 1)[0] + " …"]


def places(levels: list[list[str]]) -> dict[str, tuple[float, float, float]]:
    """Room -> left, top and width of its box."""
    found: dict[str, tuple[float, float, float]] = {}
    for level, rooms in enumerate(levels):
        width = min(300.0, (WIDTH - GAP * (len(rooms) + 1)) / len(rooms))
        left = (WIDTH - len(rooms) * width - (len(rooms) - 1) * GAP) / 2
        top = GAP + (len(levels) - 1 - level) * FLOOR
        for number, name in enumerate(rooms):
            found[name] = (left + number * (width + GAP), top, width)
    return found


def box(name: str, left: float, top: float, width: float) -> str:
    colour = "#fdf1dc" if name in AROUND or name == "cli" else "#e8f1fa"
    middle, letters = left + width / 2, int(width * LETTERS_A_LINE)
    parts = [
        (
            f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{BOX_HEIGHT}" rx="6" fill="{colour}" '
            'stroke="#345"/>'
        ),
        _text(name, middle, top + 19, 'font-size="15" font-weight="bold"'),
    ]
    for number, text in enumerate(lines(sentence(name), letters)):
        parts.append(_text(text, middle, top + 36 + 14 * number, 'font-size="11" fill="#333"'))
    return "\n".join(parts)


def _text(words: str, middle: float, top: float, style: str) -> str:
    return f'<text x="{middle:.0f}" y="{top:.0f}" {style} text-anchor="middle">{escape(words)}</text>'


def line(source: tuple[float, float, float], target: tuple[float, float, float]) -> str:
    x, y = source[0] + source[2] / 2, source[1] + BOX_HEIGHT
    to_x, to_y = target[0] + target[2] / 2, target[1]
    return (
        f'<path d="M{x:.0f},{y:.0f} C{x:.0f},{y + 30:.0f} {to_x:.0f},{to_y - 30:.0f} {to_x:.0f},{to_y:.0f}" '
        'fill="none" stroke="#8496a8" stroke-width="1.1"/>'
    )


def draw(edges: Iterable[tuple[str, str]], at: Mapping[str, tuple[float, float, float]], height: float) -> str:
    """The picture as SVG."""
    body = [line(at[source], at[target]) for source, target in sorted(edges)]
    body += [box(name, *place) for name, place in sorted(at.items())]
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {height:.0f}" '
                'font-family="Helvetica, Arial, sans-serif">'
            ),
            f'<rect width="{WIDTH:.0f}" height="{height:.0f}" fill="white"/>',
            *body,
            "</svg>\n",
        ]
    )


def picture() -> str:
    """The whole picture; arrows that follow from others are left out."""
    graph = arrows()
    levels = floors(graph)
    return draw(nx.transitive_reduction(graph).edges, places(levels), GAP * 2 + (len(levels) - 1) * FLOOR + BOX_HEIGHT)


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    print(f"written: {PICTURE}")
