"""Training of the adapter: seeded, resumable, minutes to an hour on one core."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from qaicl.errors import BadDatasetError
from qaicl.oracle.sentiment.adapter import AdapterCard, base_digest, save
from qaicl.oracle.sentiment.dataset import LABELS, Example, headlines, read
from qaicl.oracle.sentiment.network import Classifier, adapt, load_encoder, merge, trained_tensors
from qaicl.oracle.sentiment.text import clean
from qaicl.oracle.sentiment.tokens import Encoding, pad


class Recipe(msgspec.Struct, frozen=True):
    """Everything that shapes a training run; its digest names the run's checkpoint."""

    seed: int = 7
    epochs: int = 3
    batch: int = 32
    rank: int = 32
    alpha: float = 32.0
    adapter_rate: float = 1e-3
    head_rate: float = 2e-3
    weight_decay: float = 0.01
    warm_up: float = 0.06
    """Share of the steps over which the learning rate rises; afterwards it falls linearly to zero."""
    smoothing: float = 0.05
    calibration: float = 0.1
    """Share of the examples kept back to calibrate with."""


class Progress(msgspec.Struct, frozen=True):
    """Where a run stands."""

    step: int
    steps: int
    loss: float


CHECKPOINT_EVERY = 50

HEADLINE_REPEATS = 3
"""How often an epoch sees each of the project's headlines: they are a tenth of the tweets in number."""


def corpus(tweets: Path) -> list[Example]:
    """What the shipped adapter is trained on: a file of labelled tweets and the project's training headlines."""
    return read(tweets) + headlines("train") * HEADLINE_REPEATS


def split(examples: Sequence[Example], recipe: Recipe) -> tuple[list[Example], list[Example]]:
    """(training, calibration). A text's digest decides, so that a repeated text never lands on both sides."""
    training: list[Example] = []
    calibration: list[Example] = []
    for example in examples:
        digest = hashlib.sha256(f"{recipe.seed}\n{clean(example.text).casefold()}".encode()).digest()
        share = int.from_bytes(digest[:4], "big") / 2**32
        (calibration if share < recipe.calibration else training).append(example)
    return training, calibration


