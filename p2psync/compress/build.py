"""From a checkpoint and a recipe to a directory that publishes: every variant, or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from p2psync.compress import forms, lineage
from p2psync.compress.calibrate import layer_errors
from p2psync.compress.directory import Part, write_description, write_probe, write_settings, write_tokenizer
from p2psync.compress.forms import store_half
from p2psync.compress.half import half
from p2psync.compress.judge import Generate, Judge, measure, simulated
from p2psync.compress.learn import Learned, Tell, chosen_layers, learn
from p2psync.compress.parts import write_part
from p2psync.compress.pipeline import experts, open_pipeline, trace_decoder, trace_experts, trace_text
from p2psync.compress.placing import placed
from p2psync.compress.quality import Report, gate, write_report
from p2psync.compress.quantize import Grid, grid_of, layers_of, quantized
from p2psync.compress.recipe import Recipe, VariantRecipe
from p2psync.compress.trace import Graph
from p2psync.errors import ModelNotFoundError

_SHARED: Final = "shared"
# What variants of one checkpoint have in common: parts by the name of their weights.
_COMMON: Final = {"text": ("text",), "decode": ("decode_first", "decode_next")}


@dataclass(frozen=True, slots=True)
class Options:
    """What a build may be told besides its recipe.

    ``before`` is a directory that a build of the version before made: its scales and kept indices stay. ``device`` is
    a torch device for what runs the pipeline. ``judge`` says whether a clip shows its prompt. ``engine`` opens a
    variant's directory as a node would and makes its clips; without it, they are simulated in torch. ``probe`` records
    what the engine in a directory answers to inputs, as ``probe.json`` holds it; without it, no variant has a probe.
    """

    before: str = ""
    device: str = "cpu"
    judge: Judge | None = None
    engine: Any = None
    probe: Callable[[str, Mapping[str, Any]], Mapping[str, Any]] | None = None


def build(source: str, target: str, recipe: Recipe, *, tell: Tell, options: Options | None = None) -> list[Report]:
    """Make every variant of ``recipe`` from the checkpoint in ``source`` and put them at ``target``.

    Args:
        source: A diffusers pipeline directory.
        target: Must not exist; appears complete, by a rename, or not at all.
        recipe: What to make.
        tell: Called with a line before each stage.
        options: What else to heed.

    Returns:
        The reports of the variants that were measured; each is in its variant's directory too.

    Raises:
        ModelError: the checkpoint cannot be exported, or a variant is under its floor (``QualityError``).
        ModelNotFoundError: ``source``, or the directory of the version before, holds no pipeline.
        StoreUnwritableError: ``target`` exists, or cannot be written.
    """
    with placed(Path(target)) as work:
        return _Build(source, str(work), recipe, tell, options or Options()).run()


@dataclass(slots=True)
class _Made:
    """One variant as far as it is: what was learned, then how it was quantised and which layers that hurts."""

    learned: Learned
    folder: str
    grids: dict[str, Grid] = field(default_factory=dict)
    errors: list[tuple[str, float]] = field(default_factory=list)


class _Build:
    """One run. First everything that runs the pipeline, on the device; then, on the CPU, traces and files."""

    def __init__(self, source: str, work: str, recipe: Recipe, tell: Tell, options: Options) -> None:
        self._source, self._work, self._recipe, self._tell, self._options = source, work, recipe, tell, options
        self._traces: dict[int, tuple[Graph, Graph]] = {}

    def run(self) -> list[Report]:
        recipe, tell = self._recipe, self._tell
        tell(f"loading {self._source}")
        pipeline = open_pipeline(self._source).to(self._options.device)
        made = [_Made(self._learn(pipeline, variant), self._folder(variant.name)) for variant in recipe.variants]
        for one in made:
            one.learned.pipeline.to("cpu")
        write_tokenizer(self._source, self._folder("tokenizer"), pipeline)
        tell("tracing text encoder and decoder")
        shared = self._write_common(self._folder(_SHARED), _SHARED, pipeline)
        for one in made:
            self._write(one, pipeline, shared)
        needs = {one.learned.variant.name: self._bytes(one) for one in made}
        for one in made:
            self._record(one)
        write_settings(self._work, recipe, needs)
        return self._measure(made) if recipe.quality.prompts else []

    def _learn(self, pipeline: Any, variant: VariantRecipe) -> Learned:
        if variant.source:
            path = os.path.join(self._recipe.directory, variant.source)
            pipeline = open_pipeline(path).to(self._options.device)
        return learn(pipeline, self._recipe, variant, before=self._before(variant), tell=self._tell)

    def _before(self, variant: VariantRecipe) -> str:
        if not self._options.before:
            return ""
        path = os.path.join(self._options.before, variant.name)
        if not os.path.isdir(path):
            raise ModelNotFoundError(f"{self._options.before} has no variant {variant.name}")
        return path

    def _write(self, made: _Made, pipeline: Any, shared: Mapping[str, Part]) -> None:
        variant, own = made.learned.variant, made.learned.pipeline
        self._tell(f"{variant.name}: tracing experts")
        graphs = self._expert_graphs(own)
        self._tell(f"{variant.name}: writing")
        parts = dict(shared)
        if variant.source:
            parts = self._write_common(made.folder, "", own, pipeline, shared)
        for name, graph in graphs.items():
            parts[name] = self._write_expert(made, name, graph)
        if made.learned.kept:
            lineage.write_kept(made.folder, made.learned.kept)
        write_description(made.folder, own, self._recipe, variant, parts)

    def _record(self, made: _Made) -> None:
        recipe = self._recipe
        prompts = (*recipe.quality.prompts, *recipe.calibration.prompts)
        if self._options.probe is None or not prompts:
            return
        self._tell(f"{made.learned.variant.name}: recording its golden probe")
        inputs = {"prompt": prompts[0], "seed": recipe.quality.seed}
        write_probe(made.folder, self._options.probe(made.folder, inputs))

    def _expert_graphs(self, pipeline: Any) -> dict[str, Graph]:
        key = id(pipeline.transformer)
        if key not in self._traces:
            self._traces[key] = trace_experts(pipeline)
        return dict(zip(experts(pipeline), self._traces[key], strict=False))

    def _write_expert(self, made: _Made, name: str, graph: Graph) -> Part:
        """The portable skeleton (INT8: around zero, as TensorRT wants it), and those of ONNX Runtime's own operators.

        ``ort-cuda`` has none in an INT8 variant: it would widen the codes and be slower than float16.
        """
        precision, plain, single = made.learned.variant.precision, forms.portable(graph), forms.fused(graph)
        if precision == "int8":
            grid = self._grid(made, name, plain)
            layers = list(grid.scales)
            plain, single = (quantized(g, layers, grid, signed=s) for g, s in ((plain, True), (single, False)))
        files = (
            {"": plain, "cpu": single} if precision == "fp32" else {"": store_half(plain), "cpu": store_half(single)}
        )
        if precision != "int8":
            files["cuda"] = single if precision == "fp32" else half(forms.fused(graph))
        names = {form: f"{name}.{form}.onnx" if form else f"{name}.onnx" for form in files}
        written = write_part(made.folder, f"{name}.safetensors", {names[form]: g for form, g in files.items()})
        others = {f"ort-{form}": written[file] for form, file in names.items() if form}
        return Part("", written[names[""]], others)

    def _grid(self, made: _Made, name: str, plain: Graph) -> Grid:
        learned = made.learned
        layers = chosen_layers(layers_of(plain), learned.variant)
        before = self._before(learned.variant)
        seen = learned.calibrated[name]
        grid = grid_of(plain, layers, seen.ranges, lineage.read_grid(before, name) if before else None)
        made.grids[name] = grid
        self._tell(f"{learned.variant.name}: {name}: {len(layers)} layers, each alone")
        errors = layer_errors(experts(learned.pipeline)[name], seen.calls, layers, grid)
        made.errors += [(f"{name}.{layer}", error) for layer, error in errors.items()]
        made.errors.sort(key=lambda item: -item[1])
        return grid

    def _write_common(
        self, folder: str, name: str, own: Any, first: Any = None, shared: Mapping[str, Part] | None = None
    ) -> dict[str, Part]:
        """Text encoder and decoder of ``own``; where they equal those of ``first``, its parts in ``shared`` serve."""
        parts: dict[str, Part] = {}
        for weights, names in _COMMON.items():
            module = "text_encoder" if weights == "text" else "vae"
            if first is not None and shared is not None and _equal(getattr(own, module), getattr(first, module)):
                parts |= {part: shared[part] for part in names}
                continue
            traced = (trace_text(own.text_encoder),) if weights == "text" else trace_decoder(own.vae)
            graphs = dict(zip(names, traced, strict=True))
            files = {f"{part}.onnx": store_half(forms.portable(graph)) for part, graph in graphs.items()}
            written = write_part(folder, f"{weights}.safetensors", files)
            parts |= {part: Part(name, written[f"{part}.onnx"], {}) for part in names}
        return parts

    def _measure(self, made: Sequence[_Made]) -> list[Report]:
        by_name = {one.learned.variant.name: one for one in made}
        reference = self._generate(by_name[self._recipe.quality.reference])
        reports = []
        for name, one in by_name.items():
            if name == self._recipe.quality.reference:
                continue
            self._tell(
                f"{name}: comparing {min(len(self._recipe.quality.prompts), self._recipe.quality.clips_max)} clips"
            )
            report = measure(
                self._recipe,
                one.learned.variant,
                reference=reference,
                candidate=self._generate(one),
                layers=one.errors,
                judge=self._options.judge,
            )
            gate(report)
            write_report(one.folder, report)
            reports.append(report)
        return reports

    def _generate(self, made: _Made) -> Generate:
        if self._options.engine is not None:
            return self._options.engine(made.folder)  # type: ignore[no-any-return]
        return simulated(made.learned.pipeline, self._recipe, made.grids)

    def _bytes(self, made: _Made) -> int:
        folders = {made.folder, os.path.join(self._work, _SHARED)}
        files = [os.path.join(folder, file) for folder in folders for file in os.listdir(folder)]
        return sum(os.path.getsize(file) for file in files)

    def _folder(self, name: str) -> str:
        path = os.path.join(self._work, name)
        os.makedirs(path, exist_ok=True)
        return path


def _equal(first: Any, second: Any) -> bool:
    mine, others = first.state_dict(), second.state_dict()
    return mine.keys() == others.keys() and all(value.equal(others[name]) for name, value in mine.items())
