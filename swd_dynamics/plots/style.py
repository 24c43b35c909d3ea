"""The figure style: one colour for each decay mode everywhere, theory as lines, measurements as points."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from io import BytesIO
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

# Okabe & Ito's colours: told apart by every common form of colour vision, and by lightness in print.
COLOURS = {"none": "#666666", "L2": "#D55E00", "decoupled": "#0072B2", "stable": "#009E73"}
MARKERS = {"none": "o", "L2": "s", "decoupled": "^", "stable": "D"}
LABELS = {"none": "no decay", "L2": "L2", "decoupled": "decoupled", "stable": "stable"}
MUTED = "#999999"  # for what is wrong on purpose, and for guides


def theory(mode: str, **more) -> dict:
    """How theory is drawn: a line in the colour of its decay mode.

    Examples
    --------
    >>> theory("L2")
    {'color': '#D55E00', 'linestyle': '-', 'label': 'L2, theory'}
    """
    return {"color": COLOURS[mode], "linestyle": "-", "label": f"{LABELS[mode]}, theory"} | more


def measured(mode: str, **more) -> dict:
    """How measurements are drawn: points in the colour and with the marker of their decay mode.

    Examples
    --------
    >>> measured("stable", label=None)
    {'color': '#009E73', 'marker': 'D', 'linestyle': 'none', 'label': None}
    """
    points = {"color": COLOURS[mode], "marker": MARKERS[mode], "linestyle": "none"}
    return points | {"label": f"{LABELS[mode]}, measured"} | more


@contextmanager
def house_style() -> Iterator[None]:
    """The style sheet, for the figures drawn inside.

    Examples
    --------
    >>> with house_style():
    ...     Figure().dpi
    110.0
    """
    with as_file(files("swd_dynamics.plots") / "swd_dynamics.mplstyle") as sheet, matplotlib.style.context(sheet):
        yield


def figure_png(figure: Figure) -> bytes:
    """A figure as a PNG for a screen, at the figure's own resolution.

    Examples
    --------
    >>> figure_png(Figure(figsize=(1, 1)))[1:4]
    b'PNG'
    """
    buffer = BytesIO()
    with house_style():
        figure.savefig(buffer, format="png", dpi="figure", metadata={"Software": None})
    return buffer.getvalue()


def write_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG, the same bytes from run to run, and return where.

    Parameters
    ----------
    figure : matplotlib Figure
    stem : path without extension; dots in it are kept

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     [path.name for path in write_figure(Figure(figsize=(1, 1)), Path(folder) / "empty")]
    ['empty.png', 'empty.svg']
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg = (stem.with_name(stem.name + ending) for ending in (".png", ".svg"))
    with house_style():
        figure.savefig(png, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None})
    return [png, svg]
