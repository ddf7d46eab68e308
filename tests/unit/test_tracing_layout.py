"""Operations that move entries: slices, splits, concatenation, padding, shuffles."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.carving import Network, assert_exact, column, entries, lively, places

VECTORS = torch.randn(2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
IMAGES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_slices_at_a_remembered_offset() -> None:
    network = lively(
        Network(
            lambda net, x: net.out(
                torch.cat([net.tail(net.a(x)[:, net.width :]), net.a(x)[:, : net.width]], 1)
            ),
            a=nn.Linear(3, 7),
            tail=nn.Linear(5, 4),
            out=nn.Linear(6, 2),
            width=2,
        )
    )
    groups = assert_exact(network, VECTORS).groups
    assert places(groups) == {
        "a": (2, ["a.weight 0", "a.bias 0", "out.weight 1"]),
        "a:2": (5, ["a.weight 0", "a.bias 0", "tail.weight 1"]),
        "tail": (4, ["tail.weight 0", "tail.bias 0", "out.weight 1"]),
    }
    assert entries(groups, "a", "a.weight", 0) == column(2)
    assert entries(groups, "a", "out.weight", 1) == column(2, 4)
    assert entries(groups, "a:2", "a.weight", 0) == column(5, 2)
    assert entries(groups, "a", "width", -1) == column(2)


def test_a_slice_at_a_literal_offset_keeps_the_entries_before_it() -> None:
    network = lively(
        Network(lambda net, x: net.out(net.a(x)[:, 3:]), a=nn.Linear(3, 7), out=nn.Linear(4, 2))
    )
    groups = assert_exact(network, VECTORS).groups
    assert places(groups) == {"a:2": (4, ["a.weight 0", "a.bias 0", "out.weight 1"])}
    assert groups["a"].is_frozen


def test_a_split_into_remembered_unequal_sizes() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        small, large = net.a(x).split(net.sizes, dim=1)
        return net.small(small) + net.large(large)

    network = lively(
        Network(
            run,
            a=nn.Linear(3, 7),
            small=nn.Linear(2, 2),
            large=nn.Linear(5, 2),
            sizes=(2, 5),
        )
    )
    groups = assert_exact(network, VECTORS).groups
    assert places(groups) == {
        "a": (2, ["a.weight 0", "a.bias 0", "small.weight 1"]),
        "a:2": (5, ["a.weight 0", "a.bias 0", "large.weight 1"]),
    }
    assert entries(groups, "a", "sizes", 0) == column(2)
    assert entries(groups, "a:2", "sizes", 1) == column(5)


def test_chunks_shrink_together() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        value, gate = net.a(x).chunk(2, dim=1)
        return net.out(value * torch.sigmoid(gate))

    network = lively(Network(run, a=nn.Linear(3, 8), out=nn.Linear(4, 2)))
    groups = assert_exact(network, VECTORS).groups
    assert places(groups) == {"a": (4, ["a.weight 0", "a.bias 0", "out.weight 1"])}
    assert entries(groups, "a", "a.weight", 0) == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_pytorchs_own_gate_shrinks_like_chunks() -> None:
    network = lively(
        Network(
            lambda net, x: net.out(functional.glu(net.a(x), dim=1)),
            a=nn.Linear(3, 8),
            out=nn.Linear(4, 2),
        )
    )
    groups = assert_exact(network, VECTORS).groups
    assert groups["a"].is_frozen or entries(groups, "a", "a.weight", 0)[0] == [0, 4]


def test_concatenation_at_offsets_with_an_input_in_between() -> None:
    network = lively(
        Network(
            lambda net, x: net.out(torch.cat([net.a(x), x, net.b(x)], dim=1)),
            a=nn.Conv2d(3, 2, 1),
            b=nn.Conv2d(3, 4, 1),
            out=nn.Conv2d(9, 2, 1),
        )
    )
    groups = assert_exact(network, IMAGES).groups
    assert places(groups) == {
        "a": (2, ["a.weight 0", "a.bias 0", "out.weight 1"]),
        "b": (4, ["b.weight 0", "b.bias 0", "out.weight 1"]),
    }
    assert entries(groups, "b", "out.weight", 1) == column(4, 5)


def test_a_shuffle_has_blocks_and_places_within_them() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        x = net.a(x)
        count, channels, height, width = x.shape
        x = x.view(count, net.blocks, channels // net.blocks, height, width).transpose(1, 2)
        return net.out(x.reshape(count, channels, height, width))

    network = lively(Network(run, a=nn.Conv2d(3, 6, 1), out=nn.Conv2d(6, 2, 1), blocks=2))
    groups = assert_exact(network, IMAGES).groups
    tensors = ["a.weight 0", "a.bias 0", "out.weight 1"]
    assert places(groups) == {"a": (2, tensors), "a:2": (3, tensors)}
    assert entries(groups, "a", "a.weight", 0) == [[0, 1, 2], [3, 4, 5]]
    assert entries(groups, "a", "out.weight", 1) == [[0, 2, 4], [1, 3, 5]]
    assert entries(groups, "a:2", "a.weight", 0) == [[0, 3], [1, 4], [2, 5]]
    assert entries(groups, "a:2", "out.weight", 1) == [[0, 1], [2, 3], [4, 5]]
    assert entries(groups, "a", "blocks", -1) == column(2)


def test_pytorchs_shuffle_counts_its_blocks_itself() -> None:
    network = lively(nn.Sequential(nn.Conv2d(3, 6, 1), nn.ChannelShuffle(2), nn.Conv2d(6, 2, 1)))
    groups = assert_exact(network, IMAGES).groups
    assert [group.units for group in groups.prunable if group.name.startswith("0")] in ([3], [2, 3])


def test_zeros_are_added_to_a_shortcut() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        x = net.stem(x)
        shortcut = functional.pad(x, (0, 0, 0, 0, net.before, net.after))
        return net.out(torch.relu(net.wide(x) + shortcut))

    network = lively(
        Network(
            run,
            stem=nn.Conv2d(3, 4, 1),
            wide=nn.Conv2d(4, 9, 3, padding=1),
            out=nn.Conv2d(9, 2, 1),
            before=2,
            after=3,
        )
    )
    groups = assert_exact(network, IMAGES).groups
    stem = ["stem.weight 0", "stem.bias 0", "wide.weight 1", "wide.weight 0", "wide.bias 0"]
    assert {name: units for name, (units, _) in places(groups).items()} == {"stem": 4, "wide": 5}
    assert sorted(places(groups)["stem"][1]) == sorted([*stem, "out.weight 1"])
    assert entries(groups, "stem", "wide.weight", 0) == column(4, 2)
    assert entries(groups, "wide", "wide.weight", 0) == [[0], [1], [6], [7], [8]]
    assert entries(groups, "wide", "before", -1) == [[0], [1], [-1], [-1], [-1]]
    assert entries(groups, "wide", "after", -1) == [[-1], [-1], [0], [1], [2]]


@pytest.mark.parametrize("both", [1, 2])
def test_as_many_zeros_before_as_after(both: int) -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        x = net.stem(x)
        return net.out(net.wide(x) + functional.pad(x, (0, 0, 0, 0, net.before, net.after)))

    network = lively(
        Network(
            run,
            stem=nn.Conv2d(3, 3, 1),
            wide=nn.Conv2d(3, 3 + 2 * both, 1),
            out=nn.Conv2d(3 + 2 * both, 2, 1),
            before=both,
            after=both,
        )
    )
    groups = assert_exact(network, IMAGES, count=8).groups
    assert {group.name: group.units for group in groups.prunable} == {"stem": 3, "wide": 2 * both}


def test_pixels_around_an_image_change_no_channels() -> None:
    network = lively(
        nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.ZeroPad2d(1), nn.ReflectionPad2d(1), nn.Conv2d(4, 2, 3)
        )
    )
    groups = assert_exact(network, IMAGES).groups
    assert places(groups) == {"0": (4, ["0.weight 0", "0.bias 0", "3.weight 1"])}


def test_channels_that_become_pixels_leave_in_blocks() -> None:
    network = lively(
        nn.Sequential(nn.Conv2d(3, 12, 1), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(3, 2, 1))
    )
    groups = assert_exact(network, IMAGES).groups
    assert places(groups) == {"0": (3, ["0.weight 0", "0.bias 0", "3.weight 1"])}
    assert entries(groups, "0", "0.weight", 0) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert entries(groups, "0", "3.weight", 1) == column(3)


def test_pixels_that_become_channels_are_read_in_blocks() -> None:
    network = lively(nn.Sequential(nn.Conv2d(3, 3, 1), nn.PixelUnshuffle(2), nn.Conv2d(12, 2, 1)))
    groups = assert_exact(network, IMAGES).groups
    assert entries(groups, "0", "2.weight", 1) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_squeeze_and_excitation_gate() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        x = net.a(x)
        gate = net.excite(torch.relu(net.squeeze(x.mean((2, 3)))))
        return net.out(x * torch.sigmoid(gate)[:, :, None, None])

    network = lively(
        Network(
            run,
            a=nn.Conv2d(3, 6, 1),
            squeeze=nn.Linear(6, 2),
            excite=nn.Linear(2, 6),
            out=nn.Conv2d(6, 2, 1),
        )
    )
    groups = assert_exact(network, IMAGES).groups
    assert {name: units for name, (units, _) in places(groups).items()} == {"a": 6, "squeeze": 2}
    assert sorted(places(groups)["a"][1]) == [
        "a.bias 0",
        "a.weight 0",
        "excite.bias 0",
        "excite.weight 0",
        "out.weight 1",
        "squeeze.weight 1",
    ]


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x.relu_().mul_(2.0),
        lambda x: torch.nn.functional.hardswish(x, inplace=True).clamp_(-1, 1),
        lambda x: x.masked_fill_(x < 0, 0.5),
        lambda x: x.add_(x),
        lambda x: torch.where(x > 0, x, x.exp()),
        lambda x: x.flip(3).roll(1, 2),
        lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda x: functional.max_pool2d(x, 2),
        lambda x: x[:, :, :, :1].expand(-1, -1, 4, 4).contiguous(),
        lambda x: x.unbind(3)[1][..., None],
        lambda x: x[:, None].squeeze(1)[:, :, ::2, 1:],
        lambda x: torch.einsum("nchw,nchv->ncwv", x, x),
        lambda x: torch.stack([x, x.tanh()]).sum(0),
        lambda x: x.repeat(1, 1, 2, 1),
        lambda x: x / (1 + torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)),
        lambda x: x - x.mean((2, 3), keepdim=True),
    ],
)
def test_steps_that_leave_channels_alone(step: object) -> None:
    network = lively(
        Network(
            lambda net, x: net.out(net.step(net.a(x))).mean((2, 3)),
            a=nn.Conv2d(3, 4, 1),
            out=nn.Conv2d(4, 2, 1),
            step=step,
        )
    )
    groups = assert_exact(network, IMAGES).groups
    assert places(groups) == {"a": (4, ["a.weight 0", "a.bias 0", "out.weight 1"])}


def test_a_write_into_a_slice_is_exact() -> None:
    def run(net: Network, x: Tensor) -> Tensor:
        x = net.a(x)
        x[:, :2] = torch.tanh(x[:, :2])
        return net.out(x)

    network = lively(Network(run, a=nn.Linear(3, 6), out=nn.Linear(6, 2)))
    assert_exact(network, VECTORS)
    network = lively(Network(run, a=nn.Conv2d(3, 6, 1), out=nn.Conv2d(6, 2, 1)))
    assert_exact(network, IMAGES)