def batches(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """Shuffled batches of indices in which the texts are about equally long, so that little padding is computed."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    pool = size * 16
    cut: list[list[int]] = []
    for start in range(0, len(order), pool):
        part = sorted(order[start : start + pool], key=lambda index: lengths[index])
        cut += [part[i : i + size] for i in range(0, len(part), size)]
    return [cut[i] for i in torch.randperm(len(cut), generator=generator).tolist()]


def class_weights(labels: Sequence[int]) -> Tensor:
    """One over the square root of each class's share, scaled to a mean of one over the examples.

    Full balancing would trade too many neutral texts for the rare classes.
    """
    counts = torch.bincount(torch.tensor(labels), minlength=len(LABELS)).clamp_min(1).float()
    weights = counts.rsqrt()
    return weights / ((weights * counts).sum() / counts.sum())


def calibrate(logits: Tensor, labels: Tensor) -> tuple[float, tuple[float, float, float]]:
    """Temperature and bias that minimise the log loss of ``softmax(logits / temperature + bias)``.

    Bias-corrected temperature scaling (Guo et al. 2017, arXiv:1706.04599; Alexandari et al. 2020, arXiv:1901.06852).
    The bias, which sums to zero, takes back the shift towards rare classes that the class weights cause.
    """
    log_temperature = torch.zeros(1, requires_grad=True)
    bias = torch.zeros(len(LABELS), requires_grad=True)
    optimiser = torch.optim.LBFGS([log_temperature, bias], max_iter=200)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(logits / log_temperature.exp() + bias, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    first, second, third = (bias - bias.mean()).detach().tolist()
    return float(log_temperature.detach().exp().clamp(0.25, 10.0)), (first, second, third)


def train(
    base: Path,
    examples: Sequence[Example],
    recipe: Recipe,
    target: Path,
    *,
    report: Callable[[Progress], None] = lambda progress: None,
    stop_after: int | None = None,
) -> AdapterCard | None:
    """Train an adapter and write it to ``target``.

    A checkpoint beside ``target`` is written every `CHECKPOINT_EVERY` steps and at an interruption; the same call
    goes on from it and ends with the same adapter as an undisturbed run. It is removed at the end.

    Args:
        base: the base encoder's model directory.
        stop_after: end after this many steps of this call, leaving the checkpoint; None runs to the end.

    Returns:
        The adapter's card, or None where ``stop_after`` ended the call.

    Raises:
        BadDatasetError: a label is missing from the examples.
    """
    training, calibration = split(examples, recipe)
    for label in LABELS:
        if not any(example.label == label for example in training):
            raise BadDatasetError("nothing to learn from", why=f"no text is labelled {label}", fix="add examples")
    if not calibration:
        raise BadDatasetError("too few examples", why="none is left to calibrate with", fix="add examples")
    encoding = Encoding(base)
    ids = encoding.ids([clean(example.text) for example in training])
    labels = [LABELS.index(example.label) for example in training]

    torch.manual_seed(recipe.seed)
    encoder, width = load_encoder(base)
    adapt(encoder, recipe.rank, recipe.alpha)
    model = Classifier(encoder, width, len(LABELS))
    head = list(model.head.parameters())
    low_rank = [value for value in encoder.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(
        [{"params": low_rank, "lr": recipe.adapter_rate}, {"params": head, "lr": recipe.head_rate}],
        weight_decay=recipe.weight_decay,
    )
    plan = [
        batch
        for epoch in range(recipe.epochs)
        for batch in batches([len(row) for row in ids], recipe.batch, recipe.seed * 1000 + epoch)
    ]
    rise = max(1, round(recipe.warm_up * len(plan)))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / rise, max(0.0, (len(plan) - step) / max(1, len(plan) - rise)))
    )
    loss_of = nn.CrossEntropyLoss(weight=class_weights(labels), label_smoothing=recipe.smoothing)

    run = _digest(base, examples, recipe)
    checkpoint = target.with_name(target.name + ".checkpoint")
    first = _resume(checkpoint, run, model, optimiser, schedule)

    def keep(step: int) -> None:
        state = {
            "run": run,
            "step": step,
            "model": trained_tensors(model),
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
        }
        partial = checkpoint.with_name(checkpoint.name + ".partial")
        torch.save(state, partial)
        partial.replace(checkpoint)

    model.train()
    done = first
    try:
        for step in range(first, len(plan)):
            torch.manual_seed(recipe.seed * 1_000_003 + step)  # dropout depends on the step alone: resuming repeats it
            batch = plan[step]
            inputs, mask = pad([ids[index] for index in batch])
            loss = loss_of(model(inputs, mask), torch.tensor([labels[index] for index in batch]))
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(low_rank + head, 1.0)
            optimiser.step()
            schedule.step()
            done = step + 1
            report(Progress(done, len(plan), float(loss.detach())))
            if done % CHECKPOINT_EVERY == 0:
                keep(done)
            if stop_after is not None and done - first >= stop_after and done < len(plan):
                keep(done)
                return None
    except KeyboardInterrupt:
        keep(done)
        raise

    tensors = {name: value.half() for name, value in trained_tensors(model).items()}
    scale, bias = _calibration(base, tensors, recipe, encoding, calibration)
    card = AdapterCard(
        rank=recipe.rank,
        alpha=recipe.alpha,
        temperature=scale,
        bias=bias,
        base=base_digest(base),
        recipe=msgspec.json.encode(recipe).decode(),
        data=f"{len(training)} training and {len(calibration)} calibration texts",
        run=run,
    )
    save(target, tensors, card)
    checkpoint.unlink(missing_ok=True)
    return card


def _calibration(
    base: Path, tensors: dict[str, Tensor], recipe: Recipe, encoding: Encoding, examples: Sequence[Example]
) -> tuple[float, tuple[float, float, float]]:
    """`calibrate` on the adapter as it is shipped: float16, merged."""
    encoder, width = load_encoder(base)
    model = Classifier(encoder, width, len(LABELS))
    merge(model, tensors, recipe.alpha / recipe.rank)
    logits = evaluate(model, encoding.ids([clean(example.text) for example in examples]))
    return calibrate(logits, torch.tensor([LABELS.index(example.label) for example in examples]))


def evaluate(model: Classifier, rows: Sequence[Sequence[int]], batch: int = 64) -> Tensor:
    """Logits (rows, classes) in the rows' order, without dropout; equally long rows share a batch."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    logits = torch.zeros(len(rows), model.head.out_features)
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            logits[part] = model(*pad([rows[index] for index in part]))
    return logits


def _digest(base: Path, examples: Sequence[Example], recipe: Recipe) -> str:
    """What a run depends on: base model, data, recipe. 16 hex digits."""
    digest = hashlib.sha256(base_digest(base).encode())
    digest.update(msgspec.json.encode(recipe))
    for example in examples:
        digest.update(msgspec.json.encode((example.text, example.label)))
    return digest.hexdigest()[:16]


def _resume(
    checkpoint: Path,
    run: str,
    model: Classifier,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> int:
    """The step to go on with: 0 where there is no checkpoint of this very run."""
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    if state["run"] != run:
        return 0
    model.load_state_dict(state["model"], strict=False)
    optimiser.load_state_dict(state["optimiser"])
    schedule.load_state_dict(state["schedule"])
    return int(state["step"])
