"""A backbone that learns the mean of what it says of a frame and its mirror images."""

import copy

import pytest
import torch

from matchcut.models.mask_vos import MaskVOS, build_mask_vos
from matchcut.models.mask_vos.architecture import MaskVOSArchitecture
from matchcut.training.objectives.mask_vos.flip_distillation import flips_loss, mean_over_flips


@pytest.fixture
def network() -> MaskVOS:
    torch.manual_seed(0)
    form = MaskVOSArchitecture(
        "test_resnet", key=None, matched=(0, 1, 2), value=8, widths=(16, 8), details=(2.0, 1.0, 1.0)
    )
    return build_mask_vos(form).eval()


@pytest.mark.parametrize("axes", [(3,), (2,), (2, 3)])
def test_the_mean_of_a_mirrored_image_is_the_mirrored_mean(network: MaskVOS, axes: tuple[int, ...]) -> None:
    image = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        mean = mean_over_flips(network.backbone, image)
        mirrored = mean_over_flips(network.backbone, image.flip(axes))
        plain = network.backbone(image)
    for one, other, alone in zip(mean, mirrored, plain, strict=True):
        assert one.shape == alone.shape
        torch.testing.assert_close(other, one.flip(axes))
        assert not torch.allclose(one, alone, rtol=0.01)


def test_the_backbone_comes_nearer_to_its_mean(network: MaskVOS) -> None:
    teacher, images = copy.deepcopy(network.backbone), torch.rand(2, 3, 64, 64)
    optimiser = torch.optim.Adam(network.backbone.parameters(), lr=1e-3)
    losses = []
    for _ in range(15):
        loss = flips_loss(network, teacher, images)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(one.grad is None for one in teacher.parameters())


def test_without_a_finer_match_only_keys_count() -> None:
    torch.manual_seed(0)
    network = build_mask_vos(MaskVOSArchitecture("test_resnet", key=16, value=8, widths=(16, 8), light=True)).eval()
    loss = flips_loss(network, copy.deepcopy(network.backbone), torch.rand(1, 3, 64, 64))
    assert 0 < float(loss.detach()) <= 4
