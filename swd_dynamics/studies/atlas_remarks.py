"""What is surprising in the atlases, in words; a remark is written on the page only while the measurements agree."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from swd_dynamics.auditing.atlas import Atlas


@dataclass(frozen=True)
class Remark:
    """A remark, and what it needs: the kinds of some optimizers, and what becomes of their decay in bfloat16.

    Examples
    --------
    >>> from swd_dynamics.auditing.atlas import AtlasEntry
    >>> found = Atlas("mine", {}, (AtlasEntry("Adam", {"kind": "L2"}),))
    >>> Remark("", {"Adam": "L2"}).holds(found), Remark("", {"Adam": "L2"}, {"Adam": "kept"}).holds(found)
    (True, False)
    """

    text: str
    kinds: Mapping[str, str] = field(default_factory=dict)
    bfloat16: Mapping[str, str] = field(default_factory=dict)

    def holds(self, found: Atlas) -> bool:
        """Whether the atlas has what the remark needs."""
        entries = {entry.name: entry for entry in found.entries}
        wanted = [*self.kinds, *self.bfloat16]
        return all(name in entries for name in wanted) and (
            all(entries[name].kind == kind for name, kind in self.kinds.items())
            and all(entries[name].bfloat16 == word for name, word in self.bfloat16.items())
        )


def _alike(value: str, *names: str) -> dict[str, str]:
    return dict.fromkeys(names, value)


ATLAS_REMARKS: Mapping[str, tuple[Remark, ...]] = {
    "torch.optim": (
        Remark(
            "**AdamW, Muon and Adafactor have no weak decay in bfloat16.** They multiply the weights by 1 − ηλ"
            " and round, before the update is added. Adam, SGD and the other optimizers with L2 keep such decay,"
            " because λθ joins the gradient and is rounded with the update. `AdamW(fused=True)` keeps it too: it"
            " rounds once. The atlas uses the default of the CPU, which is not fused; the default of a GPU,"
            " `foreach`, loses it as well.",
            bfloat16=_alike("lost", "AdamW", "Muon", "Adafactor") | _alike("kept", "Adam", "SGD"),
        ),
        Remark(
            "**Adadelta loses its L2 decay in bfloat16 together with everything else**: with this η its updates"
            " are smaller than half a digit, so that no weight moves.",
            {"Adadelta": "L2"},
            {"Adadelta": "lost"},
        ),
        Remark(
            "**The median of Adam's L2 decay is ηλ here, which means nothing**: the gradients have a size of"
            " about 1 in the median. R is much larger for the weights with small gradients than for those with"
            " large ones.",
            {"Adam": "L2"},
        ),
        Remark(
            "**The decay of Muon follows `lr` alone, while its steps follow the `lr` that is adjusted to the"
            " shape of the matrix.** So R/η_eff differs from matrix to matrix. Its Newton–Schulz iteration runs in"
            " bfloat16 and rounds small changes of a gradient away; η_eff is measured with larger changes.",
            {"Muon": "decoupled"},
        ),
        Remark("**Rprop has no weight decay at all**, not even an argument for it.", {"Rprop": "none"}),
    ),
    "pytorch_optimizer": (
        Remark(
            "**FAdam divides the decay by each weight's own √v**, as its paper says (arXiv 2405.12807). It is the"
            " only preconditioned decay here. It was run in float32, because it fails with float64.",
            {"FAdam": "preconditioned"},
        ),
        Remark(
            "**AdamC is plain decoupled decay.** The corrected decay of its paper, R = λη²/η_max (arXiv"
            " 2506.02285), acts only in parameter groups with `normalized=True`, which the user must mark. With"
            " such a group the audit says *corrected*.",
            {"AdamC": "decoupled"},
        ),
        Remark(
            "**AdamS is the stable decay of Xie et al.** (arXiv 2011.11152), not the AdamS of arXiv 2505.16363.",
            {"AdamS": "stable"},
        ),
        Remark(
            "**RAdam is decoupled, and torch's RAdam is L2**: λ cannot be taken from one to the other.",
            {"RAdam": "decoupled"},
        ),
        Remark(
            "**StableAdamW loses weak decay in bfloat16 in spite of `kahan_sum=True`.** The compensated sum is of"
            " the updates alone; the weights are multiplied by 1 − ηλ and rounded before.",
            bfloat16={"StableAdamW": "lost"},
        ),
        Remark(
            "**Of the decoupled optimizers only FlashAdamW and Kron keep weak decay in bfloat16.** FlashAdamW stores"
            " the digits that a bfloat16 drops, and Kron adds λθ to its update before it subtracts η times the sum.",
            _alike("decoupled", "FlashAdamW", "Kron"),
            _alike("kept", "FlashAdamW", "Kron") | _alike("lost", "AdamC", "Lion", "Muon", "Adan", "SOAP", "Yogi"),
        ),
        Remark(
            "**FlashAdamW takes an enormous step long after a spike**: its state has 8 bits, with one scale for many"
            " weights. When the gradient of a weight is exactly 0, its v may be rounded to 0 while its m is not.",
            {"FlashAdamW": "decoupled"},
        ),
        Remark(
            "**Ranger has half the decay that its arguments say**, R = ½ηλ: every sixth step returns half of the"
            " way (lookahead with α = ½), and with it half of the decay.",
            {"Ranger": "other"},
        ),
        Remark(
            "**SPlus multiplies η, and so its decay, by 2/(rows + columns) for a matrix, and by a constant of"
            " .001 for a vector**. MARS has an η of its own for vectors (`lr_1d`), which also multiplies their"
            " decay.",
            {"SPlus": "other", "MARS": "other"},
        ),
        Remark(
            "**The D-Adaptation optimizers and Prodigy hardly decay at first**: R = ηλd, and their step size d"
            " begins at 10⁻⁶.",
            {"Prodigy": "decoupled", "DAdaptAdam": "L2"},
        ),
        Remark(
            "**ScheduleFreeAdamW is not decoupled as it stands**: R/ηλ of the weights of the model, which are an"
            " average, changes in the course of the run.",
            {"ScheduleFreeAdamW": "other"},
        ),
        Remark(
            "**In the Muon family only the direction differs, not the decay**: R = ηλ for matrices and, with"
            " `adamw_wd`, for vectors. They were made from groups with `use_muon`.",
            _alike("decoupled", "Muon", "AdaMuon", "AdaGO", "MuonClip", "NorMuon"),
        ),
    ),
    "zij": (
        Remark(
            "**LaProp and AdaBoundW leave η out of their decay**: R = λ, so that λ = .1 removes a tenth of the"
            " weights in every step. A λ of AdamW would be a hundred to a thousand times too strong here.",
            _alike("independent", "LaProp", "AdaBoundW"),
        ),
        Remark(
            "**AdEMAMix and MARS keep weak decay in bfloat16 although they are decoupled**: λθ is added to the"
            " update, and the sum is rounded with the weights once.",
            _alike("decoupled", "AdEMAMix", "MARS"),
            _alike("kept", "AdEMAMix", "MARS"),
        ),
        Remark(
            "**FAdam is preconditioned here, too**, in an implementation of its own.",
            {"FAdam": "preconditioned"},
        ),
    ),
}
