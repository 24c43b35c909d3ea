"""The page of a folder of figures: the committed one, and what any ledger and any folder make of it."""

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from swd_dynamics import studies
from swd_dynamics.cli import app
from swd_dynamics.studies.headlines import HEADLINES
from swd_dynamics.studies.page import BEFORE_OLDER, as_markdown, page
from swd_dynamics.studies.study import PARAGRAPH, SHORT_FORM
from swd_dynamics.verdict import Verdict

FIGURES = Path(__file__).parents[2] / "figures"
COMMITTED = (FIGURES / "README.md").read_text(encoding="utf-8")
AGAIN = (
    "make it again: python -c 'from pathlib import Path; from swd_dynamics.studies.reproduce import write_page;"
    ' write_page(Path("figures"))\''
)
ALL = {"studies": {name: [] for name in studies.MODULES}}


def verdict(**said):
    known = {"name": "half", "claim": "A half is .5", "predicted": 0.5, "measured": 0.5, "allowed": 0.0, "why": "exact"}
    return Verdict(**{**known, "status": "confirmed", **said}).record()


def of_one(folder, **said):
    return page({"studies": {"stability": [verdict(**said)]}}, folder)


def commands(text):
    """What the program is given by each command of a page."""
    lines = re.findall(r"```bash\nswd-dynamics (.*)\n```", text)
    return [app.parse_args(shlex.split(line), exit_on_error=False, print_error=False)[:2] for line in lines]


class Cells(HTMLParser):
    """The texts of a table's rows; a tag within a cell shows as ⟨its name⟩."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True
        else:
            self.handle_data(f"⟨{tag}⟩")

    def handle_endtag(self, tag):
        self.inside &= tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def shown(text):
    """The rows of the first table of a page, as a reader sees them."""
    table = text.split("<summary>The verdicts</summary>\n\n")[1].split("\n\n</details>")[0]
    return Cells(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(table)).rows


def test_the_committed_page_is_of_the_committed_ledger():
    """Assert that figures/README.md is what reproduce would write for the committed ledger."""
    ledger = json.loads((FIGURES / "verdicts.json").read_text(encoding="utf-8"))
    assert page(ledger, FIGURES) == COMMITTED, AGAIN


def test_links_lead_somewhere():
    """Assert that every picture and every relative link of the committed page leads to a file, and each is shown."""
    targets = set(re.findall(r"\]\((?!https?:|#)([^)]+)\)", COMMITTED))
    assert targets >= {path.name for path in FIGURES.glob("*.*g")} | {"verdicts.json"}
    assert [target for target in targets if not (FIGURES / target).is_file()] == []


def test_every_study_has_a_headline():
    """Assert that each study's finding is one or more whole sentences, in the order of the studies."""
    assert list(HEADLINES) == list(studies.MODULES)
    assert [name for name, said in HEADLINES.items() if not re.fullmatch(r"[A-Z].*\S\.", said)] == []


def test_the_contents_link_every_study():
    """Assert that a page opens with a row for each study, linked to its section, and that one study needs no table."""
    contents = COMMITTED.split("\n## ")[0]
    links = re.findall(r"^\| \[([\w-]+)\]\(#([\w-]+)\) \|", contents, flags=re.MULTILINE)
    assert links == [(name, name) for name in studies.MODULES]
    assert set(re.findall(r"^## ([\w-]+)$", COMMITTED, flags=re.MULTILINE)) >= set(studies.MODULES)
    assert "what the full form found" in page({**ALL, "quick": ["stability"]}, Path("figures"))
    assert "| study |" not in page({"studies": {"stability": []}}, Path("figures"))


def test_the_second_part_of_a_caption_opens_on_a_click():
    """Assert that a caption's first part is shown, and its second part is behind a line to click on."""
    shown, more = (" ".join(part.split()) for part in studies.load("stability").caption.split(PARAGRAPH))
    section = COMMITTED.split("\n## stability\n")[1].split("\n## ")[0]
    above, folded = section.split("<details>")[:2]
    assert shown in above and more not in above and more in folded


def test_the_symbols_are_linked_where_their_page_is(tmp_path):
    """Assert that the opening links the page of all symbols relative to the folder, and nothing without that page."""
    folder = tmp_path / "else" / "figures"
    assert "symbols.md" not in page(ALL, folder)
    (tmp_path / "notebooks" / "site").mkdir(parents=True)
    (tmp_path / "notebooks" / "site" / "symbols.md").touch()
    assert "](../../notebooks/site/symbols.md)" in page(ALL, folder).split("## ")[0]


def test_figures_of_a_gpu_machine_are_said_to_be_older(tmp_path):
    """Assert that a folder with the description of a machine says that its figures are of an earlier version."""
    assert "machine.json" not in page(ALL, tmp_path)
    (tmp_path / "machine.json").touch()
    assert "earlier version" in page(ALL, tmp_path).split("## ")[0]


