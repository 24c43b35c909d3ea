"""The gradients of a step as they were before the step, which may write into them."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from swd_dynamics.tensors.versions import version

WRITTEN = "a step wrote into gradients of which the probe had no copy"


class UsedGradients:
    """Keeps the gradients that a step uses until the step was taken.

    A copy is kept only if steps are known to write into their gradients, or if that is not known
    yet: then the first step shows it. If later a step writes where none did before, its gradients
    are unknown, and the next steps have copies.

    Parameters
    ----------
    writes : iterable of (bool or None)
        What is known of each parameter group: whether a step writes into its gradients.

    Examples
    --------
    >>> import torch
    >>> used, gradient = UsedGradients([None]), torch.ones(1)
    >>> used.keep([gradient])
    >>> _ = gradient.add_(1)
    >>> used.taken()
    [tensor([1.])]
    """

    def __init__(self, writes: Iterable[bool | None]):
        known = set(writes)
        self.writes = True if True in known else None if None in known else False
        self.reasons: set[str] = set()  # why the gradients of some steps are unknown
        self._gradients: Sequence[Tensor | None] = []
        self._versions: list[int | None] = []
        self._copies: Sequence[Tensor | None] | None = None

    def keep(self, gradients: Sequence[Tensor | None]) -> None:
        """Keep the gradients of the step that begins."""
        self._gradients = gradients
        self._versions = [version(gradient) for gradient in gradients]
        self._copies = None
        if self.writes is not False:
            self._copies = [None if each is None else each.clone() for each in gradients]

    def taken(self) -> Sequence[Tensor | None]:
        """The gradients that the step used; None where there are none, or they are unknown."""
        before, copies = self._gradients, self._copies
        self._gradients, self._copies = [], None
        written = [version(each) != seen for each, seen in zip(before, self._versions, strict=True)]
        has_shown = any(each is not None for each in before)
        if any(written) or (self.writes is None and has_shown):
            self.writes = any(written)
        if copies is not None:
            return copies
        if any(written):
            self.reasons.add(WRITTEN)
        pairs = zip(before, written, strict=True)
        return [None if is_written else each for each, is_written in pairs]
