"""The contract of models as a check that sees dead parts: real masks, and every field that a model says it reads."""

from collections.abc import Iterator

import torch
from samples import sample_for, slices
from torch import Tensor

from mrirecon.models.base import ReconModel, check_model
from mrirecon.physics.sample import FULL_READOUT, Measurement, Sample

NUM_COILS = 3
FACTOR = 1024  # a power of two: rounding is the same, also after a hundred iterations


def check_contract(model: ReconModel) -> None:
    """Raises AssertionError naming what a model does not keep to."""
    check_model(model)
    size = max(32, model.min_size)
    for sample in _samples(model, size):
        _check_answer(model, sample)
        _check_every_field_counts(model, sample)
        _check_units(model, sample)
        _check_rows(model, sample)
    _check_gradients(model, size)


def _samples(model: ReconModel, size: int) -> Iterator[Sample]:
    """Columns and points, an even and an odd size, an oversampled readout, one and several coils."""
    generator = torch.Generator().manual_seed(0)
    for num_coils, w, points in ((NUM_COILS, size + 8, False), (1, size + 5, False), (NUM_COILS, size + 8, True)):
        kspace = torch.randn(2, num_coils, 2 * size, w, dtype=torch.complex64, generator=generator)
        mask = torch.rand(2, 1, 2 * size if points else 1, w, generator=generator) < 0.4
        acs_mask = torch.zeros_like(mask)
        rows = slice(size - 6, size + 6) if points else slice(None)
        acs_mask[..., rows, w // 2 - 6 : w // 2 + 6] = True
        yield sample_for(model, slices(kspace, mask | acs_mask, (size, size + 3), acs_mask=acs_mask))


def _image(model: ReconModel, measurement: Measurement) -> Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return model.eval()(measurement).magnitude


def _check_answer(model: ReconModel, sample: Sample) -> None:
    measurement = sample.measurement
    torch.manual_seed(0)
    with torch.no_grad():
        prediction = model.eval()(measurement)
    y, x = measurement.size
    assert prediction.image.shape == (2, y, x), f"image of shape {tuple(prediction.image.shape)}, wanted {(2, y, x)}"
    assert torch.isfinite(prediction.magnitude).all(), "image that is not finite"
    assert prediction.magnitude.dtype == torch.float32, f"image of {prediction.magnitude.dtype}"
    for name, values in (("kspace", prediction.kspace), ("sens_maps", prediction.sens_maps)):
        if values is not None:
            assert measurement.kspace is not None, f"{name}, but the model does not state that it needs k-space"
            shape = measurement.kspace.shape
            assert values.shape == shape, f"{name} of shape {tuple(values.shape)}, wanted {tuple(shape)}"


def _check_every_field_counts(model: ReconModel, sample: Sample) -> None:
    """An answer that stays when a field changes means that the model does not look at it."""
    measurement = sample.measurement
    before = _image(model, measurement)
    changed: dict[str, Tensor] = {}
    if {"kspace", FULL_READOUT} & set(model.needs):
        assert measurement.kspace is not None
        changed["kspace"] = measurement.kspace.roll(1, -2) * 1.5
        changed["mask"] = measurement.mask & measurement.acs_mask
    else:
        changed["zero_filled"] = measurement.zero_filled.flip(-1)
    if "sens_maps" in model.needs and measurement.sens_maps is not None and measurement.sens_maps.shape[1] > 1:
        changed["sens_maps"] = measurement.sens_maps.roll(5, -1)
    for name, values in changed.items():
        after = _image(model, measurement._replace(**{name: values}))  # type: ignore[arg-type]
        assert not torch.allclose(after, before, rtol=1e-3, atol=1e-3), f"the answer ignores {name}"


def _check_units(model: ReconModel, sample: Sample) -> None:
    measurement = sample.measurement
    kspace = measurement.kspace
    larger = measurement._replace(
        kspace=None if kspace is None else FACTOR * kspace, zero_filled=FACTOR * measurement.zero_filled
    )
    once, scaled = _image(model, measurement), _image(model, larger)
    assert torch.allclose(scaled, FACTOR * once, rtol=1e-3, atol=1e-3 * FACTOR), "the answer is in another unit"


def _check_rows(model: ReconModel, sample: Sample) -> None:
    alone = torch.cat([_image(model, sample.rows(slice(n, n + 1)).measurement) for n in range(2)])
    together = _image(model, sample.measurement)  # float32, through the iterations of a solver
    assert torch.allclose(alone, together, rtol=1e-2, atol=1e-3 * float(together.max())), "a slice depends on its batch"


def _check_gradients(model: ReconModel, size: int) -> None:
    parameters = dict(model.named_parameters())
    seen = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for sample in _samples(model, size):
        model.train().zero_grad()
        if not parameters:
            continue
        image = model(sample.measurement).magnitude
        (image * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
        for name, p in parameters.items():
            if p.grad is not None:
                assert torch.isfinite(torch.view_as_real(p.grad) if p.grad.is_complex() else p.grad).all(), (
                    f"the gradient of {name} is not finite"
                )
                seen[name] += p.grad.abs()
    dead = [name for name, total in seen.items() if not total.any()]
    assert not dead, f"no gradient ever reaches {', '.join(dead)}"