def test_grey_marks_are_explained_for_the_studies_of_the_page(tmp_path):
    """Assert that the key names only studies of the page, and none for older figures, whose marks differ."""
    ledger = {"studies": {"stability": [verdict()], "drop-in": [verdict()]}}
    key = page(ledger, tmp_path).split("## ")[0].split("Grey marks are ")[1].split(". ")[0]
    assert re.findall(r"\(([\w-]+)\)", key) == ["stability", "drop-in"]
    assert "Grey marks" not in page({"studies": {"transformer": [verdict()]}}, tmp_path)
    (tmp_path / "machine.json").touch()
    assert "Grey marks" not in page(ledger, tmp_path)


def test_what_an_older_title_omits_stands_above_its_figure(tmp_path):
    """Assert that the remark on an older figure is the paragraph before it, and only where figures are older."""
    (tmp_path / "transformer.png").touch()
    ledger = {"studies": {"transformer": [verdict()]}}
    assert BEFORE_OLDER["transformer"] not in page(ledger, tmp_path)
    (tmp_path / "machine.json").touch()
    before = page(ledger, tmp_path).split("[![")[0].rstrip()
    assert before.endswith(as_markdown(BEFORE_OLDER["transformer"]))


def test_an_older_figure_links_the_newer_caption(tmp_path):
    """Assert that an older figure links the study on the page above, and only where that folder has its figure."""
    folder = tmp_path / "gpu"
    folder.mkdir()
    (folder / "machine.json").touch()
    ledger = {"studies": {"stability": [verdict()]}}
    assert "../README.md" not in page(ledger, folder)
    (tmp_path / "stability.png").touch()
    assert "](../README.md#stability)" in page(ledger, folder)


def test_a_larger_run_of_a_study_is_linked(tmp_path):
    """Assert that a study's section links the figure in the folder with the study's name."""
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "transformer.png").touch()
    section = page(ALL, tmp_path).split("## transformer")[1].split("## ")[0]
    assert "](transformer/transformer.png)" in section and "](transformer/verdicts.json)" in section


def test_a_study_that_trained_on_a_gpu_says_so(tmp_path):
    """Assert that the page names the card beside the verdicts, and that the command asks for a GPU."""
    ledger = {"studies": {"stability": [verdict()], "drop-in": [verdict()]}, "cards": {"stability": "Card 1"}}
    text = page(ledger, tmp_path)
    assert text.count("Card 1") == 1
    assert "\nswd-dynamics reproduce stability --device cuda" in text
    assert "\nswd-dynamics reproduce drop-in --out" in text


def test_a_caption_stands_below_its_picture(tmp_path):
    """Assert that what a study does not show is said right below its figure."""
    (tmp_path / "drop-in.png").touch()
    paragraphs = page(ALL, tmp_path).split("\n\n")
    below = paragraphs[paragraphs.index("## drop-in") + 5]
    assert (
        "drop-in.png" in paragraphs[paragraphs.index(below) - 1] and "does not show that AdamS trains better" in below
    )


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("place", ["figures", "figures/quick", "my results", "figures/other", "else/quick"])
@pytest.mark.slow
def test_a_command_makes_the_folder_that_it_stands_in(tmp_path, place, quick):
    """Assert that the program takes every command, and writes to this folder if called where the page says."""
    above = (tmp_path / place).parent if place != "figures/quick" else tmp_path
    text = page({**ALL, "quick": list(studies.MODULES) * quick}, tmp_path / place)
    assert f"the folder that contains {(tmp_path / place).relative_to(above).parts[0]}/" in text
    for (_, bound), name in zip(commands(text), studies.MODULES, strict=True):
        asked = bound.arguments
        out = asked.get("out") or Path("figures/quick" if asked.get("quick") else "figures")
        assert (asked["names"], asked.get("quick", False), above / out) == ((name,), quick, tmp_path / place)


@pytest.mark.parametrize("place", ["figures", "results"])
def test_the_atlas_is_shown_where_there_is_one(tmp_path, place):
    """Assert that each package's picture is shown with the command that makes it, and without files there is none."""
    folder = tmp_path / place
    (folder / "atlas").mkdir(parents=True)
    assert "atlas" not in page({"studies": {}}, folder)
    (folder / "atlas" / "torch-optim.png").touch()
    text = page({"studies": {}}, folder)
    assert "](atlas/torch-optim.png)](atlas/torch-optim.png)" in text
    [(_, bound)] = commands(text)
    assert bound.arguments["package"] == "torch.optim"
    assert tmp_path / bound.arguments.get("out", Path("figures/atlas")) == folder / "atlas"


