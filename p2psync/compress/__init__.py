"""Where models shrink: a checkpoint and a recipe become engine directories. Never needs the network half.

What only reads (recipes, quality reports, the gate) is here and loads without torch. ``p2psync.compress.build`` does
the work and needs the extra ``compress``.
"""

from p2psync.compress.quality import Report, gate, read_report
from p2psync.compress.recipe import Recipe, parse_recipe, read_recipe

__all__ = ["Recipe", "Report", "gate", "parse_recipe", "read_recipe", "read_report"]
