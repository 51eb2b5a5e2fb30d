"""Searches the best settings: mrirecon tune 'optimizer.lr=log(1e-4,1e-1)' 'scheduler=choice(step,cosine)'"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrirecon.command import command

if TYPE_CHECKING:
    from omegaconf import DictConfig


def _space(typed: list[str]) -> list[str]:
    from mrirecon.apps.tuning.grammar import spell_space

    return spell_space(typed)


@command("tune", spell=_space)
def main(cfg: DictConfig) -> int | None:
    from mrirecon.apps.tuning.run import search

    return search(cfg)


if __name__ == "__main__":
    main()
