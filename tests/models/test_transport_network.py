"""TransportNet: shapes, variants of Table 3, gradients through the match, any pair of backbones."""

from dataclasses import replace

import pytest
import torch

from matchcut.errors import ModelError
from matchcut.models.base import AutomaticModel, GuidedModel
from matchcut.models.transport_net import (
    ARCHITECTURES,
    PlacedSinkhorn,
    TransportNet,
    TransportNetArchitecture,
    build_transport_net,
    place_code,
)
from matchcut.models.transport_net.network import _layer

TINY = TransportNetArchitecture("resnet18", "resnet18", width=16, project=16, iterations=3)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_transport_net(TINY).eval()


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (50, 70)])
def test_probability_of_any_size(network, size):
    image, flow = torch.rand(2, 3, *size), torch.rand(2, 3, *size)
    with torch.no_grad():
        found = network.probability(image, flow)
        mask, edge = network(image, flow)
        alone = network.probability(image[1:], flow[1:])
    assert found.shape == mask.shape == edge.shape == (2, 1, -(-size[0] // 4), -(-size[1] // 4))
    assert found.min() >= 0 and found.max() <= 1
    torch.testing.assert_close(found[1:], alone, atol=1e-5, rtol=1e-4)  # items of a batch know nothing of each other


def test_it_is_an_automatic_model_and_no_guided_one(network):
    assert isinstance(network, AutomaticModel) and not isinstance(network, GuidedModel)


@pytest.mark.parametrize("matching", ["none", "full", "long", "short", "long-short"])
@pytest.mark.parametrize("residual", [False, True])
def test_rows_of_table_3(matching, residual):
    torch.manual_seed(0)
    network = build_transport_net(replace(TINY, matching=matching, residual=residual)).train()
    assert len(network.layers) == (0 if matching == "none" else 3)
    image, flow = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    mask, edge = network(image, flow)
    (mask.mean() + edge.mean()).backward()
    for name, one in network.named_parameters():
        assert one.grad is not None and one.grad.isfinite().all(), name


def test_of_the_backbones_nothing_is_kept_that_is_not_trained():
    network = build_transport_net(ARCHITECTURES["small"]).train()
    network(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64))[0].mean().backward()
    idle = [name for name, one in network.named_parameters() if one.grad is None and not name.startswith("edge.")]
    assert not idle


def test_places_of_the_layers_and_the_edge_head():
    network = build_transport_net(replace(TINY, matched=(4,), edge=False))
    assert list(network.layers) == ["4"]
    assert network(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))[1] is None
    with pytest.raises(ModelError, match=r"matched \(0,\)"):
        build_transport_net(replace(TINY, matched=(0,)))


def test_what_is_matched_is_carried_by_the_layer_of_the_paper(network):
    """Y_a and Y_m of Eq. 10, of the projected streams, with nothing added (no residual)."""
    image, flow = torch.rand(1, 3, 96, 128), torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        streams = network.streams(image, flow)
        for stage, (appearance, motion) in zip(TINY.stages, streams, strict=True):
            assert appearance.shape == motion.shape and appearance.shape[1] == 16
            if stage in TINY.matched:
                found = network._matched(str(stage), appearance, motion)
                expected = network.layers[str(stage)].match(appearance, motion).streams()
                for one, other in zip(found, expected, strict=True):
                    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_two_backbones_of_other_channels_need_a_projection():
    with pytest.raises(ModelError, match="set project"):
        build_transport_net(replace(TINY, motion="resnet50", project=0))
    mixed = build_transport_net(replace(TINY, motion="mobilenetv3_small_050"))
    assert mixed.probability(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)).shape == (1, 1, 16, 16)


def test_the_papers_pair_is_matched_as_it_is():
    form = ARCHITECTURES["paper"]
    assert (form.appearance, form.motion, form.project, form.residual) == ("resnet101", "resnet50", 0, False)
    assert form.groups == 8 and form.matched == (2, 3, 4)


def test_unknown_form():
    with pytest.raises(ModelError, match="unknown architecture 'huge'; there are paper, small"):
        build_transport_net("huge")


def test_settings_are_shared_weights(network):
    other = network.with_settings(size=128, square=True)
    assert isinstance(other, TransportNet) and other.spec.size == 128 and other.spec.square and network.spec.size == 320
    assert other.mask.weight is network.mask.weight


@pytest.mark.parametrize("matching", ["full", "long", "short", "long-short"])
def test_places_decide_between_the_papers_layer_and_leaving_all_where_it_is(matching):
    torch.manual_seed(0)
    maps = torch.randn(2, 8, 6, 12), torch.randn(2, 8, 6, 12)
    placed = PlacedSinkhorn(replace(TINY, matching=matching, place=0.5))
    plain = _layer(replace(TINY, matching=matching))
    with torch.no_grad():
        placed.weight.fill_(0.0)
        for one, other in zip(placed(*maps), plain(*maps), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
        placed.weight.fill_(50.0)
        for one, other in zip(placed(*maps), maps, strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
    placed.weight.data.fill_(0.5)
    sum(one.square().sum() for one in placed(*maps)).backward()
    assert placed.weight.grad.abs() > 0


def test_codes_of_places_are_most_alike_at_the_same_place():
    code = place_code(9, 14)[0].flatten(1)
    products = code.T @ code
    torch.testing.assert_close(products.diagonal(), torch.ones(9 * 14))
    products.fill_diagonal_(0)
    assert products.max() < 0.9
