"""Kernels stored without their zeros come back equal, and damaged ones are refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoprune.sparse_storage import packed, unpacked


def kernel(*shape: int, share: float, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a kernel of which about `share` is not zero."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(shape, generator=generator)
    return (made * (torch.rand(shape, generator=generator) < share)).to(dtype)


def bytes_of(state: dict[str, Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in state.values())


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=4),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
@settings(deadline=None, max_examples=60)
def test_what_is_packed_comes_back_equal(
    shape: list[int], share: float, dtype: torch.dtype
) -> None:
    state = {"a.weight": kernel(*shape, share=share, dtype=dtype), "a.bias": torch.zeros(3)}
    state["count"] = torch.tensor(7)
    found = unpacked(packed(state))
    assert found.keys() == state.keys()
    for name, each in state.items():
        assert found[name].dtype == each.dtype
        assert torch.equal(found[name], each)


def test_a_tenth_of_the_weights_takes_a_tenth_and_a_bit_for_each() -> None:
    whole = kernel(64, 32, 3, 3, share=0.1)
    stored = packed({"w": whole, "dense": torch.ones(8, 8), "bias": torch.zeros(64)})
    assert stored.keys() == {"w:values", "w:bits", "w:shape", "dense", "bias"}
    values = int((whole != 0).sum())
    own = {name: each for name, each in stored.items() if name.startswith("w:")}
    assert bytes_of(own) == 4 * values + whole.numel() // 8 + 8 * 4
    assert torch.equal(stored["w:values"], whole.flatten()[whole.flatten() != 0])


def test_what_is_hardly_smaller_is_left_as_it_is() -> None:
    for share, is_packed in ((0.95, False), (0.5, True)):
        assert ("w:values" in packed({"w": kernel(64, 64, share=share)})) == is_packed
    for whole in (torch.zeros(4, 4, dtype=torch.int64), torch.zeros(0, 4)):
        assert list(packed({"w": whole})) == ["w"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w:bits": None}, "w is stored without one of values, bits, shape"),
        ({"w:shape": torch.tensor([2**40, 8])}, "cannot have 8 bytes of bits"),
        ({"w:shape": torch.tensor([-8, -8])}, "cannot have"),
        ({"w:shape": torch.tensor([], dtype=torch.int64)}, "cannot have"),
        ({"w:bits": torch.zeros(8)}, "cannot have"),
        ({"w:bits": torch.zeros(9, dtype=torch.uint8)}, "cannot have 9 bytes"),
        ({"w:values": torch.ones(3)}, "3 values for"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Tensor | None], message: str) -> None:
    stored = {**packed({"w": kernel(8, 8, share=0.3)}), **change}
    with pytest.raises(ValueError, match=message):
        unpacked({name: each for name, each in stored.items() if each is not None})