@pytest.mark.parametrize(("status", "mark"), [("refuted", "✗"), ("inconclusive", "?")])
def test_a_finding_is_not_folded_away(tmp_path, status, mark):
    """Assert that what is not confirmed is counted and stands above the fold, with its numbers, step and cause."""
    text = of_one(tmp_path, status=status, measured=0.75, first_departure=3, cause="ε is added")
    open_part = text.split("<details>")[0]
    assert open_part.count(f"1 verdict: {mark} 1 {status}") == len(["all studies", "this study"])
    for said in ("**half**", "A half is .5", "predicted 0.5", "measured 0.75", "step 3", "ε is added"):
        assert said in open_part
    assert "**half**" not in of_one(tmp_path).split("<details>")[0]


def test_all_verdicts_are_counted(tmp_path):
    """Assert that the opening counts the verdicts of all studies, by status."""
    ledger = {"studies": {"stability": [verdict(), verdict(status="refuted")], "drop-in": [verdict()]}}
    assert "3 verdicts: ✓ 2 confirmed, ✗ 1 refuted" in page(ledger, tmp_path).split("## ")[0]


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "–"), (float("nan"), "NaN"), (float("-inf"), "-∞"), (1e-12, "1e-12"), (2, "2"), (">= 10", ">= 10")],
)
def test_every_value_can_be_read(tmp_path, value, said):
    """Assert that numbers, what is no number, and what is missing all show as something."""
    head, row = shown(of_one(tmp_path, measured=value))
    assert dict(zip(head, row, strict=True))["measured"] == said


PIECES = [
    *"aé \\`*_|[]()<>~$#!\n-.1",
    "<b>",
    "<!--",
    "&lt;",
    "&amp;",
    "**a**",
    "~~a~~",
    "_a_",
    "[a](b)",
    "λ_eff",
    "https://a.b",
]


@settings(deadline=None)  # the first example imports a study
@given(st.lists(st.sampled_from(PIECES), min_size=1).map("".join).filter(str.strip))
@pytest.mark.slow
def test_any_words_show_as_they_are(words):
    """Assert that Markdown and HTML in a verdict's words are shown, not obeyed, and break no row."""
    head, row = shown(of_one(Path("nowhere"), why=words))
    assert dict(zip(head, row, strict=True))["why"] == " ".join(words.split())


def test_figures_and_ledger_need_not_match(tmp_path):
    """Assert that a study without verdicts shows its figure, one unknown here its verdicts, and other files nothing."""
    for name in ("stability.png", "stability.svg", "else.png"):
        (tmp_path / name).touch()
    text = page({"studies": {"of yore": [{"name": "one", "status": "confirmed"}]}}, tmp_path)
    assert re.findall(r"^## (.*)", text, flags=re.MULTILINE) == ["stability", "of yore"]
    assert re.findall(r"\]\((\w+\.(?:png|svg))\)", text) == ["stability.png", "stability.svg"]
    assert [bound.arguments["names"] for _, bound in commands(text)] == [("stability",)]
    assert shown(text)[1] == ["✓\xa0confirmed", "⟨strong⟩one: –", "–", "–", "–", "–"]


@pytest.mark.parametrize(("quick", "times"), [([], 0), (["stability"], 1), (["stability", "width"], 1)])
def test_a_page_of_the_short_form_says_whose_numbers_the_captions_have(tmp_path, quick, times):
    """Assert that the page says once that captions have the numbers of the full form, if a study ran in short form."""
    assert page(ALL | {"quick": quick}, tmp_path).count(SHORT_FORM) == times


def test_controls_are_counted_among_their_status(tmp_path):
    """Assert that the opening says how many of the verdicts of each status are negative controls."""
    false = verdict(predicted="must fail", measured="failed", allowed="–")
    ledger = {"studies": {"stability": [verdict(), false, verdict(status="refuted")], "drop-in": [false]}}
    text = page(ledger, tmp_path)
    assert "4 verdicts: ✓ 3 confirmed (2 of them controls), ✗ 1 refuted" in text.split("## ")[0]
    assert "**Outcome:** 1 verdict: ✓ 1 confirmed (1 of them controls)." in text


@pytest.mark.parametrize(("predicted", "said"), [("> 0", "more than 0"), (">= 10", "at least 10")])
def test_a_bound_is_said_in_words(tmp_path, predicted, said):
    """Assert that a prediction that is a bound is words in the table and in the list, which allows nothing besides."""
    text = of_one(tmp_path, predicted=predicted, allowed="any more", status="refuted")
    head, row = shown(text)
    numbers = dict(zip(head, row, strict=True))
    assert (numbers["predicted"], numbers["allowed"]) == (said, "any such")
    assert f"predicted {said}, measured 0.5" in text and "any more" not in text and "allowed any" not in text


def test_a_page_of_the_full_form_explains_the_short_form(tmp_path):
    """Assert that a page says what the short form is, whether or not a study ran in it."""
    assert "short form" in page(ALL, tmp_path).split("## ")[0]
    assert SHORT_FORM not in page(ALL, tmp_path)
