"""The figure style: each decay mode has its colour and marker everywhere, theory is a line, measurements are points."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import matplotlib.style
from matplotlib.figure import Figure

from swd_dynamics.errors import InputError
from swd_dynamics.tables import Table


class Look(NamedTuple):
    """How a decay mode is drawn, and its name in a legend."""

    colour: str
    marker: str
    label: str


# Every mode of DECAYS, and "unknown" for the decay of an optimizer that is not in the catalogue. The colours are greys
# and Okabe & Ito's: they differ for every common form of colour vision, and in lightness when printed in grey.
LOOKS = Table(
    "decay mode",
    none=Look("#666666", "o", "no decay"),
    L2=Look("#D55E00", "s", "L2"),
    decoupled=Look("#0072B2", "^", "decoupled"),
    stable=Look("#009E73", "D", "stable"),
    independent=Look("#56B4E9", "v", "independent"),
    corrected=Look("#CC79A7", "P", "corrected"),
    cautious=Look("#E69F00", "X", "cautious"),
    preconditioned=Look("#882255", "h", "preconditioned"),
    unknown=Look("#000000", "*", "unknown decay"),
)
MODES = [mode for mode in LOOKS if mode != "unknown"]
COLOURS = {mode: LOOKS[mode].colour for mode in MODES}
MARKERS = {mode: LOOKS[mode].marker for mode in MODES}
LABELS = {mode: LOOKS[mode].label for mode in MODES}
MUTED = "#999999"  # for guides, and for curves that are wrong on purpose


def theory(mode: str, **more) -> dict:
    """The style of theory: a line in the colour of its decay mode.

    Examples
    --------
    >>> theory("L2")
    {'color': '#D55E00', 'linestyle': '-', 'label': 'L2, theory'}
    """
    look = LOOKS[mode]
    return {"color": look.colour, "linestyle": "-", "label": f"{look.label}, theory"} | more


def measured(mode: str, **more) -> dict:
    """The style of measurements: points in the colour and with the marker of their decay mode.

    Examples
    --------
    >>> measured("stable", label=None)
    {'color': '#009E73', 'marker': 'D', 'linestyle': 'none', 'label': None}
    """
    look = LOOKS[mode]
    points = {"color": look.colour, "marker": look.marker, "linestyle": "none"}
    return points | {"label": f"{look.label}, measured"} | more


def with_remark(name: str, mode: str) -> str:
    """The name of a run in a legend, with a remark if its decay mode is unknown.

    Examples
    --------
    >>> with_remark("Lion", "unknown"), with_remark("AdamS", "stable")
    ('Lion (unknown decay)', 'AdamS')
    """
    return f"{name} ({LOOKS[mode].label})" if mode == "unknown" else name


@contextmanager
def house_style() -> Iterator[None]:
    """A context in which figures are drawn with the package's style sheet.

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
    """Write a figure as PNG and SVG, with the same bytes from run to run, and return the two paths.

    Parameters
    ----------
    figure : matplotlib Figure
    stem : path without extension (one of .png or .svg is taken off); other dots in the name are kept

    Raises
    ------
    InputError
        If the files cannot be written, the name is empty, or it ends like another kind of picture.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     [path.name for path in write_figure(Figure(figsize=(1, 1)), Path(folder) / "empty.png")]
    ['empty.png', 'empty.svg']
    """
    png, svg = figure_paths(stem)
    try:
        png.parent.mkdir(parents=True, exist_ok=True)
        with house_style():
            figure.savefig(png, metadata={"Software": None})
            figure.savefig(svg, metadata={"Date": None})
    except OSError as error:
        reason = f"{png.parent} is a file" if isinstance(error, FileExistsError) else error.strerror or error
        raise InputError(f"cannot write {png}: {reason}; give another path") from error
    return [png, svg]


def figure_paths(stem: Path) -> tuple[Path, Path]:
    """The paths of a figure's PNG and SVG, from its path without an ending or with one of the two.

    Examples
    --------
    >>> [path.name for path in figure_paths(Path("lr0.01.svg"))]
    ['lr0.01.png', 'lr0.01.svg']
    """
    ending = stem.suffix.lower()
    if ending in (".png", ".svg"):
        stem = stem.with_suffix("")
    elif ending.removeprefix(".") in Figure().canvas.get_supported_filetypes():
        raise InputError(f"a figure is written as .png and .svg, not as {ending}: give a name without an ending")
    if stem.name in ("", ".."):
        raise InputError(f"{str(stem)!r} has no name for a figure: give a path like figures/run, without an ending")
    return stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
